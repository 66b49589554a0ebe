import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.attacks import (
    Best,
    bim,
    fgsm,
    least_likely,
    make_attack,
    mi_fgsm,
    pgd,
    round_straight_through,
    square,
)
from purifyctl.classifiers import load_classifier
from purifyctl.config import TARGETED_ATTACKS, AttackConfig, AttackKind
from purifyctl.engine.default import CLASSIFIER, WEIGHTS
from purifyctl.errors import MissingDependencyError
from purifyctl.photographs import read_all
from purifyctl.sources import list_images
from tests import tiny

MODEL = tiny.classifier().eval().requires_grad_(False)
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


# Each kind, with as few steps as show what it does.
EVERY_ATTACK = {
    "fgsm": AttackConfig("fgsm"),
    "bim": AttackConfig("bim", steps=2),
    "least-likely": AttackConfig("least-likely", steps=2),
    "pgd": AttackConfig("pgd", steps=2, restarts=2, eot=2),
    "mi-fgsm": AttackConfig("mi-fgsm", steps=2),
    "dim": AttackConfig("dim", steps=3),
    "square": AttackConfig("square", steps=20),
    "deepfool": AttackConfig("deepfool", steps=5),
    "jsma": AttackConfig("jsma", steps=2),
    "universal": AttackConfig("universal", steps=1),
    "one-pixel": AttackConfig("one-pixel", steps=1),
    "cw": AttackConfig("cw", steps=5),
    "autoattack": AttackConfig("autoattack"),
}


def few(n: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(4)) / 255
    return x, MODEL(x).argmax(1)


def global_states() -> tuple[object, ...]:
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


def test_every_kind_of_attack_that_a_configuration_can_name_is_tested_here() -> None:
    assert set(EVERY_ATTACK) == set(get_args(AttackKind))  # the command line offers these: it takes the type itself


@pytest.mark.parametrize("kind", EVERY_ATTACK)
@pytest.mark.parametrize("eight_bit", [True, False], ids=["8-bit", "float"])
def test_every_attack_keeps_its_budget_and_its_seed_and_leaves_global_random_states_alone(
    kind: str, eight_bit: bool
) -> None:
    x, y = few()
    eps = 40.5 * GREY
    before = global_states()
    with torch.no_grad():  # whoever calls need not think of gradients
        made = [
            make_attack(
                EVERY_ATTACK[kind], MODEL, x, y, eps, generator=torch.Generator().manual_seed(3), eight_bit=eight_bit
            )
            for _ in range(2)
        ]
    assert global_states() == before
    assert torch.equal(*made)
    x_adv = made[0]
    assert (x_adv - x).abs().max() <= (40 * GREY if eight_bit else eps) + ROUNDING
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert not x_adv.requires_grad
    if eight_bit:
        torch.testing.assert_close(x_adv * 255, torch.round(x_adv * 255), atol=1e-4, rtol=0)
    assert all(p.grad is None for p in MODEL.parameters())


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["bim", "least-likely", "mi-fgsm", "dim", "square"]),
    seed=st.integers(0, 1000),
    eps=st.floats(0.001, 0.5),
)
def test_attacks_in_torch_keep_any_budget(kind: str, seed: int, eps: float) -> None:
    x, y = images(seed)
    x_adv = make_attack(EVERY_ATTACK[kind], MODEL, x, y, eps, eight_bit=False)
    assert (x_adv - x).abs().max() <= eps + ROUNDING
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("kind", ["fgsm", "bim", "pgd", "mi-fgsm", "dim", "autoattack"])
def test_attacks_with_a_large_budget_fool_the_tiny_classifier(kind: str) -> None:
    x, y = images(5)
    x_adv = make_attack(AttackConfig(kind), MODEL, x, y, 60 * GREY, generator=torch.Generator().manual_seed(0))
    assert (MODEL(x_adv).argmax(1) != y).all()


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


@pytest.mark.parametrize("kind", sorted({*TARGETED_ATTACKS} - {"jsma", "one-pixel"}))
def test_a_targeted_attack_moves_towards_its_target(kind: str) -> None:
    x, _ = images(8)
    target = MODEL(x).argsort(1)[:, -2]  # the runner-up: what can be reached
    attack = AttackConfig(kind, steps={"square": 300, "cw": 50}.get(kind, 0), targeted=True)
    x_adv = make_attack(attack, MODEL, x, target, 16 * GREY, generator=torch.Generator().manual_seed(0))

    def lead(image: torch.Tensor) -> torch.Tensor:
        """Of the target over the best other class, in logits."""
        logits = MODEL(image)
        others = logits.scatter(1, target[:, None], float("-inf")).amax(1)
        return logits.gather(1, target[:, None]).squeeze(1) - others

    assert (lead(x_adv) > lead(x)).all()


def test_jsma_and_one_pixel_reach_a_target_when_values_may_move_freely() -> None:
    x, _ = few()
    target = MODEL(x).argsort(1)[:, -2]
    for kind, steps in (("jsma", 40), ("one-pixel", 3)):
        attack = AttackConfig(kind, steps=steps, targeted=True)
        x_adv = make_attack(attack, MODEL, x, target, 1.0, generator=torch.Generator().manual_seed(0))
        assert (MODEL(x_adv).argmax(1) == target).any(), kind


def test_least_likely_moves_towards_the_class_that_is_least_likely_when_clean() -> None:
    x, _ = images(9)
    worst = MODEL(x).argmin(1)
    x_adv = least_likely(MODEL, x, 8 * GREY)
    assert torch.equal(x_adv, bim(MODEL, x, worst, 8 * GREY, targeted=True))
    assert (MODEL(x_adv).gather(1, worst[:, None]) > MODEL(x).gather(1, worst[:, None])).all()


def test_bim_takes_kurakins_single_grey_level_at_8_255() -> None:
    x, y = images(10)
    seen: list[torch.Tensor] = []

    def watched(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.detach().clone())
        return MODEL(image)

    bim(watched, x, y, 8 * GREY)
    assert len(seen) == 10
    assert (seen[1] - seen[0]).abs().max().item() == pytest.approx(GREY, abs=ROUNDING)


def test_restarts_never_weaken_pgd() -> None:
    for seed in range(5):
        x, y = images(seed)
        once, often = (
            make_attack(
                AttackConfig("pgd", steps=1, restarts=n),
                MODEL,
                x,
                y,
                3 * GREY,
                generator=torch.Generator().manual_seed(1),
            )
            for n in (1, 4)
        )
        fooled = [MODEL(x_adv).argmax(1) != y for x_adv in (once, often)]
        losses = [torch.nn.functional.cross_entropy(MODEL(x_adv), y, reduction="none") for x_adv in (once, often)]
        assert (fooled[1] >= fooled[0]).all()
        assert ((losses[1] >= losses[0]) | (fooled[1] > fooled[0])).all()


def test_success_counts_before_loss_when_restarts_are_compared() -> None:
    # candidates are logits here: certain but right, unsure and wrong
    y = torch.tensor([0])
    right = torch.tensor([1.1, 1.0] + [1.0] * 50).view(1, -1, 1, 1)
    wrong = torch.tensor([1.0, 1.1] + [-9.0] * 50).view(1, -1, 1, 1)
    for order in ((right, wrong), (wrong, right)):
        best = Best(lambda x: x.flatten(1), right, y)
        for candidate in order:
            best.offer(candidate)
        assert torch.equal(best.images, wrong)
        assert best.success.tolist() == [1]


def test_momentum_and_diversity_make_other_images_than_bim() -> None:
    x, y = images(11)
    made = [
        make_attack(AttackConfig(kind, steps=5), MODEL, x, y, 8 * GREY, generator=torch.Generator().manual_seed(0))
        for kind in ("bim", "mi-fgsm", "dim")
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(made, 2))


def test_momentum_without_memory_is_bim() -> None:
    x, y = images(12)
    plain = bim(MODEL, x, y, 8 * GREY, steps=4, step_size=2 * GREY)
    assert torch.equal(mi_fgsm(MODEL, x, y, 8 * GREY, steps=4, decay=0.0), plain)


def test_eot_averages_gradients_over_the_passes_of_a_random_model() -> None:
    x, y = images(13)
    passes = []

    def noisy(image: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        strong = 1.0 if len(passes) % 4 else -2.0  # one pass of four points the other way, less than the rest together
        return MODEL(image) * strong

    fgsm(noisy, x, y, 8 * GREY, eot=4)
    assert len(passes) == 4
    averaged = fgsm(noisy, x, y, 8 * GREY, eot=4)
    single = fgsm(MODEL, x, y, 8 * GREY)
    assert (averaged == single).float().mean() > 0.7


def test_square_asks_for_no_gradients_and_keeps_to_its_queries() -> None:
    x, y = images(14)
    asked = torch.zeros(len(x))
    answers = torch.nn.functional.one_hot(y, 10).float()

    def strict(image: torch.Tensor) -> torch.Tensor:
        assert not image.requires_grad
        assert not torch.is_grad_enabled()
        asked[: len(image)] += 1
        return answers[: len(image)]  # never fooled, so every query is spent

    square(strict, x, y, 8 * GREY, queries=25)
    assert asked.tolist() == [25, 25, 25]


def test_square_stops_asking_for_images_that_are_fooled() -> None:
    x, y = images(15)
    sizes = []

    def counted(image: torch.Tensor) -> torch.Tensor:
        sizes.append(len(image))
        return MODEL(image)

    x_adv = square(counted, x, y, 60 * GREY, queries=500, generator=torch.Generator().manual_seed(0))
    assert (MODEL(x_adv).argmax(1) != y).all()
    assert len(sizes) < 500
    assert sizes == sorted(sizes, reverse=True)


def test_rounding_straight_through_rounds_forward_and_passes_gradients_back() -> None:
    x = torch.tensor([0.1234, 0.5678], requires_grad=True)
    rounded = round_straight_through(x)
    torch.testing.assert_close(rounded * 255, torch.round(x * 255))
    rounded.sum().backward()
    assert torch.equal(x.grad, torch.ones(2))


def test_gradients_reach_through_a_purifier_in_front_of_the_classifier() -> None:
    purifier = tiny.purifier()

    def both(image: torch.Tensor) -> torch.Tensor:
        return MODEL(round_straight_through(purifier(image)))

    x, _ = images(16)
    y = both(x).argmax(1)
    x_adv = make_attack(AttackConfig("pgd"), both, x, y, 16 * GREY, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy
    assert loss(both(x_adv), y) > loss(both(x), y)


def test_a_missing_library_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = few()
    for kind, module in (("cw", "foolbox"), ("jsma", "art.estimators.classification"), ("autoattack", "pyautoattack")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=r"purifyctl\[attacks\]") as caught:
            make_attack(EVERY_ATTACK[kind], MODEL, x, y, 8 * GREY)
        assert "not installed" in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (fgsm, "LinfFastGradientAttack", {}),
        (bim, "LinfBasicIterativeAttack", {"steps": 10}),
        (pgd, "LinfProjectedGradientDescentAttack", {"steps": 10}),
    ],
    ids=["fgsm", "bim", "pgd"],
)
def test_attacks_agree_with_foolbox(
    ours: Callable[..., torch.Tensor], theirs: str, options: dict[str, int], samples: Path
) -> None:
    x, _ = read_all(list_images(samples), 32)
    _agree(MODEL, x.contiguous(), ours, theirs, options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [(fgsm, "LinfFastGradientAttack", {}), (pgd, "LinfProjectedGradientDescentAttack", {"steps": 5})],
    ids=["fgsm", "pgd"],
)
def test_attacks_agree_with_foolbox_on_a_real_classifier(
    ours: Callable[..., torch.Tensor], theirs: str, options: dict[str, int], samples: Path
) -> None:
    x, _ = read_all(list_images(samples), 160)
    _agree(load_classifier(CLASSIFIER, WEIGHTS), x.contiguous(), ours, theirs, options)


def _agree(
    model: torch.nn.Module, x: torch.Tensor, ours: Callable[..., torch.Tensor], theirs: str, options: dict[str, int]
) -> None:
    """The same budget used, the same images fooled, nearly the same values, at 2 and 8 grey levels."""
    import foolbox

    y = model(x).argmax(1)
    oracle = getattr(foolbox.attacks, theirs)(random_start=False, **options)
    for eps in (2 * GREY, 8 * GREY):
        step = {} if ours is fgsm else {"step_size": eps * (oracle.rel_stepsize or 1)}
        start = {"random_start": False} if ours is pgd else {}
        mine = ours(model, x, y, eps, **options, **step, **start)
        _, other, fooled = oracle(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=eps)
        successes = model(mine).argmax(1) != y
        same = ((mine - other).abs() < 1e-4).float().mean().item()
        print(
            f"{theirs} {eps * 255:.0f}/255: {int(successes.sum())} and {int(fooled.sum())} of {len(x)}, {same:.5f} same"
        )
        assert (mine - x).abs().max().item() == pytest.approx((other - x).abs().max().item(), abs=ROUNDING)
        assert torch.equal(successes, fooled)
        assert same > 0.99
