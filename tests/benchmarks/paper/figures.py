"""From outcomes to `figures.json`: accuracies, recoveries and confidences with their intervals."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from purifyctl import console
from purifyctl.checkpoint import load_purifier
from purifyctl.config import AttackConfig
from purifyctl.files import write_json
from purifyctl.machine import machine
from purifyctl.metrics import Share, misclassification_rate, recovery, recovery_interval, top1
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images
from tests.benchmarks.paper.measure import CLEAN, Ground, Outcome, load_ground
from tests.benchmarks.paper.plan import NONE, SHIPPED, Plan, Training, condition, short_name
from tests.benchmarks.paper.trainings import facts_of

FIGURES = "figures.json"
FGSM, PGD = AttackConfig("fgsm"), AttackConfig("pgd", steps=10)
Attacks = dict[str, tuple[AttackConfig, float]]  # by the condition's name


def measure_all(plan: Plan) -> dict[str, Any]:
    """Measure every training that came to its end. Writes `figures.json`, and returns what it holds."""
    cells, clean = [], {}
    for chosen in (plan.classifier, *plan.others):
        own = [training for training in plan.trained if training.classifier == chosen]
        if not own:
            continue
        ground = load_ground(chosen, plan.val, plan.n, plan.out)
        clean[short_name(chosen)] = {"n": len(ground.truth), "square": ground.clean.shape[1]}
        attacks = conditions(plan, chosen == plan.classifier)
        names = {NONE: None, SHIPPED: None, **{training.name: training for training in own}}
        for name, training in names.items():
            net = purifier_of(plan, name, training)
            measured = [c for c in attacks if training is None or attacks[c][1] in (training.eps, 0.0)]
            cells += list(_cells(ground, attacks, measured, name, training, net))
            console.note(f"{short_name(chosen)}, {name}: measured.")
    figures = {
        "minutes": plan.minutes,
        "jobs": plan.jobs,
        "photographs": len(list_images(plan.photos)),
        "machine": machine(),
        "classifiers": clean,
        "steps": {training.name: facts_of(plan, training)["steps"] for training in plan.trained},
        "cells": cells,
    }
    write_json(plan.out / FIGURES, figures)
    return figures


def conditions(plan: Plan, is_paper_classifier: bool) -> Attacks:
    """What a classifier's photographs are measured under: clean, both attacks of the paper, each budget."""
    attacks = {CLEAN: (FGSM, 0.0)}
    for attack in (FGSM, PGD) if is_paper_classifier else (PGD,):
        for eps in plan.budgets if is_paper_classifier else plan.budgets[:1]:
            attacks[condition(attack, eps)] = (attack, eps)
    return attacks


def purifier_of(plan: Plan, name: str, training: Training | None) -> nn.Module | None:
    """The network that `name` stands for; None: no purifier."""
    if name == NONE:
        return None
    return load_purifier(plan.folder(training) if training else shipped_checkpoint()).net


def _cells(
    ground: Ground, attacks: Attacks, measured: list[str], name: str, training: Training | None, net: nn.Module | None
) -> Iterator[dict[str, Any]]:
    def outcome(condition: str, purifier: str, net: nn.Module | None) -> Outcome:
        return ground.outcome(condition, purifier, net, lambda: ground.attacked(condition, *attacks[condition]))

    undefended, when_clean = outcome(CLEAN, NONE, None), outcome(CLEAN, name, net)
    for where in measured:
        yield {
            "classifier": short_name(ground.chosen),
            "condition": where,
            "purifier": name,
            "method": training.method if training else name,
            "trained_on": condition(training.attack, training.eps) if training else "",
            **figures_of(outcome(where, name, net), undefended, when_clean, ground.truth),
        }


def figures_of(outcome: Outcome, undefended: Outcome, when_clean: Outcome, truth: NDArray[np.int64]) -> dict[str, Any]:
    """The figures of one cell.

    Parameters
    ----------
    undefended
        Of the clean photographs, without a purifier.
    when_clean
        Of the clean photographs, through the same purifier as `outcome`.
    """
    clean = undefended.prediction
    held = np.where(when_clean.prediction == truth, outcome.prediction, -1)  # right under attack and when clean
    return {
        "top1": _share(top1(outcome.prediction, truth)),
        "misclassified": _share(misclassification_rate(outcome.prediction, clean)),
        "true_confidence": round(float(outcome.true_confidence.mean()), 4),
        "top1_confidence": round(float(outcome.top1_confidence.mean()), 4),
        "recovery": _with_interval(outcome.prediction, clean, truth),
        "recovery_held": _with_interval(held, clean, truth),
    }


def _share(share: Share) -> dict[str, Any]:
    return {"hits": share.hits, "n": share.n}


def _with_interval(
    prediction: NDArray[np.int64], clean: NDArray[np.int64], truth: NDArray[np.int64]
) -> list[float] | None:
    """[recovery, low, high]; None if no clean photograph is right."""
    value, interval = recovery(prediction, clean, truth), recovery_interval(prediction, clean, truth)
    return None if value is None or interval is None else [round(v, 4) for v in (value, *interval)]
