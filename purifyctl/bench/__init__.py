"""How fast an engine is on this machine: latency, throughput, ceilings, and how it compares with its peers.

timing.py    calls repeated until their times are steady; several things timed in turns
engine.py    latency, throughput and operations per second of the networks by themselves
stages.py    the throughput of each stage of a run by itself, and of the real `run`
networks.py  the networks that a bundle was built from
peers.py     these networks in other libraries
loops.py     the loops that a user would write
measure.py   all of it, for one bundle
"""

from purifyctl.bench.measure import bench
from purifyctl.config.bench import BenchOptions

__all__ = ["BenchOptions", "bench"]
