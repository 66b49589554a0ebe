"""Which photographs a purifier was trained with, in a few bytes each. Checkpoints keep it, and evaluations ask it."""

import hashlib
from collections.abc import Iterable

from purifyctl.sources.source import ImageFile

LIMIT = 10_000  # fingerprints
DIGITS = 8  # of each, hexadecimal


def sketch(photographs: Iterable[ImageFile], limit: int = LIMIT) -> str:
    """The fingerprints of these photographs, in order. If there are too many, the smallest ones."""
    return "".join(sorted({_fingerprint(photograph) for photograph in photographs})[:limit])


def count_known(photographs: Iterable[ImageFile], sketched: str) -> int:
    """How many of these photographs are in the sketch. If the sketch is a sample, there may be more."""
    known = _fingerprints(sketched)
    return sum(_fingerprint(photograph) in known for photograph in photographs)


def is_sample(sketched: str) -> bool:
    """Whether there were more photographs than the sketch holds."""
    return len(sketched) == LIMIT * DIGITS


def merge(sketches: Iterable[str]) -> str:
    """The sketch of the photographs of all these sketches."""
    return "".join(sorted({f for sketched in sketches for f in _fingerprints(sketched)})[:LIMIT])


def _fingerprints(sketched: str) -> set[str]:
    return {sketched[i : i + DIGITS] for i in range(0, len(sketched), DIGITS)}


def _fingerprint(photograph: ImageFile) -> str:
    """A hash of name and size: the same wherever the file lies."""
    text = f"{photograph.path.name} {photograph.size}"
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:DIGITS]
