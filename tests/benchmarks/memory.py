"""What keeping freed memory is worth: milliseconds per image with and without it, in turns.

    python -m tests.benchmarks.memory [--rounds 3]

Each round is a process of its own: what the C library was asked to do cannot be undone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from purifyctl.attacks import behind, make_attack
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import AttackConfig, TrainConfig, read_recipe
from purifyctl.machine import keep_freed_memory
from purifyctl.shipped import shipped_checkpoint
from purifyctl.training.phases import plan_phases
from purifyctl.training.trainer import Trainer
from purifyctl.training.workers import Workers

RECIPE = Path(__file__).parents[2] / "train" / "shipped.toml"
BATCH = 16
ROWS = ("a training step, 160x160", "PGD-10", "PGD-10 through the purifier", "purify and classify")


def measure() -> dict[str, float]:
    """Milliseconds per image, for each of `ROWS`."""
    recipe = read_recipe(RECIPE, TrainConfig)
    recipe = replace(recipe, classifiers=recipe.classifiers[:1], phases=())
    classifier = load_classifier(recipe.classifiers[0].name, recipe.classifiers[0].weights)
    classifier = classifier.to(memory_format=torch.channels_last)
    purifier = load_purifier(shipped_checkpoint()).net
    small, x = torch.rand(BATCH, 3, 160, 160), torch.rand(BATCH, 3, 256, 256)
    y = torch.zeros(BATCH, dtype=torch.int64)
    pgd = AttackConfig("pgd")
    trainer = Trainer(plan_phases(recipe, 1000)[0], [classifier], Workers(torch.device("cpu")))
    small = small.contiguous(memory_format=torch.channels_last)
    steps = iter(range(1000))
    tasks: list[tuple[Callable[[], object], int]] = [
        (lambda: trainer.step(small, next(steps)), 25),
        (lambda: make_attack(pgd, classifier, x, y, 8 / 255), 1),
        (lambda: make_attack(pgd, behind(purifier, classifier), x, y, 8 / 255), 1),
        (torch.no_grad()(lambda: classifier(purifier(x))), 10),
    ]
    return {row: _milliseconds(task, times) for row, (task, times) in zip(ROWS, tasks, strict=True)}


def _milliseconds(task: Callable[[], object], times: int) -> float:
    """Per image, after one turn to warm up."""
    task()
    started = time.perf_counter()
    for _ in range(times):
        task()
    return (time.perf_counter() - started) / times / BATCH * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("kept", "given back"), help="what each round calls")
    arguments = parser.parse_args()
    if arguments.one:
        if arguments.one == "kept" and not keep_freed_memory():
            raise SystemExit("This C library cannot keep memory.")
        print(json.dumps(measure()))
        return
    found: dict[str, list[dict[str, float]]] = {"given back": [], "kept": []}
    for _ in range(arguments.rounds):
        for how, rounds in found.items():
            command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", how]
            rounds.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    print("| ms per image | memory given back | kept | times |\n|---|---|---|---|")
    for row in ROWS:
        back, kept = ([one[row] for one in rounds] for rounds in found.values())
        ratio = statistics.median(b / k for b, k in zip(back, kept, strict=True))
        print(f"| {row} | {statistics.median(back):.1f} | {statistics.median(kept):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
