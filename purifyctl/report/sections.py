"""A table with the notes that explain it, for the terminal, Markdown and pages alike."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A table with the notes that explain it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    keys: int = 1  # how many columns say what a row is about
