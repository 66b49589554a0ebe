import numpy as np
import pytest

from purifyctl.evaluation import masking
from purifyctl.evaluation.masking import Finding, Flags


def first(hits: int, n: int = 200) -> Flags:
    """The first `hits` of `n` are true."""
    return np.arange(n) < hits


RAISED = {
    "randomness": masking.randomness(first(3)),
    "softmax": masking.softmax(first(200)),
    "zero gradients": masking.zero_gradients(first(1)),
    "less knowledge does better": masking.less_knowledge_does_better(first(90), first(60), "Square-5000 (black_box)"),
    "more steps do worse": masking.more_steps_do_worse(first(90), first(60), "PGD-10"),
    "nothing changes": masking.nothing_changes(first(0), first(90), "PGD-100 (adaptive, on none)"),
    "label leak": masking.label_leak(first(150), first(120)),
    "the attack's own flag": masking.own_flags(["Square did better, for 3 of 200", "Square did better, for 3 of 200"]),
}
QUIET = {
    "randomness": masking.randomness(first(0)),
    "softmax": masking.softmax(first(199)),
    "zero gradients": masking.zero_gradients(first(0)),
    "less knowledge does better": masking.less_knowledge_does_better(first(60), first(90), "Square-5000 (black_box)"),
    "more steps do worse": masking.more_steps_do_worse(first(60), first(60), "PGD-10"),
    "nothing changes": masking.nothing_changes(first(1), first(90), "PGD-100 (adaptive, on none)"),
    "label leak": masking.label_leak(first(100), first(120)),
    "the attack's own flag": masking.own_flags([]),
}


@pytest.mark.parametrize("check", masking.CHECKS)
def test_every_check_fires_and_stays_quiet(check: str) -> None:
    finding = RAISED[check]
    assert isinstance(finding, Finding)
    assert finding.check == check
    assert "of 200" in finding.text or check == "softmax"
    assert QUIET[check] is None


def test_a_single_image_is_no_masking() -> None:
    assert masking.more_steps_do_worse(first(61), first(60), "PGD-10") is None
    assert masking.more_steps_do_worse(first(7, 20), first(6, 20), "PGD-10") is None
    assert masking.more_steps_do_worse(first(8, 20), first(6, 20), "PGD-10") is not None


def test_an_attack_that_changes_nothing_is_suspicious_only_where_another_changes_something() -> None:
    assert masking.nothing_changes(first(0, 32), first(0, 32), "PGD-100") is None
    assert masking.nothing_changes(first(0, 32), first(1, 32), "PGD-100") is None
    assert masking.nothing_changes(first(0, 32), first(2, 32), "PGD-100") is not None


def test_nothing_is_found_in_nothing() -> None:
    nothing = first(0, 0)
    assert masking.softmax(nothing) is None
    assert masking.randomness(nothing) is None
    assert masking.label_leak(nothing, nothing) is None
    assert masking.nothing_changes(nothing, first(90), "PGD-100") is None


def test_probabilities_are_distinguished_from_logits() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]], np.float32)
    exponentials = np.exp(logits)
    assert not masking.are_probabilities(logits).any()
    assert masking.are_probabilities(exponentials / exponentials.sum(1, keepdims=True)).all()
