"""What an engine does on this machine: latency, throughput, ceilings, and how far ahead of its peers it is.

timing.py    calls repeated until their times stand still; several things timed in turns
engine.py    latency and throughput of the networks alone, operations per second
peers.py     the same networks in other libraries, and the loop that one would script
job.py       all of it, for one bundle, with the stages and the real `run` beside their ceiling
"""

from purifyctl.bench.job import PEERS, BenchOptions, bench

__all__ = ["PEERS", "BenchOptions", "bench"]
