"""Trains everything of a plan, one training for each core, each for the same minutes."""

import json
import multiprocessing
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from purifyctl import console
from purifyctl.classifiers import load_classifier, own_square
from purifyctl.config import TrainConfig
from purifyctl.config.train import for_squares
from purifyctl.files import write_json
from purifyctl.machine import keep_freed_memory
from purifyctl.training import train_recipe
from tests.benchmarks.paper.plan import DONE, Plan, Training

MULTIPLE = 32  # pixels; the U-Net takes multiples of it, so all methods get the same squares
PROGRESS = (0.0, 1 / 6, 1 / 3)  # of the training: the paper shows epochs 0, 50 and 100 of 300
FIRST_STEPS = 10  # "epoch 0"


class StoppedError(Exception):
    """Ctrl-C ended a training."""


def train_all(plan: Plan) -> None:
    """Train what is not trained yet.

    Raises
    ------
    StoppedError
        Ctrl-C; the next call continues.
    """
    missing = [training for training in plan.trainings if training not in plan.trained]
    if not missing:
        return
    rounds = -(-len(missing) // plan.jobs)
    console.note(
        f"{len(missing)} trainings of {plan.minutes:g} minutes, {plan.jobs} at a time: about "
        f"{rounds * plan.minutes:.0f} minutes, and a minute more for each to start and to be checked."
    )
    stopped = False
    with ProcessPoolExecutor(plan.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        begun = {
            pool.submit(_train, plan.recipe(training), plan.folder(training), shares_of(plan, training)): training
            for training in missing
        }
        for done in as_completed(begun):
            if done.exception():
                pool.shutdown(wait=False, cancel_futures=True)
            facts = done.result()
            if facts["interrupted"]:
                stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                break
            console.note(f"{begun[done].name}: {facts['steps']} steps.")
    if stopped:
        raise StoppedError


def shares_of(plan: Plan, training: Training) -> Sequence[float]:
    """When to keep a purifier on the way, as shares of the training: Figures 7 and 8 show these."""
    first = (plan.classifier, plan.attacks[0], plan.budgets[0])
    shown = (training.classifier, training.attack, training.eps) == first and training.method in ("pix2pix", "paper")
    return PROGRESS if shown else ()


def _train(config: TrainConfig, folder: Path, shares: Sequence[float]) -> dict[str, Any]:
    """One training, in a process of its own, with one core. Returns the facts that `DONE` holds."""
    torch.set_num_threads(1)
    keep_freed_memory()
    console.hush()
    config = for_squares(config, own_square(load_classifier(config.classifiers[0]), MULTIPLE))
    for share in shares:
        kept = folder / "progress" / f"{share:.3f}.safetensors"
        if not kept.exists():
            step = _step_at(folder, share * 60 * config.minutes) if share else FIRST_STEPS
            if train_recipe(config, folder, max_steps=step).interrupted:
                return {"interrupted": True}
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / "last.safetensors", kept)
    result = train_recipe(config, folder)
    facts = {"steps": result.steps, "held_out": result.held_out, "interrupted": result.interrupted}
    if not result.interrupted:
        (folder / "state.pt").unlink()  # it is large, and nothing continues from here
        write_json(folder / DONE, facts)
    return facts


def _step_at(folder: Path, seconds: float) -> int:
    """The step at which a training reaches `seconds`, from the pace of what it has done."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return max(int(state["step"]) + 1, round(int(state["step"]) * seconds / float(state["trained_s"])))


def facts_of(plan: Plan, training: Training) -> dict[str, Any]:
    """What `DONE` of a training holds."""
    facts: dict[str, Any] = json.loads((plan.folder(training) / DONE).read_text())
    return facts
