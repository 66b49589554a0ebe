"""What `train fit` makes of minutes: it fits, and then measures recovery on other photographs, with true labels.

    python -m tests.benchmarks.fit --photos DIR --val DIR --minutes 30 --classifier mobilenet_v2 \\
        [--weights mobilenet_v2=FILE] --out runs/fit-30 [--json FILE]

How recovery is measured: `tests/benchmarks/recovery.py`. `--minutes 0` measures the shipped purifier. `--square 256`
measures squares of 256 pixels instead of the classifier's own: the classifier then resizes what was purified.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from purifyctl.config.recipes import find_recipe
from purifyctl.config.train import TrainOptions
from purifyctl.machine import keep_freed_memory, machine
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images
from purifyctl.training import train_recipe
from purifyctl.training.workers import processes_that_pay
from tests.benchmarks.recovery import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="to fit on")
    parser.add_argument("--val", type=Path, required=True, help="to measure on; folders named after classes")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--weights", default="", help="FILE, or NAME=FILE")
    parser.add_argument("--square", type=int, default=0, help="pixels; 0: the classifier's own")
    parser.add_argument("--n", type=int, default=256, help="photographs to measure on, evenly spaced")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    keep_freed_memory()
    weights = (given.weights,) if given.weights else ()
    options = TrainOptions(photos=given.photos, classifier=given.classifier, weights=weights, out=given.out)
    recipe = find_recipe("fit", "train")
    facts: dict[str, Any] = {"minutes": given.minutes, "classifier": given.classifier, **machine()}
    if given.minutes:
        options = TrainOptions(**{**options.__dict__, "minutes": given.minutes})
        config = options.config(recipe)
        done = train_recipe(config, given.out, processes=processes_that_pay(config))
        facts |= {"steps": done.steps, "photographs": len(list_images(given.photos))}
    chosen = options.config(recipe).classifiers[0]
    purifier = given.out if given.minutes else shipped_checkpoint(chosen)
    facts |= measure(purifier, chosen, given.val, given.n, given.square)
    print(json.dumps(facts, indent=1))
    if given.json:
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
