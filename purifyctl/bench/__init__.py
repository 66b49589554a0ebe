"""How fast an engine is on this machine: latency, throughput, ceilings, and how it compares with its peers.

timing.py    calls repeated until their times are steady; several things timed in turns
engine.py    latency and throughput of the networks alone, operations per second
stages.py    the stages of a run, each alone, beside the real `run`
peers.py     the same networks in other libraries, and the loop that a user would write
measure.py   all of it, for one bundle
"""

from purifyctl.bench.measure import bench
from purifyctl.config.bench import BenchOptions

__all__ = ["BenchOptions", "bench"]
