"""The options of `purifyctl bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from purifyctl.config.devices import DeviceOption
from purifyctl.config.formats import ImageFormat
from purifyctl.config.options import check_minimums, option
from purifyctl.config.values import parse_list
from purifyctl.errors import ConfigError

Library = Literal["torch", "torch-compile", "onnxruntime"]
Loop = Literal["loop", "loop-compile", "loop-openvino"]  # what a user would write, from files to files
Peer = Library | Loop
LIBRARIES: tuple[Library, ...] = get_args(Library)
LOOPS: tuple[Loop, ...] = get_args(Loop)
PEERS: dict[str, Peer] = {name: name for name in (*LIBRARIES, *LOOPS)}


def parse_peers(text: str) -> tuple[Peer, ...]:
    """Read `torch,onnxruntime`. Raises ConfigError when there is no such peer."""
    return parse_list(text, PEERS, "peer")


@dataclass(frozen=True)
class BenchOptions(DeviceOption):
    """The options of `purifyctl bench`, beyond the bundle."""

    photos: Path | None = option(None, help="Photographs to run over. Default: those inside packages.")
    against: tuple[Peer, ...] = option(
        (),
        metavar="LIST",
        parse=parse_peers,
        help=f"Peers to compare with, some of {','.join(PEERS)}; a loop does all that run does. They are measured in "
        "turns with the engine.",
    )
    checkpoint: Path | None = option(
        None,
        help="The purifier that the bundle was built from, for peers. Default: what ships for its classifier.",
    )
    batch_sizes: tuple[int, ...] = option(
        (),
        flag="--batch-size",
        help="Number of images per call; repeatable. Default: powers of two up to the bundle's batch size.",
    )
    image_format: ImageFormat = option(
        "png", flag="--format", help="Format of the purified images, in the run that is measured."
    )
    rounds: int = option(3, minimum=1, help="How often everything is measured. The medians count.")

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.checkpoint is not None and not self.against:
            raise ConfigError("A checkpoint is for peers, and none is named.", hint="add --against torch")
