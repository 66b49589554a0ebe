"""Pictures cut into tiles and joined again."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from purifyctl.api.purifier import Purifier
from purifyctl.checkpoint import load_purifier
from purifyctl.config import NetworkConfig
from purifyctl.engine.overlap import measured_tiling
from purifyctl.engine.tiles import Grid, Pixels, Tiling, _along, purify_whole, wide_tiling
from purifyctl.images.synthetic import natural_images
from purifyctl.photographs import read_pixels, to_pixels, to_tensor
from purifyctl.samples import installed_samples
from purifyctl.shipped import shipped_checkpoint
from tests import tiny

SIDES = st.integers(1, 300)
TILINGS = st.sampled_from(
    [
        Tiling(64, 4, 8, 2),
        Tiling(64, 4, 12, 3),
        Tiling(64, 16, 16, 4),
        Tiling(64, 16, 16, 0),  # cut hard
        Tiling(64, 16, 16, 16),
        wide_tiling(64, 4),
        wide_tiling(64, 64),  # a purifier that takes no smaller square
        wide_tiling(32, 16),
    ]
)


def picture_of(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(height=SIDES, width=SIDES, tiling=TILINGS, seed=st.integers(0, 2**16))
@example(height=1, width=1, tiling=Tiling(64, 4, 8, 2), seed=0)
@example(height=128, width=129, tiling=wide_tiling(64, 4), seed=0)
@settings(max_examples=150, deadline=None)
def test_tiles_that_nobody_changes_give_the_picture_back_in_any_order(
    height: int, width: int, tiling: Tiling, seed: int
) -> None:
    picture = picture_of(height, width, seed)
    grid, joined = Grid(height, width, tiling), np.zeros_like(picture)
    for number in np.random.default_rng(seed).permutation(len(grid)):
        tile = grid.cut(picture, number)
        assert tile.shape == (tiling.side, tiling.side, 3)
        grid.join(joined, number, tile)
    assert np.array_equal(joined, picture)


@given(height=SIDES, width=SIDES, tiling=TILINGS, seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_a_joined_value_lies_between_those_of_the_tiles(height: int, width: int, tiling: Tiling, seed: int) -> None:
    grid, joined = Grid(height, width, tiling), np.zeros((height, width, 3), np.uint8)
    values = np.random.default_rng(seed).integers(250, 256, len(grid))
    for number, value in enumerate(values):
        grid.join(joined, number, np.full((tiling.side, tiling.side, 3), value, np.uint8))
    assert values.min() <= joined.min()  # no pixel is left out
    assert joined.max() <= values.max()  # and none is counted twice


@given(length=st.integers(1, 3000), tiling=TILINGS)
@settings(max_examples=100, deadline=None)
def test_tiles_lie_on_the_networks_blocks_and_overlap_enough(length: int, tiling: Tiling) -> None:
    tiles = _along(length, tiling.side, tiling)
    assert all((tile.start - tiles[0].start) % tiling.multiple == 0 for tile in tiles)
    assert all(one.start + one.extent - other.start >= tiling.overlap for one, other in itertools.pairwise(tiles))
    for square in Grid(length, 2 * tiling.side, tiling)._squares:
        assert all(tile.top % tiling.multiple == tile.left % tiling.multiple == 0 for tile in square)


@given(length=st.integers(1, 3000), tiling=TILINGS)
@settings(max_examples=100, deadline=None)
def test_tiles_reach_beyond_all_edges_of_a_picture_unless_it_fits_into_one(length: int, tiling: Tiling) -> None:
    tiles = _along(length, tiling.side, tiling)
    assert tiles[0].start == -(tiling.overlap // 2)
    assert tiles[-1].start + tiles[-1].extent - length >= 3 * tiling.overlap // 8
    if length <= tiling.side:
        (((tile, *_),),) = Grid(length, 1, tiling)._squares
        assert tile.start == -min(tiling.overlap // 2, (tiling.side - length) // 2)
        assert tile.extent == tiling.side


@pytest.mark.parametrize("size", [(70, 30), (64, 65), (130, 75), (40, 40)])
def test_beyond_the_picture_a_tile_shows_its_mirror_image(size: tuple[int, int]) -> None:
    tiling = Tiling(64, 4, 8, 2)
    picture, grid = picture_of(*size, 0), Grid(*size, tiling)
    around = np.pad(picture, ((16, 16), (16, 16), (0, 0)), mode="reflect")
    for number, square in enumerate(grid._squares):
        shown = grid.cut(picture, number)
        for tile in square:
            high, wide = (
                min(along.extent, along.end + tiling.least_border - along.start) for along in (tile.down, tile.across)
            )
            top, left = tile.down.start + 16, tile.across.start + 16
            expected = around[top : top + high, left : left + wide]
            assert np.array_equal(shown[tile.top : tile.top + high, tile.left : tile.left + wide], expected)


def test_thin_tiles_of_a_picture_share_squares() -> None:
    for (height, width), squares in (
        ((375, 500), 4),
        ((500, 375), 4),
        ((321, 481), 3),
        ((299, 299), 2),
        ((480, 640), 6),
        ((256, 256), 1),
        ((3000, 4000), 221),
    ):
        assert len(Grid(height, width, Tiling(256, 16, 16, 4))) == squares


@torch.inference_mode()
def by_torch(net: torch.nn.Module, pictures: Pixels) -> Pixels:
    return to_pixels(net(to_tensor(pictures)))


def test_the_shipped_purifier_purifies_tiles_as_it_does_the_whole_picture() -> None:
    purifier = Purifier.from_checkpoint()
    tiling = shipped_tiling()
    assert tiling.overlap <= 32  # else it would cost more than a quarter
    photographs = read_pixels(installed_samples(), 512)[0]
    for picture in (*photographs[-2:], photographs[0, :375, :500], np.full((512, 512, 3), 128, np.uint8)):
        joined = purify_whole(picture, tiling, 4, lambda tiles: by_torch(purifier.net, tiles))
        whole = by_torch(purifier, picture[None].copy())[0]
        differs = np.abs(joined.astype(int) - whole).max(2)
        assert (differs > 1).mean() < 0.001


@pytest.mark.parametrize("size", [(512, 512), (375, 500), (257, 224)])
def test_a_purified_picture_has_no_rim(size: tuple[int, int]) -> None:
    """A network that reads zeros beyond the edge changes a smooth gradient by up to 67 grey levels there."""
    purifier, tiling = Purifier.from_checkpoint(), shipped_tiling()
    for picture in (np.full((*size, 3), 128, np.uint8), _gradient(*size)):
        joined = purify_whole(picture, tiling, 4, lambda tiles: by_torch(purifier.net, tiles))
        for purified in (joined, by_torch(purifier, picture[None].copy())[0]):
            changed = np.abs(purified.astype(int) - picture).max(2)
            inside = changed[16:-16, 16:-16].max()
            assert changed.max() <= inside + 1


@cache
def shipped_tiling() -> Tiling:
    checkpoint = load_purifier(shipped_checkpoint())
    photographs = read_pixels(installed_samples(), 256)[0]
    return measured_tiling(checkpoint.net, checkpoint.network.size_multiple, photographs[:4])


def _gradient(height: int, width: int) -> Pixels:
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    return np.stack(np.broadcast_arrays(across, down, (across + down) / 2), 2).round().astype(np.uint8)


@pytest.mark.parametrize(
    "network", [NetworkConfig("unet", width=4, depth=5), NetworkConfig("redraw", width=8, depth=2, classes=5)]
)
def test_a_purifier_that_sees_the_whole_square_gets_wide_overlaps(network: NetworkConfig) -> None:
    net = tiny.purifier(network)
    tiling = measured_tiling(net, network.size_multiple, natural_images(2, 64))
    assert tiling == wide_tiling(64, network.size_multiple)
    flat = np.full((150, 200, 3), 128, np.uint8)
    joined = purify_whole(flat, tiling, 4, lambda tiles: by_torch(net, tiles)).astype(int)
    tile = by_torch(net, flat[None, :64, :64].copy())[0].astype(int)
    # no seam: a step between neighbours is not larger than inside a tile
    for axis in (0, 1):
        assert np.abs(np.diff(joined, axis=axis)).max() <= np.abs(np.diff(tile, axis=axis)).max() + 1
