"""Kill a run at random points, resume it, and compare the result with that of an undisturbed run.

    python -m tests.kills [--images 2000] [--kills 100] [--seed 0] [--tar | --gate | --grow]

Each call of `purifyctl run` is killed at a random moment after its first image: the parent or its worker, by SIGKILL,
SIGTERM or SIGINT. If a run ends before there were enough kills, it is compared, and another one is begun. With --grow,
half of the images are only added to the source between the calls.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq

from purifyctl.engine.bundle import Bundle
from purifyctl.run import RunOptions, plan, run
from tests import tiny
from tests.forking import FORKER, CommandPopen

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMES = ("_ms", "finished", "batch_size")  # columns that depend on the clock
ENDS = (
    0,
    130,
    *(-number for number in SIGNALS),
)  # the signal itself ended it: before the first image, or after the last
PART_SIZE = 8  # inputs, for runs over few: two batches
GROWTH = 6  # fewer images than this are added between two calls
LONGEST_S = 0.5  # of work between two kills


def rows_of(out: Path) -> list[dict]:
    """All rows of finished parts, in order, without what depends on the clock."""
    rows = [row for part in sorted((out / "rows").iterdir()) for row in pq.read_table(part).to_pylist()]
    return [{k: v for k, v in row.items() if not k.endswith(TIMES)} for row in rows]


def files_of(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in (out / "images").rglob("*") if f.is_file()}


def assert_same(out: Path, undisturbed: Path) -> None:
    """The same rows, the same images, and no other file. If the plan grew in other steps, the parts are others."""
    if len(list(out.glob("plan*"))) == len(list(undisturbed.glob("plan*"))):
        assert rows_of(out) == rows_of(undisturbed)
    else:
        assert [one | {"batch": 0} for one in sorted(rows_of(out), key=str)] == [
            one | {"batch": 0} for one in sorted(rows_of(undisturbed), key=str)
        ]
        assert files_of(out) == files_of(undisturbed)
        return
    assert files_of(out) == files_of(undisturbed)
    assert sorted(p.name for p in (out / "rows").iterdir()) == sorted(p.name for p in (undisturbed / "rows").iterdir())


def run_in_small_parts(source: Path, bundle: Bundle, out: Path, options: RunOptions | None = None) -> Path:
    """A run that nothing disturbs, in this process: where it is."""
    with mock.patch.object(plan, "PART_SIZE", PART_SIZE):
        assert run(source, bundle, out, options).exit_code == 0
    return out


def command(source: Path, bundle: Bundle, out: Path, *more: str) -> list[str]:
    words = ["run", source, "--out", out, "--engine", bundle.path, "--quiet", *more]
    return [sys.executable, "-m", "purifyctl", *map(str, words)]


def faulty(*faults: str) -> tuple[str, ...]:
    """The command of a worker in which something goes wrong, as `tests.faulty_worker` says."""
    return (sys.executable, "-m", "tests.faulty_worker", *faults)


def run_killed(words: list[str], out: Path, chance: random.Random) -> tuple[str, int]:
    """One call, killed once: what was done to it, and how it ended."""
    process = CommandPopen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    before = images_in(out)
    while process.poll() is None and images_in(out) == before:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, LONGEST_S))
    who, number = chance.choice(("parent", "worker")), chance.choice(SIGNALS)
    workers = children(process.pid)
    who, target = ("worker", workers[0]) if who == "worker" and workers else ("parent", process.pid)
    try:
        os.kill(target, number)
    except ProcessLookupError:
        return "nothing: it was done", process.wait()
    return f"{number.name} to the {who}", process.wait()


def images_in(out: Path) -> int:
    return sum(name.endswith((".png", ".jpg")) for _, _, names in os.walk(out / "images") for name in names)


def children(pid: int) -> list[int]:
    """The child processes of all threads of a process, without one that only forks others."""
    found = []
    with contextlib.suppress(OSError):  # it has ended since
        found = [word for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]
    return [int(word) for word in found if _name(word) != FORKER]


def _name(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_bytes().strip()
    return b""


def actors() -> list[int]:
    """Processes of `run --ray`'s actors, on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that has ended since
            if "Purifier" in (folder / "cmdline").read_text(errors="replace").split("\0")[0]:
                found.append(int(folder.name))
    return found


def grow(source: Path, complete: Path, n: int) -> None:
    """Add up to `n` of the images that are missing in a source."""
    missing = {file.name for file in complete.iterdir()} - {file.name for file in source.iterdir()}
    for name in sorted(missing)[:n]:
        os.link(complete / name, source / name)


def harass(
    source: Path,
    bundle: Bundle,
    folder: Path,
    undisturbed: Path,
    *more: str,
    kills: int,
    seed: int,
    grows: bool = False,
) -> Counter[str]:
    """Kill runs `kills` times, and check that each ends as an undisturbed one does. Counts what was done.

    `grows`: each run begins with every second image, and some of the others are added before each call.
    """
    chance, done, runs = random.Random(seed), Counter[str](), 0
    while done.total() < kills:
        out = folder / f"run-{runs}"
        runs += 1
        complete = source
        if grows:
            complete, source = source, folder / f"source-{runs}"
            source.mkdir()
            for file in sorted(complete.iterdir())[::2]:
                os.link(file, source / file.name)
        words = command(source, bundle, out, *more)
        while done.total() < kills:
            if grows:
                grow(source, complete, chance.randrange(GROWTH))
            what, code = run_killed(words, out, chance)
            assert code in ENDS, (what, code)
            if what.startswith("nothing"):
                break
            done[what] += 1
            print(f"{done.total()}: {what}", file=sys.stderr)
            if code == 0:  # only the worker was hit, and the run continued to its end
                break
        if grows:
            grow(source, complete, sys.maxsize)
        assert subprocess.run(words, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0
        assert_same(out, undisturbed)
        print(f"run {runs} ended as the undisturbed one", file=sys.stderr)
        source = complete
    done["runs"] = runs
    return done


def pictures(folder: Path, n: int, *, pillow: bool) -> Path:
    """`folder` with n pictures of three sizes, JPEG; `pillow`: every second one is a GIF."""
    folder.mkdir()
    for i in range(n):
        kind = "GIF" if pillow and i % 2 else "JPEG"
        photo = tiny.photograph(((90, 60), (64, 64), (150, 101))[i % 3], seed=i)
        (folder / f"{i:05}.{kind.lower()}").write_bytes(tiny.encoded(photo, kind))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--tar", action="store_true", help="runs that put their images into archives")
    kind.add_argument("--gate", action="store_true", help="runs that purify about half of them")
    parser.add_argument("--grow", action="store_true", help="half of the images come later")
    parser.add_argument("--original", action="store_true", help="pictures of several sizes keep theirs")
    parser.add_argument("--pillow", action="store_true", help="every second file is a GIF, which Pillow decodes")
    arguments = parser.parse_args()
    more = ["--tar"] if arguments.tar else ["--gate"] if arguments.gate else []
    more += ["--size", "original"] if arguments.original else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = tiny.bundle(folder)
        source = pictures(folder / "pictures", arguments.images, pillow=arguments.pillow)
        undisturbed = folder / "undisturbed"
        subprocess.run(command(source, bundle, undisturbed, *more), cwd=ROOT, check=True)
        done = harass(
            source, bundle, folder, undisturbed, *more, kills=arguments.kills, seed=arguments.seed, grows=arguments.grow
        )
    print(f"{arguments.images} images; every run ended as the undisturbed one: {dict(done)}")


if __name__ == "__main__":
    main()
