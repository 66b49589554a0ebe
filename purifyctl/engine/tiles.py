"""Whole pictures through an engine that takes squares: a picture is cut into overlapping tiles, and the purified tiles
are joined.

A network sees less near the edges of what it gets: beyond them it reads zeros. So tiles overlap, and only the middle of
each tile is used. In the middle of an overlap one tile fades into the next over a few pixels.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # RGB [height, width, 3]


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut for one purifier. All values are pixels."""

    side: int  # of a tile
    multiple: int  # tiles begin at multiples of it, so that the network sees the same blocks as in the whole picture
    overlap: int  # of neighbouring tiles, at least; a multiple of `multiple`, unless the network sees the whole square
    blend: int  # width of the strip in the middle of an overlap in which one tile fades into the next

    @property
    def is_wide(self) -> bool:
        """Whether tiles fade into each other over the whole overlap, because they never quite agree."""
        return self.blend == self.overlap


def wide_tiling(side: int, multiple: int = 16) -> Tiling:
    """For a purifier whose tiles never quite agree, or nobody has measured it: they fade slowly into each other."""
    step = multiple if 4 * multiple <= side else 1
    overlap = max(step, side // 4 // step * step)
    return Tiling(side, step, overlap, overlap)


class _Along(NamedTuple):
    """A tile along one side of a picture."""

    start: int  # where it begins
    first: int  # where its used part begins
    end: int  # where its used part ends
    fades_in: bool  # there is a tile before it
    fades_out: bool  # there is a tile after it


class Grid:
    """The tiles of one picture. Threads may share a grid.

    Parameters
    ----------
    height, width
        Of the picture, in pixels; at least 1. What tiles need beyond its right and lower edge is its mirror image.
    """

    def __init__(self, height: int, width: int, tiling: Tiling) -> None:
        self.height, self.width = height, width
        self._tiling = tiling
        along = (_along(length, tiling) for length in (height, width))
        self._tiles = tuple(itertools.product(*along))
        ramp = (2 * np.arange(tiling.blend, dtype=np.uint16) + 1) * 128 // max(tiling.blend, 1)
        self._ramp = ramp.astype(np.uint16)[:, None, None]  # [blend, 1, 1], rises from 0 to 256

    def __len__(self) -> int:
        return len(self._tiles)

    def cut(self, picture: Pixels, number: int) -> Pixels:
        """One tile of a picture: [side, side, 3], perhaps a view."""
        down, across = self._tiles[number]
        bottom, right = down.start + self._tiling.side, across.start + self._tiling.side
        rows, columns = slice(down.start, bottom), slice(across.start, right)
        part = picture[rows, columns]
        if bottom > self.height:
            part = picture[_mirrored(down.start, bottom, self.height), columns]
        if right > self.width:
            part = part[:, _mirrored(across.start, right, self.width) - across.start]
        return part

    def join(self, picture: Pixels, number: int, tile: Pixels) -> None:
        """Add one tile to a picture that was all zeros at first. Tiles may come in any order, one at a time.

        Weights are whole numbers, and what a tile gives away is what its neighbour takes. So tiles that agree are
        joined without any rounding, and no value exceeds 255.
        """
        down, across = self._tiles[number]
        rows = slice(down.first - down.start, down.end - down.start)
        part = tile[rows, across.first - across.start : across.end - across.start].copy()
        self._fade(part, down)
        self._fade(part.swapaxes(0, 1), across)
        picture[down.first : down.end, across.first : across.end] += part

    def _fade(self, part: Pixels, along: _Along) -> None:
        width = self._tiling.blend
        if along.fades_in and width:
            part[:width] = part[:width] * self._ramp >> 8
        if along.fades_out and width:
            part[-width:] -= (part[-width:] * self._ramp >> 8).astype(np.uint8)


def purify_whole(picture: Pixels, tiling: Tiling, at_once: int, purify: Callable[[Pixels], Pixels]) -> Pixels:
    """Purify one picture in tiles.

    Parameters
    ----------
    picture
        RGB uint8 [height, width, 3], of any size.
    at_once
        How many tiles `purify` gets at most.
    purify
        RGB uint8 [n, side, side, 3] -> the same.
    """
    height, width = picture.shape[:2]
    grid, joined = Grid(height, width, tiling), np.zeros_like(picture)
    for start in range(0, len(grid), at_once):
        numbers = range(start, min(start + at_once, len(grid)))
        tiles = purify(np.stack([grid.cut(picture, number) for number in numbers]))
        for number, tile in zip(numbers, tiles, strict=True):
            grid.join(joined, number, tile)
    return joined


def _along(length: int, tiling: Tiling) -> list[_Along]:
    """The tiles along a side of a picture. The last one ends with the picture, rounded up to a multiple."""
    side, multiple, overlap = tiling.side, tiling.multiple, tiling.overlap
    padded = max(side, -(-length // multiple) * multiple)
    steps = -(-(padded - side) // (side - overlap))  # from one tile to the next
    spread = (padded - side) // multiple  # whole multiples, shared out evenly
    starts = [multiple * (i * spread // max(steps, 1)) for i in range(steps)] + [padded - side]
    # the middle of each overlap
    middles = [(before + side + after) // 2 for before, after in itertools.pairwise(starts)]
    half = tiling.blend // 2
    firsts = [0, *(middle - half for middle in middles)]
    ends = [*(middle - half + tiling.blend for middle in middles), length]
    last = len(starts) - 1
    return [_Along(*tile, i > 0, i < last) for i, tile in enumerate(zip(starts, firsts, ends, strict=True))]


def _mirrored(start: int, end: int, length: int) -> NDArray[np.intp]:
    """Indices from `start` to `end`; those from `length` on go back, and forth again: n-2, n-3 ... 0, 1 ..."""
    period = max(2 * (length - 1), 1)
    index = np.arange(start, end) % period
    return np.minimum(index, period - index) if length > 1 else np.zeros(end - start, np.intp)
