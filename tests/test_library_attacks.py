import sys

import pytest
import torch

from purifyctl.attacks import make_attack
from purifyctl.config import AttackConfig
from purifyctl.errors import MissingDependencyError
from tests.attacked import EVERY_ATTACK, GREY, MODEL, few, images


@pytest.mark.parametrize("kind", ["deepfool", "cw"])
def test_attacks_that_look_for_the_nearest_boundary_survive_rounding(kind: str) -> None:
    x, y = images(6)
    x_adv = make_attack(AttackConfig(kind, steps=50), MODEL, x, y, 40 * GREY)
    assert (MODEL(x_adv).argmax(1) != y).all()
    assert (x_adv - x).abs().max() < 30 * GREY  # near, and not merely the whole budget


@pytest.mark.parametrize("kind", ["deepfool", "cw", "one-pixel", "autoattack"])
def test_attacks_that_stop_at_success_leave_images_that_are_wrong_already(kind: str) -> None:
    x, y = few()
    x_adv = make_attack(EVERY_ATTACK[kind], MODEL, x, (y + 1) % 10, 8 * GREY)
    if kind == "one-pixel":  # its search always looks for one candidate
        assert ((x_adv - x).abs().amax(1) > 0).flatten(1).sum(1).max() <= 1
    else:
        torch.testing.assert_close(x_adv, x, atol=1e-5, rtol=0)


def test_cw_leaves_images_clean_that_it_cannot_fool() -> None:
    x, y = few()

    def certain(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(y, 10) + 0 * MODEL(image)  # no image changes it

    assert torch.equal(make_attack(AttackConfig("cw", steps=3), certain, x, y, 8 * GREY), x)


def test_jsma_touches_two_values_per_step_and_one_pixel_a_single_pixel() -> None:
    x, y = few()
    touched = make_attack(AttackConfig("jsma", steps=3), MODEL, x, y, 1.0) != x
    assert touched.flatten(1).sum(1).max() <= 6
    pixels = (make_attack(EVERY_ATTACK["one-pixel"], MODEL, x, y, 1.0) != x).any(1)
    assert pixels.flatten(1).sum(1).max() <= 1


def test_the_universal_perturbation_is_one_for_all_images_of_a_batch() -> None:
    x, y = few(3)
    x = x * 0.5 + 0.25  # nothing to clip
    delta = make_attack(AttackConfig("universal", steps=1), MODEL, x, y, 60 * GREY, eight_bit=False) - x
    torch.testing.assert_close(delta, delta[:1].expand_as(delta), atol=1e-5, rtol=0)
    assert delta.abs().max() > 0


def test_jsma_and_one_pixel_reach_a_target_when_values_may_move_freely() -> None:
    x, _ = few()
    target = MODEL(x).argsort(1)[:, -2]
    for kind, steps in (("jsma", 40), ("one-pixel", 3)):
        attack = AttackConfig(kind, steps=steps, targeted=True)
        x_adv = make_attack(attack, MODEL, x, target, 1.0, generator=torch.Generator().manual_seed(0))
        assert (MODEL(x_adv).argmax(1) == target).any(), kind


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = few()
    for kind, module in (("cw", "foolbox"), ("jsma", "art.estimators.classification"), ("autoattack", "pyautoattack")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=r"purifyctl\[attacks\]") as caught:
            make_attack(EVERY_ATTACK[kind], MODEL, x, y, 8 * GREY)
        assert "not installed" in str(caught.value)
