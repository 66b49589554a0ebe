"""Which photographs a purifier was made with, in a few bytes each: kept in its checkpoint, looked up in evaluations."""

import hashlib
from collections.abc import Iterable

from purifyctl.images.source import ImageFile

LIMIT = 10_000  # fingerprints
DIGITS = 8  # of each, hexadecimal


def sketch(photographs: Iterable[ImageFile], limit: int = LIMIT) -> str:
    """The smallest fingerprints of these photographs, in order: all of them, or a sample that any set shares."""
    return "".join(sorted({_fingerprint(photograph) for photograph in photographs})[:limit])


def count_known(photographs: Iterable[ImageFile], sketched: str) -> int:
    """How many of these photographs were sketched; at least so many, where the sketch is a sample."""
    known = {sketched[i : i + DIGITS] for i in range(0, len(sketched), DIGITS)}
    return sum(_fingerprint(photograph) in known for photograph in photographs)


def _fingerprint(photograph: ImageFile) -> str:
    """Of name and size: the same wherever the file lies."""
    text = f"{photograph.path.name} {photograph.size}"
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:DIGITS]
