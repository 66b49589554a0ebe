import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.attacks import fgsm, make_attack, pgd
from purifyctl.config import AttackConfig
from tests import tiny

MODEL = tiny.classifier().eval()
GREY = 1 / 255
ROUNDING = 1e-6  # of float32 in [0, 1]


def images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (3, 3, 16, 16), generator=generator) / 255
    return x, MODEL(x).argmax(1)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), eps=st.floats(0.001, 0.5), steps=st.integers(1, 4), random_start=st.booleans())
def test_attacked_images_stay_in_their_budget_and_in_range(
    seed: int, eps: float, steps: int, random_start: bool
) -> None:
    x, y = images(seed)
    for x_adv in (fgsm(MODEL, x, y, eps), pgd(MODEL, x, y, eps, steps=steps, random_start=random_start)):
        assert (x_adv - x).abs().max() <= eps + ROUNDING
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert not x_adv.requires_grad


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), eps=st.floats(1 / 255, 32 / 255))
def test_attacks_for_training_are_whole_grey_levels_within_the_budget(seed: int, eps: float) -> None:
    x, y = images(seed)
    x_adv = make_attack(AttackConfig("pgd", steps=2), MODEL, x, y, eps)
    assert (x_adv - x).abs().max() <= eps + ROUNDING
    torch.testing.assert_close(x_adv * 255, torch.round(x_adv * 255), atol=1e-4, rtol=0)


def test_fgsm_raises_the_loss_and_uses_its_whole_budget() -> None:
    x, y = images(0)
    x = x * 0.5 + 0.25  # nothing to clip
    x_adv = fgsm(MODEL, x, y, 2 * GREY)
    loss = torch.nn.functional.cross_entropy
    assert loss(MODEL(x_adv), y) > loss(MODEL(x), y)
    assert (x_adv - x).abs().max().item() == pytest.approx(2 * GREY, abs=ROUNDING)


def test_more_steps_attack_harder() -> None:
    x, y = images(1)
    losses = [
        torch.nn.functional.cross_entropy(MODEL(pgd(MODEL, x, y, 8 * GREY, steps=n, random_start=False)), y)
        for n in (1, 20)
    ]
    assert losses[1] > losses[0]


def test_the_same_generator_makes_the_same_attack() -> None:
    x, y = images(2)
    one, two = (pgd(MODEL, x, y, 8 * GREY, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    other = pgd(MODEL, x, y, 8 * GREY, generator=torch.Generator().manual_seed(6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_an_attack_on_one_image_does_not_depend_on_its_batch() -> None:
    x, y = images(3)
    together = fgsm(MODEL, x, y, 4 * GREY)
    torch.testing.assert_close(fgsm(MODEL, x[:1], y[:1], 4 * GREY), together[:1])
