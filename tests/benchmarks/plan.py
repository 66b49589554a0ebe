"""Measures what planning a run costs, on synthetic entries, which are never read.

python -m tests.benchmarks.plan [--entries 1000000]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from purifyctl.images.names import Naming
from purifyctl.labels import imagenet_labels
from purifyctl.run.plan import Plan, write_plan
from purifyctl.sources import Found
from purifyctl.truth import planned_truth

PER_FOLDER = 1300  # as in ImageNet's training set


def entries(n: int) -> Iterator[Found]:
    for i in range(n):
        path = b"%08d/%09d.jpg" % (i // PER_FOLDER, i)
        yield Found(path, b"/photographs/" + path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    n = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.parquet"
        started = time.perf_counter()
        write_plan(
            file, entries(n), naming=Naming("png"), truth=planned_truth("", imagenet_labels(), None), batch_size=16
        )  # fmt: skip
        planned = time.perf_counter()
        plan = Plan(file)
        plan.part(plan.parts - 1)
        opened = time.perf_counter()
        size = file.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{n:,} entries: planned in {planned - started:.1f} s, {size:.0f} MB on disk; opened, and the last of "
        f"{plan.parts:,} parts read, in {opened - planned:.2f} s; peak memory {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
