"""Adversarial images at sizes of their own: `run --size original` beside resizing them to the engine's square.

    python -m tests.benchmarks.own_pixels --photos DIR --work DIR [--sizes 224 299] [--images 257] [--attack fgsm]

The photographs lie in folders named after classes of ImageNet; every n-th is taken, at most as many as asked for.
`attack --size N` makes the sets against EfficientNet-Lite0; what lies in the work folder already is used again. It
prints top-1 accuracy in percent, with the number of right ones: of the attacked images without a purifier, and of both
ways to purify them; and the same of the clean photographs at these sizes.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from purifyctl.attacking import attack_folder
from purifyctl.config.attack import AttackOptions
from purifyctl.engine.default import default_engine
from purifyctl.images.sink import IMAGES
from purifyctl.photographs import read_pixels
from purifyctl.run import RunOptions, run
from purifyctl.sources import list_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 299])
    parser.add_argument("--images", type=int, default=257)
    parser.add_argument("--attack", default="fgsm")
    parser.add_argument("--eps", default="4/255")
    asked = parser.parse_args()
    print("| size | images | n | no purifier | `--size original` | resized to 256 |\n|---|---|---|---|---|---|")
    files = list_images(asked.photos)
    chosen = files[:: -(-len(files) // asked.images)]
    for size in asked.sizes:
        clean, attacked = asked.work / f"clean-{size}", asked.work / f"{asked.attack}-{size}"
        if not clean.exists():
            for file, pixels in zip(chosen, read_pixels(chosen, size)[0], strict=True):
                (clean / file.path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save((clean / file.path).with_suffix(".png"))
        if not attacked.exists():
            attack_folder(
                clean, attacked, AttackOptions(kind=asked.attack, eps=asked.eps, image_size=size, truth="folders")
            )
        for what, source in ((f"{asked.attack} {asked.eps}", attacked / IMAGES), ("clean", clean)):
            print(f"| {size} | {what} | {_row(source)} |", flush=True)


def _row(source: Path) -> str:
    with tempfile.TemporaryDirectory() as out:
        whole, square = (
            run(source, default_engine(), Path(out) / str(size), RunOptions(size=size, compare=True, truth="folders"))
            for size in ("original", None)
        )
    accuracy, n = whole.summary["accuracy"], whole.summary["rows"]
    found = (accuracy["unpurified_top1"], accuracy["top1"], square.summary["accuracy"]["top1"])
    return " | ".join([str(n), *(f"{share:.1%} ({round(share * n)})" for share in found)])


if __name__ == "__main__":
    main()
