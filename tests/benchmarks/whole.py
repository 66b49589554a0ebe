"""Whole pictures beside squares: speed, memory, exactness, which overlap is needed, and the rim at a picture's edge.

    python -m tests.benchmarks.whole --photos DIR [--engine BUNDLE] [--rounds 3] [--parts speed memory overlap rim]

Speed is measured in turns, by the clock and in processor time, because other programs slow both down. Starting does not
count. A megapixel is one of the purified images.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from purifyctl.api.purifier import Purifier
from purifyctl.checkpoint import load_purifier
from purifyctl.engine.overlap import AGREES
from purifyctl.engine.tiles import Grid, Pixels, Tiling, purify_whole
from purifyctl.images.pillow import decode_picture
from purifyctl.photographs import to_pixels, to_tensor
from purifyctl.run.rows import read_rows
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images

PARTS = ("speed", "memory", "overlap", "rim")
LARGE = (3000, 4000)  # height and width of the large picture, in pixels
SEVERAL = 3  # large pictures
RIM = 4  # pixels
OVERLAPS = (0, 16, 32, 48, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=64, help="photographs of each run")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    asked = parser.parse_args()
    files = list_images(asked.photos)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photos = _copy([file.path for file in files[: asked.images]], asked.photos, work / "photos")
        large = _large([decode_picture((asked.photos / file.path).read_bytes()).pixels for file in files[:60]])
        (work / "large").mkdir()
        Image.fromarray(large).save(work / "large" / "large.jpg", quality=92)
        (work / "several").mkdir()
        for i in range(SEVERAL):
            (work / "several" / f"{i}.jpg").write_bytes((work / "large" / "large.jpg").read_bytes())
        engine = ["--engine", str(asked.engine)] if asked.engine else []
        pictures = [decode_picture(file.read_bytes()).pixels for file in sorted(photos.iterdir())]
        if "speed" in asked.parts:
            _speed(work, photos, engine, asked.rounds)
        if "memory" in asked.parts:
            _memory(work, engine)
        if "overlap" in asked.parts:
            _overlaps(large[:1008, :1504], pictures)
        if "rim" in asked.parts:
            _rim(pictures)


def _copy(paths: Sequence[object], source: Path, into: Path) -> Path:
    into.mkdir()
    for i, path in enumerate(paths):
        (into / f"{i:04}{Path(str(path)).suffix}").write_bytes((source / str(path)).read_bytes())
    return into


def _large(pictures: Sequence[Pixels]) -> Pixels:
    """Photographs side by side, each enlarged, until the large picture is full."""
    height, width = LARGE
    canvas, coming = Image.new("RGB", (width, height)), itertools.cycle(pictures)
    for top, left in itertools.product(range(0, height, 600), range(0, width, 800)):
        canvas.paste(Image.fromarray(next(coming)).resize((800, 600), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(canvas)


def _one_of(source: Path, work: Path) -> Path:
    """A folder with the first of the pictures."""
    folder = work / f"one-of-{source.name}"
    folder.mkdir(exist_ok=True)
    first = min(source.iterdir())
    (folder / first.name).write_bytes(first.read_bytes())
    return folder


def _run(source: Path, out: Path, *options: str) -> tuple[float, float, float]:
    """Megapixels of purified images, the seconds that the devices took for them, and all seconds of the processor."""
    command = [sys.executable, "-m", "purifyctl", "run", str(source), "--out", str(out), "--on-existing", "overwrite"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "--json", *options], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = [row for part in sorted((out / "rows").glob("part-*")) for row in read_rows(part)]
    pixels = sum(row["purified_height"] * row["purified_width"] for row in rows)
    return pixels / 1e6, json.loads(done.stdout)["this_call"]["seconds"], processor


def _speed(work: Path, photos: Path, engine: Sequence[str], rounds: int) -> None:
    for classifier in ((), ("--classifier", "none")):
        kinds = {
            "squares": (photos, ()),
            "whole photographs": (photos, ("--size", "original")),
            "4000x3000": (work / "several", ("--size", "original")),
        }
        rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, (source, options) in kinds.items():
                command = (work / "out", *engine, *classifier, *options, "--no-compare")
                one, _, starting = _run(_one_of(source, work), *command)
                megapixels, seconds, processor = _run(source, *command)
                # one picture's own share of `starting` is left out on both sides
                rates[kind].append((megapixels / seconds, (megapixels - one) / max(processor - starting, 1e-3)))
        base = rates["squares"]
        print(f"\nmegapixels/s {' '.join(classifier) or 'with the classifier'}, {rounds} rounds in turns")
        for kind, found in rates.items():
            clock, processor = (
                statistics.median(one[i] / other[i] for one, other in zip(found, base, strict=True)) for i in (0, 1)
            )
            rate = statistics.median(one for one, _ in found)
            print(f"  {kind:18} {rate:6.2f}   of that of squares: {clock:.2f}, in processor time {processor:.2f}")


def _memory(work: Path, engine: Sequence[str]) -> None:
    """The largest resident memory of one call, by its largest process, in MiB."""
    small = work / "small"
    small.mkdir()
    Image.new("RGB", (256, 256), "grey").save(small / "small.png")
    code = "import sys, resource, subprocess; subprocess.run(sys.argv[1:], check=True, capture_output=True)"
    code += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    print("\nMiB of the largest process")
    base = 0.0
    for name, source in (
        ("256x256", small),
        ("one of 4000x3000", work / "large"),
        (f"{SEVERAL} of 4000x3000", work / "several"),
    ):
        command = [sys.executable, "-c", code, sys.executable, "-m", "purifyctl", "run", str(source)]
        command += ["--out", str(work / f"out-{source.name}"), "--size", "original", *engine]
        most = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
        base = base or most
        print(f"  {name:18} {most:6.0f}   added: {most - base:.0f}")


def _overlaps(large: Pixels, photographs: Sequence[Pixels]) -> None:
    """How far joined pictures differ from those that were purified at once, by torch, for several overlaps."""
    checkpoint = load_purifier(shipped_checkpoint())
    purifier = Purifier.from_checkpoint()

    @torch.inference_mode()
    def purify(tiles: Pixels) -> Pixels:
        return to_pixels(purifier(to_tensor(tiles)))

    pictures = [large, *photographs[:32]]
    whole = [purify(picture[None].copy())[0] for picture in pictures]
    print(f"\noverlap: pixels that differ by more than {AGREES:g} grey level, largest difference, tiles of 4000x3000")
    for overlap in OVERLAPS:
        tiling = Tiling(256, checkpoint.network.size_multiple, overlap, overlap // 4)
        found = [
            np.abs(purify_whole(picture, tiling, 16, purify).astype(np.int16) - expected).max(2)
            for picture, expected in zip(pictures, whole, strict=True)
        ]
        differ = sum(int((each > AGREES).sum()) for each in found) / sum(each.size for each in found)
        tiles = len(Grid(*LARGE, tiling))
        worst = max(int(each.max()) for each in found)
        share = LARGE[0] * LARGE[1] / 256**2 / tiles
        print(f"  {overlap:3}: {differ:.4%}, {worst:3}, {tiles} tiles, {share:.0%} of their pixels used")


def _rim(photographs: Sequence[Pixels]) -> None:
    """How far the outermost pixels differ from those of a picture with 64 pixels of its mirror image around it."""
    net = Purifier.from_checkpoint().net
    tiling = Tiling(256, 16, 16, 4)

    @torch.inference_mode()
    def purify(tiles: Pixels) -> Pixels:
        return to_pixels(net(to_tensor(tiles)))

    ramp = np.linspace(0, 255, 512)
    smooth = np.stack(np.broadcast_arrays(ramp, ramp[:, None], (ramp + ramp[:, None]) / 2), 2).round().astype(np.uint8)
    kinds = {
        "flat grey": [np.full((512, 512, 3), 128, np.uint8)],
        "smooth gradient": [smooth],
        "photographs": [picture[:320, :320] for picture in photographs if min(picture.shape[:2]) >= 320],
    }
    print(f"\ngrey levels at the edge, mean and largest in the outermost {RIM} pixels: the network alone, and in tiles")
    for kind, pictures in kinds.items():
        found: list[list[Pixels]] = [[], []]
        for picture in pictures:
            around = np.pad(picture, ((64, 64), (64, 64), (0, 0)), mode="reflect")
            expected = purify(around[None])[0, 64:-64, 64:-64].astype(np.int16)
            for i, made in enumerate((purify(picture[None].copy())[0], purify_whole(picture, tiling, 16, purify))):
                differs = np.abs(made - expected).max(2)
                differs[RIM:-RIM, RIM:-RIM] = -1
                found[i].append(differs[differs >= 0])
        levels = "   ".join(f"{each.mean():5.2f} {each.max():3}" for each in map(np.concatenate, found))
        print(f"  {kind:16} {levels}   n = {len(pictures)}")


if __name__ == "__main__":
    main()
