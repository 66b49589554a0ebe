import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.attacks import Best, make_attack, round_straight_through
from purifyctl.config import ATTACKS, AttackConfig
from tests import tiny
from tests.attacked import EVERY_ATTACK, GREY, MODEL, ROUNDING, few, images

WITH_TARGETS = {attack.kind for attack in ATTACKS if attack.can_be_targeted}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), eps=st.floats(1 / 255, 32 / 255))
def test_attacks_for_training_are_whole_grey_levels_within_the_budget(seed: int, eps: float) -> None:
    x, y = images(seed)
    x_adv = make_attack(AttackConfig("pgd", steps=2), MODEL, x, y, eps)
    assert (x_adv - x).abs().max() <= eps + ROUNDING
    torch.testing.assert_close(x_adv * 255, torch.round(x_adv * 255), atol=1e-4, rtol=0)


def global_states() -> tuple[object, ...]:
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


def test_every_kind_of_attack_that_a_configuration_can_name_is_tested_here() -> None:
    listed = {attack.kind for attack in ATTACKS}  # what the command line offers, too
    assert set(EVERY_ATTACK) == listed, "EVERY_ATTACK in tests/attacked.py has a line for each attack"


@pytest.mark.parametrize("kind", EVERY_ATTACK)
@pytest.mark.parametrize("eight_bit", [True, False], ids=["8-bit", "float"])
def test_every_attack_keeps_its_budget_and_its_seed_and_leaves_global_random_states_alone(
    kind: str, eight_bit: bool
) -> None:
    x, y = few()
    eps = 40.5 * GREY
    before = global_states()
    with torch.no_grad():  # the caller need not turn gradients on
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
    kind=st.sampled_from(["bim", "least-likely", "mi-fgsm", "dim", "square", "noise"]),
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


@pytest.mark.parametrize("kind", sorted(WITH_TARGETS - {"jsma", "one-pixel"}))
def test_a_targeted_attack_moves_towards_its_target(kind: str) -> None:
    x, _ = images(8)
    target = MODEL(x).argsort(1)[:, -2]  # the runner-up: what can be reached
    attack = AttackConfig(kind, steps={"square": 300, "cw": 50}.get(kind, 0), targeted=True)
    x_adv = make_attack(attack, MODEL, x, target, 16 * GREY, generator=torch.Generator().manual_seed(0))

    def lead(image: torch.Tensor) -> torch.Tensor:
        """How far the target is ahead of the best other class, in logits."""
        logits = MODEL(image)
        others = logits.scatter(1, target[:, None], float("-inf")).amax(1)
        return logits.gather(1, target[:, None]).squeeze(1) - others

    assert (lead(x_adv) > lead(x)).all()


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


def test_noise_asks_no_model_and_shows_each_of_its_patterns() -> None:
    def refuses(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("noise asked the model")

    x = torch.full((200, 3, 16, 16), 0.5)
    eps = torch.full((200, 1, 1, 1), 8 * GREY)
    eps[100:] = 16 * GREY
    y = torch.zeros(200, dtype=torch.int64)
    moved = make_attack(
        AttackConfig("noise"), refuses, x, y, eps, generator=torch.Generator().manual_seed(0), eight_bit=False
    )
    pattern = (moved - x) / eps
    assert pattern.abs().max() <= 1 + 1e-4
    of_one_colour = pattern.flatten(2).std(2).amax(1) < 1e-4
    of_columns = (pattern - pattern[:, :, :1]).abs().amax((1, 2, 3)) < 1e-4
    whole_budget = (pattern.abs() > 1 - 1e-4).flatten(1).all(1)
    for kind in (of_one_colour, of_columns & ~of_one_colour, whole_budget & ~of_columns, ~whole_budget):
        assert 20 <= kind.sum() <= 110
