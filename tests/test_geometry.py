import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from purifyctl.images.geometry import fit, square
from tests import tiny

SIDES = st.integers(1, 4000)


@given(height=SIDES, width=SIDES, size=st.sampled_from([1, 64, 224, 255]))
@example(height=983, width=1435, size=224)  # 326.9990 pixels when resized
@settings(deadline=None)
def test_the_square_is_the_one_that_torchvision_takes(height: int, width: int, size: int) -> None:
    middle = square(height, width, size)
    if max(middle.resized) <= 20_000:
        picture = Image.new("L", (width, height))
        resized = v2.Resize(size, interpolation=InterpolationMode.NEAREST)(picture)
        assert middle.resized == (resized.height, resized.width)
    rows, columns = (torch.arange(side) for side in middle.resized)
    assert middle.offset[0] == v2.CenterCrop(size)(rows[:, None].expand(1, -1, size))[0, 0, 0]
    assert middle.offset[1] == v2.CenterCrop(size)(columns.expand(1, size, -1))[0, 0, 0]


@given(height=SIDES, width=SIDES, size=st.integers(1, 600))
def test_the_square_lies_in_the_picture_and_takes_the_whole_shorter_side(height: int, width: int, size: int) -> None:
    middle = square(height, width, size)
    for side, start, end in zip((height, width), middle.start, middle.end, strict=True):
        assert 0 <= start < end <= side
    shorter = int(width < height)
    assert (middle.start[shorter], middle.end[shorter]) == (0, min(height, width))
    turned = square(width, height, size)
    assert (turned.start, turned.end) == (middle.start[::-1], middle.end[::-1])


def test_a_pil_image_is_fitted_as_torchvision_does_it_upright_and_in_rgb() -> None:
    photo = tiny.photograph((320, 240))
    reference = np.asarray(v2.Compose([v2.Resize(64), v2.CenterCrop(64)])(photo)).astype(int)
    assert np.abs(np.asarray(fit(photo, 64)) - reference).max() <= 1
    sideways = photo.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[274] = 6
    assert np.abs(np.asarray(fit(sideways, 64)) - reference).max() <= 1
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    assert np.abs(np.asarray(fit(deep, 64)).astype(int) - np.asarray(fit(photo.convert("L"), 64))).max() <= 1
