"""File bytes to the squares that an engine sees. Plain JPEG and PNG files are decoded by DALI, which is faster; all
other files, and what DALI fails on, by Pillow. DALI makes the squares of both, and the result says which one decoded.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

from purifyctl.config.picture_options import DEFAULTS, DecoderName, PictureOptions
from purifyctl.errors import ImageError
from purifyctl.images import metadata, profiles
from purifyctl.images.dali import Group, Squares
from purifyctl.images.damage import Encoded
from purifyctl.images.pillow import (
    Opened,
    Picture,
    check_damage,
    decode_opened,
    has_several_frames,
    open_picture,
)

BATCH_PIXELS = 200_000_000  # of the images that are decoded together: 600 MB of RGB

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Facts:
    """How a file became pixels."""

    size: tuple[int, int]  # (height, width) in pixels as seen, after EXIF rotation
    decoder: DecoderName
    converted: str | None = None  # the name of the colour profile that was converted to sRGB
    damaged: str | None = None  # what is wrong with the file
    first_frame: bool = False  # it holds several frames or pages, and this is the first


@dataclass(frozen=True)
class Decoded:
    """A batch of files after decoding. Positions count within the batch."""

    images: Any  # RGB uint8 [n, size, size, 3], the good ones in order: numpy array, or torch CUDA tensor
    positions: list[int]  # [n], which file each of `images` comes from
    facts: list[Facts]  # [n], of each of them
    errors: dict[int, ImageError]  # by position: why there is no image

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """[n], (height, width) in pixels as seen, after EXIF rotation."""
        return [each.size for each in self.facts]


class Decoder:
    """Decodes files to upright squares of `size` pixels.

    Parameters
    ----------
    device_id
        GPU that decodes what DALI takes, and that the images lie on; or None for the CPU.
    threads
        How many images are decoded at once.
    options
        Which pictures are refused, and how colours and transparency are shown.
    """

    def __init__(
        self,
        *,
        size: int,
        batch_size: int,
        threads: int,
        device_id: int | None = None,
        options: PictureOptions = DEFAULTS,
    ) -> None:
        self._size = size
        self._device_id = device_id
        self._options = options
        self._squares = Squares(size=size, batch_size=batch_size, threads=threads, device_id=device_id)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._squares.close()
        self._pool.shutdown()

    def decode(self, files: Sequence[Encoded]) -> Decoded:
        """Decode the bytes of up to `batch_size` files. Nothing in a file makes it raise."""
        errors: dict[int, ImageError] = {}
        opened = _each(map, lambda data: open_picture(data, self._options), dict(enumerate(files)), errors)
        damaged = _each(self._pool.map, lambda one: check_damage(one, self._options), opened, errors)
        sound = {i: one for i, one in opened.items() if damaged.get(i, "") is None}
        plain = {i: one for i, one in sound.items() if is_plain(one, self._options)}
        groups = [
            group
            for members in _groups({i: one.pixels for i, one in plain.items()}, BATCH_PIXELS)
            for group in self._squares.of_files([(i, files[i]) for i in members])
        ]
        facts = {
            i: Facts(size, "dali", first_frame=has_several_frames(opened[i]))
            for group in groups
            for i, size in zip(group.positions, group.sizes, strict=True)
        }
        others = {i: (one, damaged[i]) for i, one in opened.items() if i in damaged and i not in facts}
        for members in _groups({i: one.pixels for i, (one, _) in others.items()}, BATCH_PIXELS):
            pictures = _each(self._pool.map, self._by_pillow, {i: others[i] for i in members}, errors)
            facts |= {i: facts_of(picture) for i, picture in pictures.items()}
            if pictures:
                groups.append(self._squares.of_pixels([(i, picture.pixels) for i, picture in pictures.items()]))
        positions = sorted(facts)
        return Decoded(self._joined(groups), positions, [facts[i] for i in positions], errors)

    def _by_pillow(self, job: tuple[Opened, str | None]) -> Picture:
        return decode_opened(*job, self._options)

    def _joined(self, groups: list[Group]) -> Any:
        """The squares of all groups, ordered by position."""
        if len(groups) == 1:
            return groups[0].images
        if not groups:
            return np.empty((0, self._size, self._size, 3), np.uint8)
        order = np.argsort([position for group in groups for position in group.positions])
        if self._device_id is None:
            return np.concatenate([group.images for group in groups])[order]
        import torch

        return torch.cat([group.images for group in groups])[torch.from_numpy(order).to(groups[0].images.device)]


def facts_of(picture: Picture) -> Facts:
    """How a file became this picture."""
    height, width, _ = picture.pixels.shape
    return Facts((height, width), picture.decoder, picture.converted, picture.damaged, picture.first_frame)


def is_plain(opened: Opened, options: PictureOptions = DEFAULTS) -> bool:
    """Whether DALI shows this JPEG or PNG file as a viewer does: 8 bits, RGB or grey, nothing transparent, no colours
    to convert, and turned as EXIF alone says.
    """
    image, info = opened.image, opened.image.info
    profile = info.get("icc_profile") if options.colour == "srgb" else None
    if image.mode not in ("RGB", "L") or (profile and not profiles.is_srgb(profile, image.mode)):
        return False
    if opened.kind.name == "JPEG":
        components = [layer[0] for layer in getattr(image, "layer", ())]
        usual = components in ([0], [1], [0, 1, 2], [1, 2, 3]) and info.get("adobe_transform", 1) == 1
        return usual and metadata.orientation_is_exif(image)
    if opened.kind.name == "PNG":
        return _png_bits(opened) == 8 and "transparency" not in info and metadata.orientation(image) == 1
    return False


def _png_bits(opened: Opened) -> int:
    return int(opened.data[24])  # in its first chunk, which lies at a fixed place


def _each(
    apply: Callable[[Callable[[T], Any], Iterable[T]], Iterable[Any]],
    function: Callable[[T], R],
    given: dict[int, T],
    errors: dict[int, ImageError],
) -> dict[int, R]:
    """Call a function for each position, by `map` or a pool's; note the positions where it raised ImageError."""

    def call(one: T) -> R | ImageError:
        try:
            return function(one)
        except ImageError as error:
            return error

    found: dict[int, R] = {}
    for i, result in zip(given, apply(call, given.values()), strict=True):
        if isinstance(result, ImageError):
            errors[i] = result
        else:
            found[i] = result
    return found


def _groups(pixels: dict[int, int], budget: int) -> list[list[int]]:
    """Cut positions, in order, into groups whose pixels stay within the budget. One image alone may exceed it."""
    groups: list[list[int]] = []
    room = 0
    for i, n in pixels.items():
        if not groups or n > room:
            groups.append([])
            room = budget
        groups[-1].append(i)
        room -= n
    return groups
