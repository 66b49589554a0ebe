"""Values in the form that the command line and recipes use: budgets, shares, lists of names."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from purifyctl.errors import ConfigError

T = TypeVar("T")

INCLUDE_HELP = "Take only files that this glob matches, such as '*.jpg', with the rules of .gitignore; repeatable."
EXCLUDE_HELP = "Leave out files and folders that this glob matches, such as 'drafts' or '*_thumb.*'; repeatable."
MAX_PIXELS = 100_000_000  # a larger image is refused when its header is read: it may be a decompression bomb

DEFAULT_GATE_FPR = 0.01  # share of the clean images that the gate may flag, unless another one is asked for

LabelsFrom = Literal[
    "predicted", "folder"
]  # what counts as right: the prediction on the clean image, or the folder's class
EpsSpace = Literal["unit", "signed", "mean-std"]  # [0, 1]; [-1, 1]; values after normalisation by mean and std


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def eps_scale(space: EpsSpace, std: Sequence[float] = ()) -> float:
    """An eps of 1 in `space`, converted to [0, 1]. Papers seldom say which range their eps belongs to.

    Parameters
    ----------
    std
        The classifier's standard deviation of each channel, of values in [0, 1]; for "mean-std" only. The smallest one
        decides, so that every channel stays within its budget.

    Raises
    ------
    ConfigError
        "mean-std" for a classifier that does not normalise.
    """
    if space != "mean-std":
        return {"unit": 1.0, "signed": 0.5}[space]
    if not std or min(std) == 1:
        raise ConfigError(
            "eps is given in mean/std units, but the classifier is not known to normalise.", hint="use --eps-space unit"
        )
    return min(std)


def parse_eps(text: str | float, scale: float = 1.0) -> float:
    """Read an L-infinity budget in [0, 1]: `"8/255"`, `"0.03"` or `0.03`. `scale`: from `eps_scale`, for other units.

    Raises
    ------
    ConfigError
        The text is not a number, or lies outside [0, 1] (a budget of 8 most likely means 8/255).
    """
    try:
        numerator, _, denominator = str(text).partition("/")
        eps = float(numerator) / float(denominator or 1) * scale
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"eps {text!r} is not a number.", hint='write it as "8/255"') from None
    if not 0 <= eps <= 1:
        hint = f'did you mean "{text}/255"?' if 1 < eps <= 255 and not denominator else 'write it as "8/255"'
        raise ConfigError(f"eps {text} lies outside [0, 1].", hint=hint)
    return eps


def parse_list(text: str, known: Mapping[str, T], what: str) -> tuple[T, ...]:
    """Read names with commas between them, such as `torch,onnxruntime`. An empty text gives an empty tuple.

    Parameters
    ----------
    known
        Every possible name, with the value that it stands for.
    what
        What a name is called in messages, such as "peer".

    Raises
    ------
    ConfigError
        A name is not in `known`.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"There is no {what} {unknown[0]!r}.", hint=f"there are {', '.join(known)}")
    return tuple(known[name] for name in names)


def parse_texts(text: str) -> tuple[str, ...]:
    """Read texts with commas between them. An empty text gives an empty tuple."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def parse_numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them, such as `0.485,0.456,0.406` or `1/255`.

    Raises
    ------
    ConfigError
        One of them is not a number.
    """
    try:
        pairs = [part.partition("/") for part in text.split(",")]
        return tuple(float(numerator) / float(denominator or 1) for numerator, _, denominator in pairs)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"{text!r} is not one number or three.", hint="write it as 0.485,0.456,0.406") from None


def parse_mean(text: str) -> tuple[float, ...]:
    """As `parse_numbers`; `imagenet` stands for the mean of ImageNet's pictures."""
    return (0.485, 0.456, 0.406) if text == "imagenet" else parse_numbers(text)


def parse_std(text: str) -> tuple[float, ...]:
    """As `parse_numbers`; `imagenet` stands for the standard deviation of ImageNet's pictures."""
    return (0.229, 0.224, 0.225) if text == "imagenet" else parse_numbers(text)


def parse_sides(text: str) -> tuple[int, ...]:
    """Read pixels: `224`, or `224x320` for height and width.

    Raises
    ------
    ConfigError
        The text is not written like this.
    """
    sides = text.lower().split("x")
    if not all(side.strip().isdecimal() for side in sides):
        raise ConfigError(f"{text!r} is not a size in pixels.", hint="write it as 224, or 224x320: height x width")
    return tuple(int(side) for side in sides)


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read which one of several calls this is, such as `"0/4"`; they count from 0. None: it is the only one.

    Raises
    ------
    ConfigError
        The text is not written like this.
    """
    index, _, of = (text or "0/1").partition("/")
    if not (index.isdecimal() and of.isdecimal()):
        raise ConfigError(f"There is no shard {text!r}.", hint="write it as I/N, counted from 0: 0/4, 1/4, 2/4 and 3/4")
    return int(index), int(of)


Size = Literal["original"] | int  # of what is purified: every picture's own size, or the side of a square, in pixels


SQUARE_HELP = "Side of the square image, in pixels. Default: auto, the one whose crop the classifier takes unresized."
SIZE_HELP = (
    f"{SQUARE_HELP} original: every picture keeps its size, and goes alone; the classifier then sees the square in its "
    "middle."
)


def parse_size(text: str) -> Size:
    """Read `"original"`, `"auto"`, which is 0, or a number of pixels.

    Raises
    ------
    ConfigError
        It is none of them.
    """
    word = text.strip().lower()
    if word in ("original", "auto"):
        return "original" if word == "original" else 0
    if not word.isdecimal() or int(word) < 1:
        raise ConfigError(f"There is no size {text!r}.", hint="auto, original, or a number of pixels, such as 256")
    return int(word)


def parse_square(text: str) -> int:
    """As `parse_size`, for what has one size."""
    size = parse_size(text)
    if size == "original":
        raise ConfigError("An engine has one size; it is run with --size original.", hint="auto, or a number of pixels")
    return size


def parse_percent(text: str) -> float:
    """Read a share: `"1%"`, `"1 %"` and `"0.01"` are the same.

    Raises
    ------
    ConfigError
        The text is not a number, or lies outside [0, 1].
    """
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        raise ConfigError(f"{text!r} is not a share.", hint='write it as "1%" or "0.01"') from None
    if not 0 <= share <= 1:
        raise ConfigError(f"{text} is not a share: it lies outside 0 to 100 %.", hint='write it as "1%" or "0.01"')
    return share


def grey_levels(eps: float) -> int:
    """The number of whole grey levels of an 8-bit image in a budget in [0, 1]: 2 for 2.5/255."""
    return math.floor(eps * 255 + 1e-6)


def format_eps(eps: float) -> str:
    """An eps in [0, 1] the way every report prints it: `8/255`, `2.5/255`."""
    return f"{eps * 255:.4g}/255"
