import json
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import pytest
import torch

from purifyctl.config import AttackConfig
from purifyctl.evaluation.chunk import climb
from purifyctl.evaluation.defences import NONE, PURIFIER, network_defence
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.records import Outcome, Table, part_file, read_tables, write_records
from purifyctl.evaluation.summary import WORST, summarise
from tests import tiny
from tests.evaluating import FGSM, PGD, photographs_of, subject

pytestmark = pytest.mark.usefixtures("one_thread")


class _Noise(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x + 0.2 * torch.randn_like(x), 0, 1)


class _Step(torch.nn.Module):
    """It has no gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x * 7) / 7


@pytest.mark.parametrize(
    ("net", "classifier", "check"),
    [
        (_Noise(), tiny.animals(), "randomness"),
        (_Step(), tiny.animals(), "zero gradients"),
        (tiny.purifier(), torch.nn.Sequential(tiny.animals(), torch.nn.Softmax(1)), "softmax"),
    ],
)
def test_masking_is_found_where_it_is_built_in(
    net: torch.nn.Module, classifier: Any, check: str, tmp_path: Path
) -> None:
    defences = {NONE: subject().defences[NONE], PURIFIER: network_defence(PURIFIER, net)}
    it = subject(defences=defences, classifier=classifier.eval())
    ladder = (Rung("clean"), Rung("adaptive", PGD, 8 / 255, pipeline=PURIFIER))
    for rung in ladder:
        write_records(climb(rung, photographs_of(it)), part_file(tmp_path, rung.key, 0))
    (cell,) = (cell for cell in summarise(tables(tmp_path, ladder), ladder, 0) if cell["threat_model"] == "adaptive")
    assert check in {warning["check"] for warning in cell["warnings"]}
    assert json.dumps(cell)


def tables(folder: Path, rungs: Iterable[Rung]) -> dict[str, dict[str, Table]]:
    return {rung.key: read_tables(folder, rung.key) for rung in rungs}


def by_hand(
    folder: Path, rung: Rung, right: dict[str, int], n: int = 10, *, wrong: Set[int] = frozenset(), sure: float = 0.5
) -> None:
    """Rows of a rung on `n` images. By defence, the first `right` of them are right, except those in `wrong`."""
    rows = [
        Outcome(
            f"{i}.png",
            defence,
            true_index=0,
            prediction=0 if i < hits and i not in wrong else 1,
            float_prediction=0 if i < hits - 1 else 1,
            true_confidence=sure,
            top1_confidence=0.75,
            attacked=rung.attack is not None,
            max_delta=rung.eps,
            differs=False,
            probabilities=False,
            zero_gradient=False,
        )
        for defence, hits in right.items()
        for i in range(n)
    ]
    write_records(rows, part_file(folder, rung.key, 0))


def test_an_attack_through_the_purifier_that_changes_nothing_is_reported(tmp_path: Path) -> None:
    eps = 8 / 255
    stuck = Rung("adaptive", PGD, eps, pipeline=PURIFIER)
    rights = {
        Rung("clean"): {NONE: 9, PURIFIER: 5},
        Rung("gray_box", FGSM, eps): {NONE: 2, PURIFIER: 5},
        Rung("adaptive", PGD, eps, pipeline=NONE): {NONE: 0},
        stuck: {PURIFIER: 5},
    }
    for rung, right in rights.items():
        by_hand(tmp_path, rung, right)
    cells = summarise(tables(tmp_path, rights), tuple(rights), seed=0)
    found = {
        (cell["threat_model"], cell["pipeline"], cell["defence"]): warning["text"]
        for cell in cells
        for warning in cell["warnings"]
        if warning["check"] == "nothing changes"
    }
    other = f"{PGD.name} (adaptive, on {NONE})"
    text = f"this attack changes 0 of 10 predictions, {other} 9 of 10"
    assert found == {("adaptive", PURIFIER, PURIFIER): text}  # the gray-box attacker does not know the purifier


def test_cells_and_warnings_are_those_of_hand_made_rows(tmp_path: Path) -> None:
    eps = 8 / 255
    more = AttackConfig("pgd", steps=10)
    rights = {
        Rung("clean"): {NONE: 8, "JPEG-75": 5, PURIFIER: 7},
        Rung("gray_box", FGSM, eps): {NONE: 3, "JPEG-75": 7, PURIFIER: 6},
        Rung("gray_box", PGD, eps): {NONE: 2, "JPEG-75": 4, PURIFIER: 5},
        Rung("gray_box", more, eps): {NONE: 4, "JPEG-75": 4, PURIFIER: 6},
        Rung("black_box", AttackConfig("square"), eps, pipeline=PURIFIER): {PURIFIER: 1},
        Rung("adaptive", more, eps, pipeline=PURIFIER): {PURIFIER: 3},
        Rung("adaptive", PGD, eps, pipeline=PURIFIER, bpda=True): {PURIFIER: 3},
    }
    for rung, right in rights.items():
        by_hand(tmp_path, rung, right)
    cells = summarise(tables(tmp_path, rights), tuple(rights), seed=3)
    by_name = {(c["threat_model"], c["attack"], c["defence"]): c for c in cells}
    assert len(cells) == 3 + 3 * 3 + 3 + 3 + 1  # and the worst of the gray-box attacks, and of the adaptive ones
    assert [by_name["gray_box", WORST, name]["robust_top1"] for name in (NONE, "JPEG-75", PURIFIER)] == [0.2, 0.4, 0.5]
    assert by_name["adaptive", WORST, PURIFIER]["robust_top1"] == 0.3
    assert by_name["gray_box", WORST, PURIFIER]["clean_top1"] == 0.8
    purified = by_name["gray_box", "FGSM", PURIFIER]
    assert (purified["clean_top1"], purified["purified_clean_top1"], purified["robust_top1"]) == (0.8, 0.7, 0.6)
    assert purified["robust_top1_float"] == 0.5
    assert (purified["twice_right_top1_hits"], purified["twice_right_top1_n"]) == (6, 10)
    leaked = by_name["gray_box", "FGSM", "JPEG-75"]
    assert (leaked["robust_top1"], leaked["twice_right_top1"]) == (0.7, 0.5)
    assert purified["recovery"] == pytest.approx(6 / 8)
    assert (purified["attack_success_rate_hits"], purified["attack_success_rate_n"]) == (1, 7)
    assert purified["misclassification_rate"] == pytest.approx(0.2)
    assert (purified["true_confidence"], purified["top1_confidence"]) == (0.5, 0.75)
    assert by_name["clean", "clean", PURIFIER]["recovery"] == pytest.approx(7 / 8)
    warnings = {name: {w["check"]: w["text"] for w in c["warnings"]} for name, c in by_name.items() if c["warnings"]}
    assert warnings == {
        ("gray_box", "FGSM", "JPEG-75"): {
            "label leak": "7 of 10 are right when attacked, 5 of 10 when clean",
        },
        # bad examples flatter every defence that faces them
        **{
            ("gray_box", "PGD-10", defence): {
                "more steps do worse": "PGD-3 leaves 2 of 10 right, this attack 4 of 10",
            }
            for defence in (NONE, "JPEG-75", PURIFIER)
        },
        ("adaptive", WORST, PURIFIER): {
            "less knowledge does better": "Square-5000 (black_box) leaves 1 of 10 right, this attack 3 of 10",
        },
        ("adaptive", "PGD-10", PURIFIER): {
            "less knowledge does better": "Square-5000 (black_box) leaves 1 of 10 right, this attack 3 of 10",
        },
    }


def test_the_worst_of_several_attacks_is_taken_image_by_image(tmp_path: Path) -> None:
    ladder = (Rung("clean"), *(Rung("gray_box", attack, 4 / 255) for attack in (FGSM, PGD)))
    ladder += (Rung("gray_box", FGSM, 8 / 255),)  # alone with its budget: no choice, and no worst
    by_hand(tmp_path, ladder[0], {NONE: 4}, n=4)
    for rung, wrong, sure, n in zip(ladder[1:], ({0}, {1}, {2}), (0.4, 0.3, 0.2), (4, 3, 4), strict=True):
        by_hand(tmp_path, rung, {NONE: n}, n=n, wrong=wrong, sure=sure)
    cells = summarise(tables(tmp_path, ladder), ladder, seed=0)
    (worst,) = (cell for cell in cells if cell["attack"] == WORST)
    assert (worst["n"], worst["eps"]) == (4, 4 / 255)
    assert worst["robust_top1"] == 2 / 4
    # the first is fooled by FGSM, the second by PGD, the third least sure under PGD, the fourth has met FGSM alone
    assert worst["true_confidence"] == pytest.approx((0.4 + 0.3 + 0.3 + 0.4) / 4)
