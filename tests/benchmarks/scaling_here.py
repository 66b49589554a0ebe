"""Whether the simulation of the pipeline (`pipeline_model.py`) gives the throughput that `run` reaches on this machine.

    python -m tests.benchmarks.scaling_here --photos DIR [--limit 256] [--rounds 5] [--format png]

In turns: decode, engine and encode alone, then `run`, over the same photographs, on the CPU. Of each stage it takes the
processor time, and how many cores its threads kept busy; of `run`, images/s, and how many cores it got, because other
programs may take some. What a run does beside these stages (reading, rows, messages, writing, committing) is measured
with the tests' small networks and pictures. It prints these parts, and how far the simulation is off.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from purifyctl.bench.stages import STAGES, stages
from purifyctl.config.formats import ImageFormat
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.default import default_engine
from purifyctl.images.pillow import check_damage, open_picture
from purifyctl.run import RunOptions, run
from purifyctl.sources import list_images, read_file
from tests import tiny
from tests.benchmarks.pipeline_model import Cost, Rest, predict
from tests.benchmarks.runs import tiny_engine

SHORT, LONG = 500, 2500  # pictures of the runs that show what a run costs beside its stages
FILES = 64  # that are opened and checked for damage


@dataclass(frozen=True)
class Round:
    """What one round measured."""

    costs: dict[str, Cost]  # of each stage alone
    images_per_s: float  # of `run`
    cores: float  # that `run` got


def measure(bundle: Bundle, folder: Path, image_format: ImageFormat, rounds: int) -> list[Round]:
    """Each stage alone and `run`, in turns."""
    n, found = len(list_images(folder)), []
    with stages(bundle, folder, image_format) as calls:
        for _ in range(rounds):
            costs = {}
            for name in STAGES:
                before = time.process_time()
                rate = calls[name]()
                used = time.process_time() - before
                costs[name] = Cost(used / n, used * rate / n)
            first = bundle.manifest.batch_size  # a short run, for what starting costs
            (short, _), (long, rate) = (_run(bundle, folder, image_format, limit) for limit in (first, n))
            found.append(Round(costs, rate, max(long - short, 0.0) / (n - first) * rate))
    return found


def _run(bundle: Bundle, folder: Path, image_format: ImageFormat, limit: int) -> tuple[float, float]:
    """Processor time of both processes of a run, and images/s once it was ready."""
    before = sum(_processor_s())
    with tempfile.TemporaryDirectory() as out:
        options = RunOptions(image_format=image_format, compare=False, limit=limit)
        summary = run(folder, bundle, Path(out) / "run", options).summary
    return sum(_processor_s()) - before, float(summary["this_call"]["images_per_s"])


def measure_rest(folder: Path, rounds: int) -> Rest:
    """What a run costs beside its stages: small networks, small pictures, a long run less a short one."""
    bundle = tiny_engine(folder / "tiny", batch_size=16)
    pictures = tiny.photographs(folder / "few", 32)
    of_stages = sum(cost.core_s for cost in measure(bundle, pictures, "png", 1)[0].costs.values())
    found = []
    for i in range(rounds):
        used = {}
        for n in (SHORT, LONG):
            files = _repeated(list(pictures.iterdir()), n, folder / f"{n}")
            before = _processor_s()
            run(files, bundle, folder / f"out-{n}-{i}", RunOptions(compare=False))
            used[n] = [after - earlier for after, earlier in zip(_processor_s(), before, strict=True)]
        parent, worker = ((a - b) / (LONG - SHORT) for a, b in zip(used[LONG], used[SHORT], strict=True))
        found.append((max(worker - of_stages, 0.0), parent))
    return Rest(*(statistics.median(each) for each in zip(*found, strict=True)))


def measure_files(folder: Path) -> dict[str, float]:
    """Milliseconds of one core, and bytes, of files like these: to open one, and to check whether its data is sound."""
    files = [read_file(image) for image in list_images(folder)[:FILES]]
    opened = [open_picture(data) for data in files]
    return {
        "bytes": sum(len(data) for data in files) / len(files),
        "pixels": sum(one.pixels for one in opened) / len(files),
        "open_ms": _ms_each(lambda: [open_picture(data) for data in files], len(files)),
        "check_damage_ms": _ms_each(lambda: [check_damage(one) for one in opened], len(files)),
    }


def _ms_each(call: Callable[[], object], n: int) -> float:
    times = []
    for _ in range(5):
        before = time.thread_time()
        call()
        times.append((time.thread_time() - before) / n * 1e3)
    return min(times)


def _processor_s() -> tuple[float, float]:
    """Of this process, and of those that it started and that have ended."""
    own, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, theirs.ru_utime + theirs.ru_stime


def _repeated(files: Sequence[Path], n: int, folder: Path) -> Path:
    """A folder with n links to these files."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for i in range(n):
            file = files[i % len(files)].absolute()
            (folder / f"{i:06}{file.suffix}").symlink_to(file)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--format", choices=("png", "jpeg"), default="png")
    given = parser.parse_args()
    bundle = default_engine()
    batch = bundle.manifest.batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [Path(image.file) for image in list_images(given.photos) if not image.span]
        photos = _repeated(files, given.limit // batch * batch, folder / "photographs")
        rest = measure_rest(folder, 3)
        print(json.dumps({"rest": asdict(rest), "files": measure_files(photos)}, indent=1), flush=True)
        with bundle.open(bundle.chain()[0]) as runner:
            requests = runner.concurrency
        n, ratios = len(list_images(photos)), []
        for one in measure(bundle, photos, given.format, given.rounds):
            predicted = predict(one.costs, rest, requests=requests, batch=batch, images=n, cores=one.cores).images_per_s
            ratios.append(predicted / one.images_per_s)
            each = (f"{stage} {1e3 * cost.core_s:.2f} ms on {cost.cores:.2f}" for stage, cost in one.costs.items())
            print(f"{', '.join(each)}; on {one.cores:.2f} cores predicted {predicted:.1f}, ", end="")
            print(f"run {one.images_per_s:.1f} images/s: {ratios[-1]:.3f}", flush=True)
    print(f"predicted by measured: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
