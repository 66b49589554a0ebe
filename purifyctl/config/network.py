"""The purifier's network."""

from dataclasses import dataclass
from typing import Literal

from purifyctl.config.values import require


@dataclass(frozen=True)
class NetworkConfig:
    """A purifier network.

    `unet` is the paper's generator (pix2pix U-Net). `residual` predicts a correction to the image. `redraw` decides
    what a coarse version of the image shows, and draws that in its place.
    """

    kind: Literal["unet", "residual", "redraw"]  # the paper's generator; image + correction; drawing
    width: int = 64  # channels of the first level; pix2pix uses 64
    depth: int = 8  # levels below full resolution; the paper's U-Net-256 has 8
    reduce: int = 1  # redraw: pixels; it sees averages over squares of this side
    classes: int = 1000  # redraw: the number of classes of the classifier that it draws for

    def __post_init__(self) -> None:
        require(self.width >= 1, f"network.width is {self.width}; it must be at least 1.")
        low = {"unet": 5, "residual": 2, "redraw": 2}[self.kind]
        require(low <= self.depth <= 8, f"network.depth is {self.depth}; {self.kind} takes {low} to 8.")
        require(1 <= self.reduce <= 8, f"network.reduce is {self.reduce}; it must lie in 1 to 8.")
        require(self.classes >= 2, f"network.classes is {self.classes}; it must be at least 2.")
        require(
            self.kind == "redraw" or (self.reduce, self.classes) == (1, 1000),
            "network.reduce and network.classes are for redraw.",
        )

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this many pixels."""
        return 2 * self.reduce if self.kind == "redraw" else int(2**self.depth)
