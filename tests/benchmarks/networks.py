"""How long each network of a bundle takes alone: full batches, from as many threads as it answers at once.

python -m tests.benchmarks.networks BUNDLE [--rounds 5]
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purifyctl.engine.backends import Runner
from purifyctl.engine.bundle import load_bundle
from purifyctl.images.synthetic import natural_images

CALLS = 24  # of each network in a round


def ms_per_image(runner: Runner, images: NDArray[np.uint8]) -> float:
    with ThreadPoolExecutor(runner.concurrency) as threads:
        began = time.perf_counter()
        list(threads.map(lambda _: runner.infer(images), range(CALLS)))
        return (time.perf_counter() - began) * 1e3 / CALLS / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    images = natural_images(bundle.manifest.batch_size, bundle.manifest.image_size)
    with ExitStack() as stack:
        runners = {name: stack.enter_context(bundle.open(name)) for name in bundle.manifest.networks}
        for runner in runners.values():
            runner.infer(images)
        found: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(arguments.rounds):
            for name, runner in runners.items():
                found[name].append(ms_per_image(runner, images))
    for name, times in found.items():
        print(f"{name}: {statistics.median(times):.2f} ms per image ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
