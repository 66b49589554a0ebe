"""Measures what `run` promises: hostile inputs, long runs, resuming.

    python -m tests.benchmarks.runs hostile --photos DIR [--n 2000] [--rounds 3] [--crash]
    python -m tests.benchmarks.runs killer --photos DIR [--rounds 9]
    python -m tests.benchmarks.runs long --photos DIR [--n 100000]
    python -m tests.benchmarks.runs resume

`hostile`: the shipped engine, in turns, over photographs alone and over a folder in which a fifth of the files are
hostile. With `--crash`, one of these always kills the process that decodes it. `killer`: what such a file costs its
batch, and what it would cost to start a worker twice. `long`: rows only, the same photographs
again and again, with a tiny engine, so that the cost of the pipeline itself shows. `resume`: asks again for a finished
run of 100 parts.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq

from purifyctl.config import EngineConfig
from purifyctl.config.picture_options import DEFAULTS
from purifyctl.config.run import PLAN
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.default import default_engine
from purifyctl.run import RunOptions, RunResult, plan, run
from purifyctl.run.parent.worker_process import COMMAND
from purifyctl.run.plan import Plan
from purifyctl.run.worker import decoding
from tests import hostile, tiny
from tests.kills import children

CRASHER = "crasher.jpg"


def measure_hostile(photos: Path, n: int, rounds: int, crash: bool) -> None:
    """Print the throughput on a hostile folder and on a clean one, and check every row."""
    bundle = default_engine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hostile.build(photos, folder / "clean", n, 0.0, seed=0)
        expected = hostile.build(photos, folder / "hostile", n, 0.2, seed=0)
        worker = COMMAND
        if crash:
            expected[f"{n // 2:05} {CRASHER}".encode()] = frozenset({"crashed"})
            (folder / "hostile" / f"{n // 2:05} {CRASHER}").write_bytes(tiny.encoded(tiny.photograph(), "JPEG"))
            hostile.mark(folder / "hostile" / f"{n // 2:05} {CRASHER}")
            worker = (sys.executable, "-m", "tests.faulty_worker", f"decoder=segfault={hostile.MARK}")
        speeds: dict[str, list[float]] = {"clean": [], "hostile": []}
        for i in range(rounds):
            for kind, command in (("clean", COMMAND), ("hostile", worker)):
                out = folder / f"out-{kind}-{i}"
                done = run(folder / kind, bundle, out, RunOptions(strict=True), worker=command)
                speeds[kind].append(_ok_per_second(done))
        statuses = hostile.check(folder / f"out-hostile-{rounds - 1}", expected)
    shares = [one / other for one, other in zip(speeds["hostile"], speeds["clean"], strict=True)]
    print(f"{n} files, {round(n * 0.2)} of them hostile; rows: {statuses}")
    print(
        f"good images/s: {statistics.median(speeds['clean']):.1f} clean, {statistics.median(speeds['hostile']):.1f} "
        f"hostile; of clean: {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%}, {rounds} rounds)"
    )


def measure_killer(photos: Path, rounds: int) -> None:
    """Print how much longer a batch takes in which a file kills its decoder, twice as always."""
    bundle = default_engine()
    size, n = bundle.manifest.image_size, bundle.manifest.batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hostile.build(photos, folder / "photos", n, 0.0, seed=0)
        files = [np.fromfile(file, np.uint8) for file in sorted((folder / "photos").iterdir())]
        hostile.mark(sorted((folder / "photos").iterdir())[n // 2])
        marked = [np.fromfile(file, np.uint8) for file in sorted((folder / "photos").iterdir())]
        started = run(folder / "photos", bundle, folder / "out").summary["this_call"]["startup_s"]
    command = (sys.executable, "-m", "tests.faulty_decoder", "segfault", hostile.MARK, "")
    seconds: dict[str, list[float]] = {"usual": [], "killed": []}
    with (
        mock.patch.object(decoding, "COMMAND", command),
        decoding.DecoderProcess(size=size, batch_size=n, threads=2, options=DEFAULTS, timeout=60.0) as decoder,
    ):
        decoder.decode(files, lambda: None)
        for _ in range(rounds):
            for kind, batch in (("usual", files), ("killed", marked)):
                began = time.perf_counter()
                found = decoder.decode(batch, lambda: None)
                seconds[kind].append(time.perf_counter() - began)
                assert len(found.errors) == (kind == "killed")
    costs = sorted(killed - usual for killed, usual in zip(seconds["killed"], seconds["usual"], strict=True))
    print(
        f"a batch of {n}: {statistics.median(seconds['usual']):.2f} s; a file that kills its decoder costs "
        f"{statistics.median(costs):.2f} s more ({costs[0]:.2f} to {costs[-1]:.2f}, {rounds} rounds). A worker and its "
        f"engine start in {started:.1f} s"
    )


def _ok_per_second(done: RunResult) -> float:
    return float(done.summary["statuses"]["ok"] / done.summary["this_call"]["seconds"])


def measure_long(photos: Path, n: int) -> None:
    """Print throughput and memory from the first thousand to the last."""
    good = sorted(file for file in photos.rglob("*") if file.is_file())
    memory: list[tuple[float, float, float]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            workers = children(os.getpid())
            memory.append((time.time(), _mib(os.getpid()), sum(map(_mib, workers))))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photographs").mkdir()
        for i in range(n):
            (folder / "photographs" / f"{i:07}.jpg").symlink_to(good[i % len(good)].absolute())
        thread = threading.Thread(target=watch)
        thread.start()
        run(folder / "photographs", tiny_engine(folder, batch_size=16), folder / "out", RunOptions(image_format=None))
        stop.set()
        thread.join()
        finished = sorted(
            value.as_py() for value in pq.read_table(folder / "out" / "rows", columns=["finished"])["finished"]
        )
    bounds = [0, *range(1000, n + 1, max(1000, (n - 1000) // 9))]
    print("images, images/s, parent's memory in MiB, worker's")
    for first, last in itertools.pairwise(bounds):
        begun, ended = finished[first], finished[last - 1]
        seen = [(here, there) for at, here, there in memory if begun <= at <= ended] or [(0.0, 0.0)]
        here, there = (statistics.median(column) for column in zip(*seen, strict=True))
        print(f"{first:,} to {last:,}: {(last - first - 1) / (ended - begun):.1f}, {here:.0f}, {there:.0f}")


def _mib(pid: int) -> float:
    """Resident memory."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_resume() -> None:
    """Print how long it takes to ask again for a finished run of 100 parts, and check that it writes nothing."""
    with tempfile.TemporaryDirectory() as name, mock.patch.object(plan, "PART_SIZE", 4):
        folder = Path(name)
        (folder / "photographs").mkdir()
        for i in range(400):
            (folder / "photographs" / f"{i:03}.jpg").write_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG"))
        bundle, out = tiny_engine(folder, batch_size=4), folder / "out"
        run(folder / "photographs", bundle, out)
        before = _files(out)
        began = time.perf_counter()
        run(folder / "photographs", bundle, out)
        seconds = time.perf_counter() - began
        assert _files(out) == before
        print(f"a finished run of {Plan(out / PLAN).parts} parts: {seconds:.2f} s, and nothing was written")


def _files(out: Path) -> dict[Path, tuple[int, int]]:
    """Every file except locks, and when it was written last."""
    files = [file for file in out.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


def tiny_engine(folder: Path, batch_size: int) -> Bundle:
    config = EngineConfig(image_size=tiny.SIZE, batch_size=batch_size, classifier="tests.tiny:classifier")
    return build_engine(config, tiny.checkpoint(folder / "checkpoint"), folder / "bundle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    bad = what.add_parser("hostile")
    bad.add_argument("--photos", type=Path, required=True)
    bad.add_argument("--n", type=int, default=2000)
    bad.add_argument("--rounds", type=int, default=3)
    bad.add_argument("--crash", action="store_true")
    killer = what.add_parser("killer")
    killer.add_argument("--photos", type=Path, required=True)
    killer.add_argument("--rounds", type=int, default=9)
    long = what.add_parser("long")
    long.add_argument("--photos", type=Path, required=True)
    long.add_argument("--n", type=int, default=100_000)
    what.add_parser("resume")
    given = parser.parse_args()
    if given.what == "hostile":
        measure_hostile(given.photos, given.n, given.rounds, given.crash)
    elif given.what == "killer":
        measure_killer(given.photos, given.rounds)
    elif given.what == "long":
        measure_long(given.photos, given.n)
    else:
        measure_resume()


if __name__ == "__main__":
    main()
