"""Where the processor's time of a `run` goes: each step alone, and the whole run, in milliseconds of a core per image.

    python -m tests.benchmarks.profile --photos DIR [--engine BUNDLE] [--limit 480] [--rounds 3] [--compare] [--gate]

Processor time, and no time on a clock: it also holds on a machine that does other work. The fastest of the rounds
counts for a step. What a whole run takes is the difference between two runs, one over a third of the photographs, so
that starting does not count. With `--gate`, it is a gated run over photographs that are hardly ever flagged: they are
scored and classified, and left where they are.
"""

import argparse
import pickle
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from purifyctl.engine.bundle import load_bundle
from purifyctl.engine.chain import open_chain
from purifyctl.engine.default import default_engine
from purifyctl.images import Decoder, encode
from purifyctl.images.pillow import check_damage, open_picture
from purifyctl.metrics import divergence
from purifyctl.run import RunOptions, run
from purifyctl.run.messages import Done
from purifyctl.run.rows import Row
from purifyctl.run.worker.writing import mean_change
from purifyctl.sources import list_images, read_file


def core_ms(call: Callable[[], object], n: int, rounds: int) -> float:
    """Milliseconds of a core per image of `n`; the fastest of the rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times) * 1e3 / n


def of_run(source: Path, bundle: Any, options: RunOptions) -> float:
    """Seconds of a core that a whole run takes, in both of its processes."""
    with tempfile.TemporaryDirectory() as out:
        before = spent()
        run(source, bundle, Path(out) / "run", options)
        return spent() - before


def spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--limit", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compare", action="store_true")
    what.add_argument("--gate", action="store_true")
    given = parser.parse_args()
    options = (
        RunOptions(gated=True, unflagged="leave", compare=False) if given.gate else RunOptions(compare=given.compare)
    )
    bundle = load_bundle(given.engine) if given.engine else default_engine(None, None)
    full, size = bundle.manifest.batch_size, bundle.manifest.image_size
    images = list_images(given.photos)[:96]
    n, files = len(images), [read_file(image) for image in images]
    steps: dict[str, float] = {}

    def measure(name: str, call: Callable[[], object], times: int = 1) -> None:
        steps[name] = times * core_ms(call, n, given.rounds)

    batches = [files[i : i + full] for i in range(0, n, full)]
    with open_chain(bundle, bundle.chain(apart=True)) as chain, Decoder(size=size, batch_size=full, threads=2) as dali:
        decoded = [dali.decode(batch).images for batch in batches]
        opened = [open_picture(file) for file in files]
        measure("read", lambda: [read_file(image) for image in images])
        measure("header", lambda: [open_picture(file) for file in files])
        measure("damage check", lambda: [check_damage(one) for one in opened])
        everything = core_ms(lambda: [dali.decode(batch) for batch in batches], n, given.rounds)
        steps["decode and resize"] = everything - steps["header"] - steps["damage check"]
        purified = [chain.purify(images)[0] for images in decoded]
        if given.gate:
            with bundle.open("gate") as gate:
                measure("score", lambda: [gate.infer(images) for images in decoded])
        else:
            measure("purify", lambda: [chain.purify(images) for images in decoded])
        measure("classify", lambda: [chain.classify(images) for images in purified], 2 if given.compare else 1)
        answers = np.concatenate([chain.classify(images) for images in purified])
    before, after = np.concatenate(decoded), np.concatenate(purified)
    if not given.gate:
        measure("mean change", lambda: [mean_change(one, other) for one, other in zip(after, before, strict=True)])
        measure("encode PNG", lambda: [encode(image, "png") for image in after])
        encoded = [encode(image, "png") for image in after]
        with tempfile.TemporaryDirectory() as folder:
            measure("write", lambda: [(Path(folder) / f"{i}.png").write_bytes(data) for i, data in enumerate(encoded)])
    rows = [
        Row(str(image.path), top_index=[1] * 5, top_label=["a class"] * 5, top_probability=[0.2] * 5)
        for image in images
    ]
    if given.compare:
        measure("divergence", lambda: [divergence(one, one) for one in answers])
    measure("send rows", lambda: pickle.loads(pickle.dumps(Done(0, rows))))
    for name, ms in steps.items():
        print(f"| {name} | {ms:.2f} |")
    print(f"| sum | {sum(steps.values()):.2f} |")
    few, many = (replace(options, limit=limit) for limit in (given.limit // 3, given.limit))
    whole = partial(of_run, given.photos, bundle)
    wholes = [(whole(many) - whole(few)) * 1e3 / (given.limit - given.limit // 3) for _ in range(given.rounds)]
    print(f"| run, of both processes | {min(wholes):.2f} | ({', '.join(f'{ms:.2f}' for ms in wholes)})")
    print(f"starting and ending a run: {whole(few) - min(wholes) * (given.limit // 3) / 1e3:.2f} s of a core")


if __name__ == "__main__":
    main()
