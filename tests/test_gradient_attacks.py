import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.attacks import bim, fgsm, least_likely, make_attack, mi_fgsm, pgd
from purifyctl.classifiers import load_classifier
from purifyctl.config import AttackConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.photographs import read_all
from purifyctl.sources import list_images
from tests.attacked import GREY, MODEL, ROUNDING, images


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
    one, two = (pgd(MODEL, x, y, 8 * GREY, steps=10, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    other = pgd(MODEL, x, y, 8 * GREY, steps=10, generator=torch.Generator().manual_seed(6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_an_attack_on_one_image_does_not_depend_on_its_batch() -> None:
    x, y = images(3)
    together = fgsm(MODEL, x, y, 4 * GREY)
    torch.testing.assert_close(fgsm(MODEL, x[:1], y[:1], 4 * GREY), together[:1])


def test_least_likely_moves_towards_the_class_that_is_least_likely_when_clean() -> None:
    x, _ = images(9)
    worst = MODEL(x).argmin(1)
    x_adv = least_likely(MODEL, x, worst, 8 * GREY, steps=10)
    assert torch.equal(x_adv, bim(MODEL, x, worst, 8 * GREY, steps=10, targeted=True))
    assert (MODEL(x_adv).gather(1, worst[:, None]) > MODEL(x).gather(1, worst[:, None])).all()


def test_bim_takes_kurakins_single_grey_level_at_8_255() -> None:
    x, y = images(10)
    seen: list[torch.Tensor] = []

    def watched(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.detach().clone())
        return MODEL(image)

    bim(watched, x, y, 8 * GREY, steps=10)
    assert len(seen) == 10
    assert (seen[1] - seen[0]).abs().max().item() == pytest.approx(GREY, abs=ROUNDING)


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
    x, _ = read_all(list_images(samples)[::2], 160)  # ten: the classifier takes its time
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
