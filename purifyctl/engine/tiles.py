"""Whole pictures through an engine that takes squares: a picture is cut into overlapping tiles, and the purified tiles
are joined.

A network sees less near the edges of what it gets: beyond them it reads zeros. So tiles overlap, and only the middle of
each tile is used. In the middle of an overlap one tile fades into the next over a few pixels. At the edges of the
picture, tiles reach beyond it, and see its mirror image there. A picture that fits into one tile is one tile.

The last tiles of a picture are only as large as needed. They share squares: what lies beside a tile matters as little
as what lies beyond it. Those of other pictures do not, so that a result depends on its own picture alone.
"""

import itertools
from collections.abc import Callable, Iterator
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
    def border(self) -> int:
        """How far tiles reach beyond the upper and the left edge of a picture that is larger than a tile."""
        return self.overlap // 2

    @property
    def least_border(self) -> int:
        """How far they reach beyond its lower and its right edge, at least."""
        return 3 * self.overlap // 8

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

    start: int  # where it begins; before the picture: negative
    extent: int  # its length: the side of a square, or less
    first: int  # where its used part begins
    end: int  # where its used part ends
    fades_in: bool  # there is a tile before it
    fades_out: bool  # there is a tile after it


class _Tile(NamedTuple):
    """A tile, and its place in a square."""

    down: _Along
    across: _Along
    top: int
    left: int


class Grid:
    """The squares that hold the tiles of one picture: one tile each, or several thin ones. Threads may share a grid.

    Parameters
    ----------
    height, width
        Of the picture, in pixels; at least 1.
    """

    def __init__(self, height: int, width: int, tiling: Tiling) -> None:
        self.height, self.width = height, width
        self._tiling = tiling
        by_column, by_row = _in_squares(height, width, tiling), _in_squares(width, height, tiling)
        self._by_row = len(by_row) < len(by_column)  # whether the picture is cut into rows first
        self._squares = by_column
        if self._by_row:
            self._squares = [[_Tile(down, across, top, left) for across, down, left, top in each] for each in by_row]
        ramp = (2 * np.arange(tiling.blend, dtype=np.uint16) + 1) * 128 // max(tiling.blend, 1)
        self._ramp = ramp.astype(np.uint16)[:, None, None]  # [blend, 1, 1], rises from 0 to 256

    def __len__(self) -> int:
        return len(self._squares)

    def cut(self, picture: Pixels, number: int) -> Pixels:
        """One square of a picture: [side, side, 3]. Beyond the picture's edges it shows the mirror image."""
        square = np.zeros((self._tiling.side, self._tiling.side, 3), np.uint8)
        for tile in self._squares[number]:
            _copy(
                picture,
                tile,
                square[tile.top : tile.top + tile.down.extent, tile.left : tile.left + tile.across.extent],
            )
        return square

    def join(self, picture: Pixels, number: int, square: Pixels) -> None:
        """Add one square to a picture that was all zeros at first. Squares may come in any order, one at a time.

        Weights are whole numbers, and what a tile gives away is what its neighbour takes. So tiles that agree are
        joined without any rounding, and no value exceeds 255. The order counts: columns are cut into rows of their own.
        """
        for down, across, top, left in self._squares[number]:
            top, left = top - down.start, left - across.start
            part = square[top + down.first : top + down.end, left + across.first : left + across.end].copy()
            faded = [(part.swapaxes(0, 1), across), (part, down)]
            for along, how in reversed(faded) if self._by_row else faded:  # what was cut first
                self._fade(along, how)
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
        squares = purify(np.stack([grid.cut(picture, number) for number in numbers]))
        for number, square in zip(numbers, squares, strict=True):
            grid.join(joined, number, square)
    return joined


def _along(length: int, extent: int, tiling: Tiling) -> list[_Along]:
    """Tiles of `extent` pixels along a side of a picture. The last one is only as long as needed, unless it is wide."""
    multiple, overlap, before = tiling.multiple, tiling.overlap, tiling.border
    needed = before + length + tiling.least_border
    steps = max(-(-(needed - extent) // (extent - overlap)), 0)  # from one tile to the next
    starts, last = [i * (extent - overlap) - before for i in range(steps + 1)], extent
    if not tiling.is_wide:
        last = _rounded_up(needed - steps * (extent - overlap), multiple)
    elif steps:
        spread = _rounded_up(needed - extent, multiple) // multiple  # whole multiples, shared out evenly
        starts = [multiple * (i * spread // steps) - before for i in range(steps + 1)]
    # the middle of each overlap
    middles = [(one + extent + other) // 2 for one, other in itertools.pairwise(starts)]
    half = tiling.blend // 2
    firsts = [0, *(middle - half for middle in middles)]
    ends = [*(middle - half + tiling.blend for middle in middles), length]
    extents = [*itertools.repeat(extent, steps), last]
    return [_Along(*tile, i > 0, i < steps) for i, tile in enumerate(zip(starts, extents, firsts, ends, strict=True))]


def _in_squares(height: int, width: int, tiling: Tiling) -> list[list[_Tile]]:
    """The tiles of a picture that is cut into columns first, in as few squares as a simple rule finds: the highest
    shelf first, into the first square that has room for it.
    """
    side = tiling.side
    if max(height, width) <= side:
        down, across = (
            _Along(-min(tiling.border, (side - length) // 2), side, 0, length, False, False)
            for length in (height, width)
        )
        return [[_Tile(down, across, 0, 0)]]
    squares: list[list[_Tile]] = []
    with_room: dict[int, int] = {}  # by square: where its free part begins
    for shelf in sorted(_shelves(height, width, tiling), key=lambda shelf: -shelf[0][0].extent):
        high = shelf[0][0].extent
        number = next((n for n, top in with_room.items() if top + high <= side), len(squares))
        if number == len(squares):
            squares.append([])
        top = with_room.pop(number, 0)
        squares[number] += [_Tile(down, across, top, i * across.extent) for i, (down, across) in enumerate(shelf)]
        if top + high < side:
            with_room[number] = top + high
    return squares


def _shelves(height: int, width: int, tiling: Tiling) -> Iterator[list[tuple[_Along, _Along]]]:
    """The tiles of a picture, (down, across), in rows that a square has room for. A thin column at the right is cut
    into tiles that fill such rows.
    """
    side = tiling.side
    *columns, thin = _along(width, side, tiling)
    several = side // thin.extent
    if several == 1:
        columns.append(thin)
    for across in columns:
        for down in _along(height, side, tiling):
            yield [(down, across)]
    if several > 1:
        overlap, needed = tiling.overlap, tiling.border + height + tiling.least_border - tiling.overlap
        extents = (
            _rounded_up(max(-(-needed // (several * shelves)), overlap) + overlap, tiling.multiple)
            for shelves in itertools.count(1)
        )
        tiles = iter([(down, thin) for down in _along(height, next(n for n in extents if n <= side), tiling)])
        while shelf := list(itertools.islice(tiles, several)):
            yield shelf


def _rounded_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _copy(picture: Pixels, of: _Tile, tile: Pixels) -> None:
    """Fill in a tile from its picture."""
    top, left = of.down.start, of.across.start
    rows, columns = _inside(of.down, len(picture)), _inside(of.across, len(picture[0]))
    tile[rows, columns] = picture[rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
    for beyond in (slice(0, columns.start), slice(columns.stop, of.across.extent)):
        tile[rows, beyond] = tile[rows, _mirrored(beyond, columns)]
    for beyond in (slice(0, rows.start), slice(rows.stop, of.down.extent)):
        tile[beyond] = tile[_mirrored(beyond, rows)]


def _inside(tile: _Along, length: int) -> slice:
    """The part of a tile that lies in a picture of this length."""
    return slice(max(-tile.start, 0), min(length - tile.start, tile.extent))


def _mirrored(beyond: slice, inside: slice) -> NDArray[np.intp]:
    """Where a tile shows, in the part that lies `inside` the picture, what it has `beyond`: 2 1, 0 1 ... n-1, n-2 n-3,
    and forth again.
    """
    period = max(2 * (inside.stop - inside.start - 1), 1)
    index = np.arange(beyond.start - inside.start, beyond.stop - inside.start) % period
    mirrored: NDArray[np.intp] = inside.start + np.minimum(index, period - index)
    return mirrored
