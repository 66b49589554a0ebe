"""How fast purifiers of other shapes would be here: the shipped one and relatives with about as many multiply-adds.

    python -m tests.benchmarks.shapes [--rounds 5] [--precision bf16] [--precision int8-bf16]

Weights are random, so it says nothing about what a shape can learn. It prints a table as Markdown: multiply-adds per
image of 256x256, and milliseconds of a core per image in OpenVINO, the fastest of the rounds, in turns; in brackets the
shipped shape's time divided by it. Processor time also holds on a machine that does other work.
"""

import argparse
import itertools
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from purifyctl.config import EnginePrecision, is_bf16, is_int8
from purifyctl.engine.backends import Runner, open_runner
from purifyctl.engine.graphs import count_multiply_adds, export_onnx, purifier_graph
from purifyctl.engine.kept import keep_ends_in_fp32
from purifyctl.engine.quantize import quantize_purifier
from purifyctl.images.synthetic import natural_images
from purifyctl.nn import ResidualPurifier
from purifyctl.photographs import Pixels

SIZE, BATCH, CALLS = 256, 16, 4  # calls of each network in a round


@dataclass(frozen=True)
class Shape:
    """A purifier like `ResidualPurifier`: correction by a U-Net on blocks of pixels."""

    block: int  # side of a block of pixels that becomes channels
    channels: tuple[int, ...]  # of each level
    down: int = 2  # convolutions of a block on the way down, after the strided one
    up: int = 1  # convolutions of a block on the way up
    added: bool = True  # blocks are added to their input; False: plain convolutions
    activation: type[nn.Module] = nn.ReLU

    def __str__(self) -> str:
        text = f"{self.block}x{self.block} blocks, {'-'.join(map(str, self.channels))}"
        text += f", {self.down} convolutions down, {self.up} up" if (self.down, self.up) != (2, 1) else ""
        text += "" if self.added else ", nothing added inside blocks"
        return text + ("" if self.activation is nn.ReLU else f", {self.activation.__name__}")


SHIPPED = Shape(2, (32, 48, 64, 96))
SHAPES = (
    Shape(2, (32, 48, 64, 96), added=False),
    Shape(2, (32, 48, 64, 96), activation=nn.LeakyReLU),
    Shape(2, (32, 48, 64, 96), activation=nn.SiLU),
    Shape(2, (32, 48, 64, 96, 128), down=1),
    Shape(4, (64, 96, 128)),
    Shape(4, (48, 96, 128, 192)),
    Shape(4, (32, 96, 128, 160)),
    Shape(4, (32, 96, 160, 160)),
    Shape(4, (32, 112, 128, 128)),
    Shape(4, (16, 96, 128, 192)),
    Shape(8, (128, 192)),
)


class Purifier(nn.Module):
    """The network of a shape, with random weights in all of its layers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, pixels = shape, 3 * shape.block**2
        first, *_ = shape.channels
        self.stem = nn.Conv2d(pixels, first, 3, padding=1)
        self.strided = nn.ModuleList(
            nn.Sequential(shape.activation(), nn.Conv2d(n_in, n_out, 3, stride=2, padding=1))
            for n_in, n_out in itertools.pairwise(shape.channels)
        )
        self.blocks = nn.ModuleList(self._convolutions(n, shape.down) for n in shape.channels[1:])
        self.enlarge = nn.ModuleList(
            nn.Sequential(shape.activation(), nn.Conv2d(n_in, 4 * n_out, 1), nn.PixelShuffle(2))
            for n_in, n_out in zip(shape.channels[:0:-1], shape.channels[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(self._convolutions(n, shape.up) for n in shape.channels[-2:0:-1])
        self.head = nn.Sequential(shape.activation(), nn.Conv2d(first, pixels, 3, padding=1))

    def _convolutions(self, channels: int, n: int) -> nn.Sequential:
        layers = ((self.shape.activation(), nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(n))
        return nn.Sequential(*itertools.chain.from_iterable(layers))

    def _through(self, block: nn.Module, h: Tensor) -> Tensor:
        made: Tensor = block(h)
        return h + made if self.shape.added else made

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(nn.functional.pixel_unshuffle(x * 2 - 1, self.shape.block))
        skips = []
        for strided, block in zip(self.strided, self.blocks, strict=True):
            skips.append(h)
            h = self._through(block, strided(h))
        for level, enlarge in enumerate(self.enlarge):
            h = enlarge(h) + skips.pop()
            if level < len(self.merge):
                h = self._through(self.merge[level], h)
        return torch.clamp(x + nn.functional.pixel_shuffle(self.head(h), self.shape.block), 0, 1)


def write(net: nn.Module, precision: EnginePrecision, images: Pixels, file: Path) -> None:
    """A purifier's graph, as an engine has it in this precision."""
    export_onnx(purifier_graph(net), file, SIZE)
    if is_int8(precision):
        quantize_purifier(file, images, symmetric=False)
    if is_bf16(precision):
        keep_ends_in_fp32(file)


def core_ms(runner: Runner, images: Pixels) -> float:
    """Milliseconds of a core per image."""
    began = time.process_time()
    for _ in range(CALLS):
        runner.infer(images)
    return (time.process_time() - began) * 1e3 / CALLS / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", action="append", choices=("fp32", "bf16", "int8", "int8-bf16"))
    given = parser.parse_args()
    precisions: list[EnginePrecision] = given.precision or ["bf16", "int8-bf16"]
    torch.manual_seed(0)
    assert count_multiply_adds(purifier_graph(Purifier(SHIPPED)), SIZE) == count_multiply_adds(
        purifier_graph(ResidualPurifier()), SIZE
    )
    images = natural_images(BATCH, SIZE)
    adds: dict[Shape, int] = {}
    runners: dict[tuple[Shape, EnginePrecision], Runner] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for shape in (SHIPPED, *SHAPES):
            net = Purifier(shape).eval()
            adds[shape] = count_multiply_adds(purifier_graph(net), SIZE)
            for precision in precisions:
                write(net, precision, images[:4], file := folder / f"{len(runners)}.onnx")
                opened = open_runner("openvino", file, precision=precision, image_size=SIZE, batch_size=BATCH)
                runners[shape, precision] = stack.enter_context(opened)
        found: dict[tuple[Shape, EnginePrecision], float] = {}
        for _, (key, runner) in itertools.product(range(given.rounds), runners.items()):
            found[key] = min(found.get(key, float("inf")), core_ms(runner, images))
    print(f"| shape | G multiply-adds | {' | '.join(precisions)} |")
    print(f"|---|---|{'---|' * len(precisions)}")
    for shape, count in adds.items():
        cells = [f"{found[shape, p]:.2f} ({found[SHIPPED, p] / found[shape, p]:.2f})" for p in precisions]
        print(f"| {shape} | {count / 1e9:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
