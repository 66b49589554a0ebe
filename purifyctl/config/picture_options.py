"""The options of every command that reads pictures: which ones it takes, and how they are shown."""

from dataclasses import dataclass
from typing import Literal

from purifyctl.config.options import check_minimums, option
from purifyctl.config.values import MAX_PIXELS
from purifyctl.errors import ConfigError

Colour = Literal["srgb", "raw"]
Damaged = Literal["fail", "keep"]
DecoderName = Literal["dali", "pillow", "tifffile", "netpbm"]  # who decoded a picture; netpbm: images/netpbm.py


def parse_colour(text: str) -> str:
    """Read a colour, as a name or as #rrggbb. Returns the latter.

    Raises
    ------
    ConfigError
        There is no such colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ConfigError(f"There is no colour {text!r}.", hint="write a name such as white, or #ffffff") from None
    return f"#{red:02x}{green:02x}{blue:02x}"


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How files become pixels."""

    max_pixels: int = option(MAX_PIXELS, minimum=1, help="Refuse images with more pixels. The header says how many.")
    colour: Colour = option(
        "srgb", help="srgb: convert colours as the file's profile says. raw: leave them, as torchvision does."
    )
    background: str = option(
        "#ffffff",
        metavar="COLOUR",
        parse=parse_colour,
        help="What lies behind transparent pixels: a name, or #rrggbb. Default: white.",
    )
    damaged: Damaged = option(
        "fail", help="What to do with an image whose data is damaged or ends early. keep: use what is left of it."
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if not self.background.startswith("#"):  # typed ones were parsed already, and parsing loads a library
            parse_colour(self.background)

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, each in [0, 255]."""
        red, green, blue = bytes.fromhex(parse_colour(self.background)[1:])
        return red, green, blue


DEFAULTS = PictureOptions()
