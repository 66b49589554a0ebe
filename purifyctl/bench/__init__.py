"""What an engine does on this machine: latency, throughput, ceilings, and how far ahead of its peers it is.

timing.py    calls repeated until their times stand still; several things timed in turns
engine.py    latency and throughput of the networks alone, operations per second
stages.py    decode, engine and encode each alone, and `run` from end to end
peers.py     the same networks in other libraries
job.py       all of it, for one bundle
"""

from purifyctl.bench.job import BenchOptions, bench, parse_peers, parse_sizes

__all__ = ["BenchOptions", "bench", "parse_peers", "parse_sizes"]
