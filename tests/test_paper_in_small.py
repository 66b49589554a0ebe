"""`make reproduce-small`: the paper's trainings, tables and figures in small, and the page that shows them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from purifyctl.config import AttackConfig, ClassifierConfig
from tests import tiny
from tests.benchmarks.paper import __main__ as command
from tests.benchmarks.paper import tables
from tests.benchmarks.paper.figures import figures_of
from tests.benchmarks.paper.measure import Outcome
from tests.benchmarks.paper.plan import METHODS, Plan

CELL = {
    "top1": {"hits": 5, "n": 10},
    "misclassified": {"hits": 5, "n": 10},
    "true_confidence": 0.5,
    "top1_confidence": 0.6,
    "recovery": [0.9, 0.8, 1.0],
    "recovery_held": [0.85, 0.7, 0.95],
}


def plan(**changes: object) -> Plan:
    settings = {
        "photos": Path("photos"),
        "val": Path("val"),
        "out": Path("out"),
        "minutes": 3.0,
        "jobs": 2,
        "n": 256,
        "budgets": (38 / 255, 17 / 255),
        "attacks": (AttackConfig("fgsm"), AttackConfig("pgd", steps=10)),
        "methods": METHODS,
        "classifier": ClassifierConfig("mobilenet_v2"),
        "others": (ClassifierConfig("tf_efficientnet_lite0"),),
        "perceptual_weights": "vgg19.safetensors",
        "crop": None,
        "batch": None,
        **changes,
    }
    return Plan(**settings)


def test_each_training_has_one_attack_one_budget_and_the_minutes_of_all() -> None:
    trainings = plan().trainings
    assert [t.name for t in trainings[:3]] == [
        "mobilenet_v2-fgsm-38-pix2pix",
        "mobilenet_v2-fgsm-38-paper",
        "mobilenet_v2-fgsm-38-ours",
    ]
    assert len(trainings) == 2 * 2 * 4 + 3 == len({t.name for t in trainings})
    for training in trainings:
        recipe = plan().recipe(training)
        (attack,) = recipe.attacks
        assert (attack.kind, attack.steps, attack.eps) == (
            training.attack.kind,
            training.attack.steps,
            (training.eps, training.eps),
        )
        assert (recipe.minutes, recipe.resize, recipe.image_size) == (3.0, 0, 128)


def test_pix2pix_and_the_papers_objective_differ_by_the_perceptual_term_alone() -> None:
    pix2pix, paper = (plan().recipe(training) for training in plan().trainings[:2])
    assert (paper.objective.gan, paper.objective.l1, paper.objective.perceptual) == (1, 100, 1)
    assert (pix2pix.objective.gan, pix2pix.objective.l1, pix2pix.objective.perceptual) == (1, 100, 0)
    assert pix2pix.network == paper.network
    assert pix2pix.identity_share == paper.identity_share == 0


def test_figures_count_the_papers_misclassification_and_what_stays_right_when_clean() -> None:
    truth = np.array([0, 1, 2, 3])
    shares = np.full(4, 0.5, np.float32)

    def said(*classes: int) -> Outcome:
        return Outcome(np.array(classes), shares, shares)

    found = figures_of(said(0, 1, 0, 0), undefended=said(0, 1, 2, 0), when_clean=said(0, 2, 2, 0), truth=truth)
    assert found["top1"] == {"hits": 2, "n": 4}
    assert found["misclassified"] == {"hits": 1, "n": 4}
    assert found["recovery"][0] == pytest.approx(2 / 3, abs=1e-4)
    assert found["recovery_held"][0] == pytest.approx(1 / 3, abs=1e-4)


def test_tables_set_the_papers_figures_beside_ours() -> None:
    rows = [("clean", "none", ""), ("fgsm-38", "none", ""), ("fgsm-38", "paper", "fgsm-38"), ("fgsm-38", "ours", "x")]
    cells = [
        {"classifier": "m", "condition": c, "purifier": p, "method": p, "trained_on": on, **CELL} for c, p, on in rows
    ]
    figures = {
        "photographs": 10,
        "minutes": 3,
        "machine": {"processor": "a processor"},
        "classifiers": {"m": {"n": 10}},
        "steps": {"m-fgsm-38-paper": 1234},
        "cells": cells,
    }
    page = tables.tables(figures)
    assert "| clean, no purifier | 54.83 % | 50.0 % [23.7, 76.3] |" in page
    assert "cGAN + 100 L1 + 1 perceptual | 50.34 % | 50.0 % [23.7, 76.3] (0.90 [0.80, 1.00]; 0.85) |" in page
    assert "ours, from new weights" not in page  # it was trained on something else
    assert "m-fgsm-38-paper 1,234" in page


def test_the_page_shows_the_figures_that_are_kept() -> None:
    page = tables.PAGE.read_text()
    assert tables.with_block(page, tables.kept()) == page, "python -m tests.benchmarks.paper.tables"
    assert tables.BEGIN in page


@pytest.mark.slow
def test_the_command_does_all_of_it_and_a_second_call_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolutions = {"features.0.weight": torch.randn(64, 3, 3, 3) / 5, "features.0.bias": torch.zeros(64)}
    save_file(convolutions, str(tmp_path / "vgg19.safetensors"))
    words = {
        "--photos": tiny.photographs(tmp_path / "photos", 12, labelled=True),
        "--val": tiny.photographs(tmp_path / "val", 9, labelled=True),
        "--out": tmp_path / "out",
        "--minutes": "0.25",
        "--jobs": "2",
        "--n": "8",
        "--budgets": "38/255",
        "--attacks": "fgsm",
        "--methods": "pix2pix,paper",
        "--classifier": "tests.tiny:animals",
        "--other": "tests.tiny:birds",
        "--perceptual-weights": tmp_path / "vgg19.safetensors",
        "--crop": "32",
        "--batch": "2",
    }
    monkeypatch.setattr(sys, "argv", ["paper", *(str(word) for pair in words.items() for word in pair)])
    command.main()
    out = tmp_path / "out"
    figures = json.loads((out / "figures.json").read_text())
    trained = {cell["method"] for cell in figures["cells"] if cell["trained_on"]}
    assert trained == {"pix2pix", "paper"}
    assert "Table 5" in (out / "tables.md").read_text()
    assert "away from class" in (out / "readings.md").read_text()
    for number in (6, 7, 8):
        with Image.open(out / f"figure-{number}.png") as figure:
            assert figure.width > 100

    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    shutil.rmtree(out / "measured" / "tests_tiny_animals-8" / "outcomes" / "clean")
    command.main()  # trains nothing, and measures what is missing
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")} == before
    again = json.loads((out / "figures.json").read_text())
    counts = [(cell["purifier"], cell["condition"], cell["top1"]) for cell in figures["cells"]]
    assert [(cell["purifier"], cell["condition"], cell["top1"]) for cell in again["cells"]] == counts
    assert again["steps"] == figures["steps"]
