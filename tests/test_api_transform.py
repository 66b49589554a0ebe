"""`purifyctl.PurifyTransform`: a transform of torchvision's."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

import purifyctl
from purifyctl.errors import (
    InputError,
)
from tests import tiny


def image(dtype: torch.dtype, *several: int) -> Tensor:
    pixels = torch.rand(*several, 3, 45, 37)
    return (pixels * 255).round().to(dtype) if dtype == torch.uint8 else pixels.to(dtype)


@pytest.fixture(scope="module")
def transform() -> purifyctl.PurifyTransform:
    return purifyctl.PurifyTransform(tiny.module())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("several", [(), (2,), (0,), (2, 2)])
@pytest.mark.parametrize("kind", [Tensor, tv_tensors.Image, tv_tensors.Video])
def test_an_image_comes_back_as_its_own_type(
    kind: type, several: tuple[int, ...], dtype: torch.dtype, transform: purifyctl.PurifyTransform
) -> None:
    if kind is tv_tensors.Video and not several:
        several = (1,)  # a video has frames
    given = image(dtype, *several)
    made = transform(given if kind is Tensor else kind(given))
    assert type(made) is kind
    assert (made.dtype, made.shape) == (dtype, given.shape)
    flat = given.reshape(-1, 3, 45, 37)
    unit = flat.float() / (255 if dtype == torch.uint8 else 1)
    reference = tiny.module()(unit) * (255 if dtype == torch.uint8 else 1)
    near = 0.501 if dtype == torch.uint8 else 0.01 if dtype == torch.bfloat16 else 1e-5
    assert torch.allclose(made.as_subclass(Tensor).reshape(flat.shape).float(), reference, atol=near)


def test_a_pil_image_comes_back_as_one(transform: purifyctl.PurifyTransform) -> None:
    photo = tiny.photograph()
    made = transform(photo)
    assert isinstance(made, Image.Image)
    assert (made.size, made.mode) == (photo.size, "RGB")
    tensor = v2.functional.pil_to_tensor(photo)
    assert torch.equal(v2.functional.pil_to_tensor(made), transform(tensor))
    assert not torch.equal(tensor, transform(tensor))


def test_all_else_in_a_sample_is_left_alone(transform: purifyctl.PurifyTransform) -> None:
    beside = {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 8, 9]]), format="XYXY", canvas_size=(45, 37)),
        "mask": tv_tensors.Mask(torch.ones(1, 45, 37, dtype=torch.uint8)),
        "label": torch.tensor(3),
        "embedding": torch.rand(3, 45, 37),  # a plain tensor beside an image is no image
        "name": "a.jpg",
        "nothing": None,
    }
    for picture in (tv_tensors.Image(image(torch.uint8)), tiny.photograph()):
        made_picture, made = transform(picture, beside)
        assert type(made_picture) is type(picture)
        assert made_picture is not picture
        assert all(made[name] is thing for name, thing in beside.items())
    first, second = transform((image(torch.uint8), beside["embedding"]))  # without one, the first plain tensor is
    assert first.dtype == torch.uint8
    assert second is beside["embedding"]


def test_it_goes_between_torchvisions_transforms() -> None:
    chain = v2.Compose(
        [
            v2.RGB(),
            v2.Resize(50),
            v2.CenterCrop(45),
            purifyctl.PurifyTransform(tiny.module()),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    made = chain(tiny.photograph().convert("L"))
    assert made.shape == (3, 45, 45)
    assert -1 <= made.min() < made.max() <= 1


def test_gradients_flow_through_the_transform(transform: purifyctl.PurifyTransform) -> None:
    x = image(torch.float32).requires_grad_()
    transform(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Image.new("L", (9, 9)), "mode L"),
        (torch.zeros(1, 9, 9), r"these are \[1, 1, 9, 9\]"),
        (torch.zeros(9, 9), r"these are"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), "these are int64"),
        (torch.full((3, 9, 9), 200.0), "these go from 200 to 200"),
    ],
)
def test_images_that_the_transform_does_not_take_are_refused(
    given: object, message: str, transform: purifyctl.PurifyTransform
) -> None:
    with pytest.raises(InputError, match=message):
        transform(given)


@pytest.mark.slow
def test_it_works_in_the_processes_of_a_data_loader(photos: Path) -> None:
    chain = v2.Compose([v2.Resize((45, 45)), purifyctl.PurifyTransform(tiny.module()), v2.PILToTensor()])
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(photos, chain), batch_size=5, num_workers=1, multiprocessing_context="spawn"
    )
    made = torch.cat([images for images, _ in loader])
    here = torch.stack([images for images, _ in datasets.ImageFolder(photos, chain)])
    assert (made.int() - here.int()).abs().max() <= 1
