"""Measures what a forked worker saves a test: runs over ten photographs with real starts and with forks, in turns.

python -m tests.benchmarks.starts [--rounds 9]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from purifyctl import console
from purifyctl.run import run
from tests import tiny
from tests.warm_workers import forked_workers


def measure(rounds: int) -> None:
    """Print the median time of a run, for each way to start its worker and its decoder."""
    console.configure(quiet=True)
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {"started": nullcontext, "forked": forked_workers}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, photographs = tiny.bundle(folder), tiny.photographs(folder / "photos", 10)
        for i in range(rounds + 1):
            for way, start in ways.items():
                with start():
                    began = time.perf_counter()
                    assert run(photographs, bundle, folder / f"{way}-{i}").exit_code == 0
                    seconds[way].append(time.perf_counter() - began)
    for way, found in seconds.items():
        found = found[1:]  # the first one imports
        print(f"{way}: {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f}), {rounds} rounds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    measure(parser.parse_args().rounds)
