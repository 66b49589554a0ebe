import pytest
import torch

from purifyctl.attacks import within_budget
from purifyctl.config import AttackConfig
from purifyctl.evaluation.chunk import attack_chunk, climb
from purifyctl.evaluation.defences import PURIFIER, eight_bits
from purifyctl.evaluation.ladder import Rung
from tests.evaluating import PGD, photographs_of, subject

pytestmark = pytest.mark.usefixtures("one_thread")


def test_all_defences_face_the_same_gray_box_examples() -> None:
    it = subject()
    rows = climb(Rung("gray_box", PGD, 8 / 255), photographs_of(it))
    by_defence = {name: [row.max_delta for row in rows if row.defence == name] for name in it.defences}
    assert len({tuple(deltas) for deltas in by_defence.values()}) == 1
    made = attack_chunk(Rung("gray_box", PGD, 8 / 255), photographs_of(it))
    assert torch.equal(made.images, attack_chunk(Rung("gray_box", PGD, 8 / 255), photographs_of(it)).images)
    predictions = it.classifier(it.defences["JPEG-75"].apply(made.images)).argmax(1).tolist()
    assert predictions == [row.prediction for row in rows if row.defence == "JPEG-75"]


@pytest.mark.parametrize("eps", [1 / 255, 2.5 / 255, 8 / 255])
@pytest.mark.parametrize("pipeline", ["", PURIFIER])
def test_rungs_stay_within_their_budget_in_whole_grey_levels(eps: float, pipeline: str) -> None:
    it = subject()
    rung = Rung(
        "adaptive" if pipeline else "gray_box", AttackConfig("pgd", steps=3, restarts=2), eps, pipeline=pipeline
    )
    made, x = attack_chunk(rung, photographs_of(it)), photographs_of(it).x
    for images in (made.images, made.floats):
        assert images is not None
        assert 0.5 / 255 < (images - x).abs().max() <= eps + 1e-6
    torch.testing.assert_close(made.images * 255, torch.round(made.images * 255), atol=1e-4, rtol=0)


def test_rounding_keeps_to_a_budget_that_is_no_whole_grey_level() -> None:
    x = eight_bits(torch.rand(1, 3, 8, 8))
    attacked = torch.clamp(x + 2.5 / 255 * torch.randn_like(x).sign(), 0, 1)
    assert (within_budget(attacked, x, 2.5 / 255) - x).abs().max() <= 2 / 255 + 1e-6


def test_the_adaptive_attacker_leaves_images_alone_that_are_wrong_already() -> None:
    it = subject()
    clean = photographs_of(it)
    clean.y[:2] = (clean.clean[PURIFIER][:2] + 1) % 10
    clean.y[2:] = clean.clean[PURIFIER][2:]
    rows = climb(Rung("adaptive", PGD, 8 / 255, pipeline=PURIFIER), clean)
    assert [row.attacked for row in rows] == [False, False, True, True]
    assert [row.max_delta for row in rows[:2]] == [0, 0]
    assert all(row.prediction != row.true_index for row in rows[:2])
    assert {row.defence for row in rows} == {PURIFIER}


def test_restarts_leave_no_more_images_right_than_one_start() -> None:
    it = subject()
    clean = photographs_of(it, n=8)
    right = []
    for restarts in (1, 4):
        attack = AttackConfig("pgd", steps=2, restarts=restarts)
        made = attack_chunk(Rung("gray_box", attack, 2 / 255), clean)
        right.append(int((it.classifier(made.images).argmax(1) == clean.y).sum()))
    assert right[1] <= right[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deepfool", "cw", "autoattack"])
def test_attacks_of_libraries_go_through_the_whole_pipeline(kind: str) -> None:
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    it = subject()
    clean = photographs_of(it, n=2)
    clean.y[:] = clean.clean[PURIFIER]
    rung = Rung("adaptive", AttackConfig(kind), 32 / 255, pipeline=PURIFIER)
    made = attack_chunk(rung, clean)
    in_floats = kind == "autoattack"  # the others work on whole grey levels themselves
    assert (made.floats is not None) == in_floats
    assert 0 < (made.images - clean.x).abs().max() <= 32 / 255 + 1e-6
    torch.testing.assert_close(made.images * 255, torch.round(made.images * 255), atol=1e-4, rtol=0)
    rows = climb(rung, clean)
    assert all((row.float_prediction is not None) == in_floats and row.attacked for row in rows)


@pytest.mark.slow
def test_an_attack_without_a_budget_searches_once_for_all_budgets() -> None:
    pytest.importorskip("foolbox")
    rungs = [Rung("gray_box", AttackConfig("deepfool", steps=5), eps / 255) for eps in (2, 4)]
    shared, n = photographs_of(subject(), n=4), 3
    some = set(shared.paths[:n])
    together = [attack_chunk(rung, shared.only(some)).images for rung in rungs]
    assert len(shared.found) == 1
    attack_chunk(rungs[0], shared)  # more photographs: another search
    assert [len(x) for x in shared.found.values()] == [n, 4]
    alone = [attack_chunk(rung, photographs_of(subject(), n=4).only(some)).images for rung in rungs]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not torch.equal(*together)
