import torch

from purifyctl.attacks import square
from tests.attacked import GREY, MODEL, images


def test_square_asks_for_no_gradients_and_keeps_to_its_queries() -> None:
    x, y = images(14)
    asked = torch.zeros(len(x))
    answers = torch.nn.functional.one_hot(y, 10).float()

    def strict(image: torch.Tensor) -> torch.Tensor:
        assert not image.requires_grad
        assert not torch.is_grad_enabled()
        asked[: len(image)] += 1
        return answers[: len(image)]  # never fooled, so every query is spent

    square(strict, x, y, 8 * GREY, steps=25)
    assert asked.tolist() == [25, 25, 25]


def test_square_stops_asking_for_images_that_are_fooled() -> None:
    x, y = images(15)
    sizes = []

    def counted(image: torch.Tensor) -> torch.Tensor:
        sizes.append(len(image))
        return MODEL(image)

    x_adv = square(counted, x, y, 60 * GREY, steps=500, generator=torch.Generator().manual_seed(0))
    assert (MODEL(x_adv).argmax(1) != y).all()
    assert len(sizes) < 500
    assert sizes == sorted(sizes, reverse=True)
