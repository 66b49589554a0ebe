"""Whether the simulation of the pipeline (`pipeline_model.py`) gives the throughput that `run` reaches on this machine.

    python -m tests.benchmarks.scaling_here --photos DIR [--limit 256] [--rounds 5] [--format png]

In turns: decode, engine and encode alone, then `run`, over the same photographs, on the CPU. Of each stage it takes the
processor time and how many cores it kept busy; of the machine, how many cores the engine's threads got. What a run does
beside these stages (reading, rows, messages, writing, committing) is measured with the tests' small networks and
pictures, from the difference of a long and a short run. It prints these parts, and how far the simulation is off.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from purifyctl.bench.stages import STAGES, stages
from purifyctl.bench.timing import in_turns
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


def measure(bundle: Bundle, folder: Path, image_format: str, rounds: int) -> list[tuple[dict[str, Cost], float]]:
    """For each round: the cost of each stage alone, and images/s of `run`."""
    n = len(list_images(folder))
    costs: dict[str, list[Cost]] = {name: [] for name in STAGES}

    def timed(name: str, call: Callable[[], float]) -> float:
        before = time.process_time()
        rate = call()
        used = time.process_time() - before
        if name in costs:
            costs[name].append(Cost(used / n, used * rate / n))
        return rate

    with stages(bundle, folder, image_format) as calls:  # type: ignore[arg-type]
        turns = {name: lambda name=name, call=call: timed(name, call) for name, call in calls.items()}  # type: ignore[misc]
        rates = in_turns(turns, rounds)
    return [({name: costs[name][i] for name in STAGES}, rate) for i, rate in enumerate(rates["run"])]


def measure_rest(folder: Path, rounds: int) -> Rest:
    """What a run costs beside its stages: small networks, small pictures, a long run less a short one."""
    bundle = tiny_engine(folder / "tiny", batch_size=16)
    pictures = tiny.photographs(folder / "few", 32)
    of_stages = sum(cost.core_s for cost in measure(bundle, pictures, "png", 1)[0][0].values())
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
        for costs, rate in measure(bundle, photos, given.format, given.rounds):
            predicted = predict(costs, rest, requests=requests, batch=batch, images=n).images_per_s
            ratios.append(predicted / rate)
            each = ", ".join(f"{stage} {1e3 * cost.core_s:.2f} ms on {cost.cores:.2f}" for stage, cost in costs.items())
            print(f"{each}; predicted {predicted:.1f}, run {rate:.1f} images/s: {ratios[-1]:.3f}", flush=True)
    print(f"predicted by measured: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
