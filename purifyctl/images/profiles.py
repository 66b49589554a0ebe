"""Colour profiles: what another colour space means in sRGB, which the networks and the files that we write use."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # grey levels: a profile that moves no colour by more than this is sRGB under another name
SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}  # which profiles can belong to a mode of Pillow's


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Turn an image (mode RGB, L, CMYK or LAB) into RGB whose colours are sRGB.

    Returns None if there is nothing to turn: the profile is sRGB, or it is damaged or does not belong to the image's
    mode. Then viewers ignore it, too.
    """
    transform = _transform(profile, image.mode)
    return None if transform is None else transform.apply(image)


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether the values of an image of this mode mean the same colours with this profile as without it."""
    return _transform(profile, mode) is None


def kept(profile: bytes | None, *, converted: bool) -> bytes | None:
    """The profile of the RGB pixels that were made of an image with this profile. None: it needs none."""
    if profile is None or not (converted or space(profile) == "RGB "):
        return None
    return srgb_profile() if converted else profile


def space(profile: bytes) -> str:
    """The colour space of a profile, as its header names it: "RGB ", "GRAY", "CMYK"."""
    return profile[16:20].decode("latin-1")


def name(profile: bytes) -> str:
    """What a profile calls itself: "Display P3"."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "without a name"


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """A profile of sRGB, to put into files."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@lru_cache(maxsize=32)  # the photographs of a folder share a few profiles, and making a transform takes milliseconds
def _transform(profile: bytes, mode: str) -> Any:
    """A transform into sRGB. None: it would change nothing, or cannot be made."""
    if SPACES.get(mode) != space(profile):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode not in ("RGB", "L"):
        return made
    colours = _colours(mode)
    change = np.asarray(made.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
    return made if np.abs(change).max() > SAME else None


def _colours(mode: str) -> Image.Image:
    """Colours from everywhere: all greys, or a grid with 9 steps along each axis."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))
