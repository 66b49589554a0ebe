"""A training of the shipped recipe at the precision that is fastest here: half of its time, Ctrl-C, and the rest.

python -m tests.trial.training --device cuda --out gpu-trial
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.config.folders import TRAINING, TRAINING_LOG
from purifyctl.config.recipes import find_recipe
from purifyctl.training.run_folder import STATE
from tests.trial.before import PHOTOGRAPHS
from tests.trial.report import Figures

RECIPE, TRAINED = "shipped.toml", "trained"

MINUTES = {"cuda": 1.75, "cpu": 0.6}  # of steps; validating, starting and stopping come on top


def recipe(out: Path, device: str) -> Path:
    """The shipped recipe, at the fastest precision. On a CPU smaller, because a training of seconds needs 20 steps."""
    text = find_recipe("shipped", "train").read_text()
    changed = {"\nimage_size": '\nprecision = "auto"\nimage_size'}
    if device == "cpu":
        changed |= {"resize = 224": "resize = 96", "image_size = 160": "image_size = 64"}
        changed |= {"batch_size = 16": "batch_size = 4"}
    for old, new in changed.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = out / RECIPE
    file.write_text(text)
    return file


def call(out: Path, file: Path, device: str, *, interrupted: bool) -> tuple[int, dict[str, Any], float]:
    """One call of `purifyctl train`; interrupted: Ctrl-C in the middle. Exit code, its result, seconds."""
    minutes = MINUTES[device]
    words = ["train", file, "--photos", out / PHOTOGRAPHS, "--out", out / TRAINED, "--minutes", f"{minutes:g}"]
    words += ["--classifier", CLASSIFIER, "--weights", WEIGHTS, "--processes", "1", "--device", device, "--json"]
    began = time.monotonic()
    # batches of four lose more to threads that wait for each other than they gain
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if device == "cpu" else None
    process = subprocess.Popen(
        [sys.executable, "-m", "purifyctl", *map(str, words)], stdout=subprocess.PIPE, text=True, env=environment
    )
    if interrupted:
        threading.Thread(target=_interrupt, args=(process, out, minutes * 60 / 2), daemon=True).start()
    said, _ = process.communicate()
    return process.returncode, json.loads(said) if said.strip() else {}, time.monotonic() - began


def _interrupt(process: "subprocess.Popen[str]", out: Path, seconds: float) -> None:
    """Ctrl-C, this long after the training has begun."""
    while process.poll() is None and not (out / TRAINED / TRAINING).exists():
        time.sleep(0.2)
    time.sleep(seconds)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)


def images_per_s(out: Path, minutes: float) -> float:
    """Photographs per second of the steps, over both calls, waiting for photographs included."""
    lines = [json.loads(line) for line in (out / TRAINED / TRAINING_LOG).read_text().splitlines()]
    last = [line for line in lines if "progress" in line][-1]
    batch = tomllib.loads((out / RECIPE).read_text())["batch_size"]
    return float(last["step"] * batch / (last["progress"] * minutes * 60))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    out, minutes = given.out, MINUTES[given.device]
    figures, file = Figures(out, "training"), recipe(out, given.device)
    shutil.rmtree(out / TRAINED, ignore_errors=True)  # of an earlier trial
    first, result, seconds = call(out, file, given.device, interrupted=True)
    stopped_at = int(result.get("steps", 0))
    figures.add(
        "first call, interrupted", first, "is its exit code; 130 is right", f"{seconds:.0f} s, step {stopped_at}"
    )
    second, result, seconds = call(out, file, given.device, interrupted=False)
    ended_at = int(result.get("steps", 0))
    figures.add("second call, which resumes", second, "is its exit code", f"{seconds:.0f} s, step {ended_at}")
    if (first, second) != (130, 0) or not 0 < stopped_at < ended_at:
        return 1
    precision = torch.load(out / TRAINED / STATE, map_location="cpu", weights_only=True)["precision"]
    sizes = tomllib.loads(file.read_text())
    note = f"{sizes['image_size']} pixels, batches of {sizes['batch_size']}, {precision}"
    figures.add("training", images_per_s(out, minutes), "images/s", note)
    held_out = result["held_out"]
    what = f"top-1 after the purifier, {held_out['labels']} labels, n = {held_out['n']}"
    figures.add("held out, clean", held_out["purified_clean_top1"], what, f"without it {held_out['clean_top1']:.3f}")
    for name, pair in held_out["attacked"].items():
        figures.add(f"held out, {name}", pair["purified_top1"], what, f"without it {pair['attacked_top1']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
