"""How long an evaluation says that it will take."""

import pytest

from purifyctl import console
from purifyctl.config import AttackConfig
from purifyctl.evaluation.defences import PURIFIER
from purifyctl.evaluation.expected import Expected, say_how_long
from purifyctl.evaluation.ladder import Rung
from tests.evaluating import photographs_of, subject

PGD10, PGD100 = AttackConfig("pgd", steps=10), AttackConfig("pgd", steps=100)
EPS = 8 / 255
CHEAP, DEAR = Rung("gray_box", PGD10, EPS), Rung("adaptive", PGD100, EPS, pipeline=PURIFIER)
CHECK = Rung("adaptive", PGD100, EPS, pipeline=PURIFIER, bpda=True)
LADDER = (Rung("clean"), CHEAP, DEAR, CHECK)


def todo(*rungs: Rung, n: int = 10) -> dict[tuple[str, int], int]:
    return {(rung.key, 0): n for rung in rungs}


def test_a_rung_costs_what_its_gradients_cost_until_it_is_measured() -> None:
    expected = Expected(LADDER, {})
    assert expected.seconds(todo(*LADDER)) == 0  # nothing is known
    expected.time_gradients(photographs_of(subject()))
    cheap, dear = (expected.seconds(todo(rung)) for rung in (CHEAP, DEAR))
    assert dear > 4 * cheap > 0  # ten times as many gradients, through the purifier, too
    expected.note(CHEAP, 4, 8.0)
    assert expected.seconds(todo(CHEAP)) == pytest.approx(20.0)


def test_what_is_measured_corrects_the_guesses_for_rungs_of_the_same_kind() -> None:
    expected = Expected(LADDER, {})
    expected.time_gradients(photographs_of(subject()))
    before = expected.seconds(todo(CHECK))
    guessed = expected.seconds(todo(DEAR, n=4))
    expected.note(DEAR, 4, 3 * guessed)
    assert expected.seconds(todo(CHECK)) == pytest.approx(3 * before)


def test_an_earlier_calls_times_are_known_from_the_start() -> None:
    assert Expected(LADDER, {DEAR.key: (30.0, 10)}).seconds(todo(DEAR, n=100)) == pytest.approx(300.0)


def test_a_search_without_a_budget_is_paid_once() -> None:
    ladder = tuple(Rung("gray_box", AttackConfig("deepfool"), eps) for eps in (2 / 255, 4 / 255))
    expected = Expected(ladder, {})
    expected.time_gradients(photographs_of(subject()))
    first, second = (expected.seconds(todo(rung)) for rung in ladder)
    assert first > 10 * second


def test_a_check_that_nobody_asked_for_is_named_with_its_share(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_settings", console._Settings())
    measured = {CHEAP.key: (10.0, 10), DEAR.key: (161.0, 10), CHECK.key: (217.0, 10), "clean": (0.0, 10)}
    say_how_long(Expected(LADDER, measured), todo(*LADDER), LADDER)
    said = " ".join(capsys.readouterr().err.split())
    assert "It will take about 6 min 28 s, 3 min 37 s of it for a masking check" in said
    assert "PGD-100 (BPDA identity)." in said
