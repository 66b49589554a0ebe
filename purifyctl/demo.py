"""`purifyctl demo`: everything once, on photographs that come inside packages, without a GPU or a network.

It attacks photographs, builds the CPU engine, runs the real pipeline on clean and attacked folders, and draws the
result. It calls the same functions as the other commands; nothing is precomputed.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl import console
from purifyctl.attacks import fgsm, pgd
from purifyctl.classifiers import Classifier, load_classifier
from purifyctl.config import format_eps
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.default import default_engine
from purifyctl.errors import ConfigError
from purifyctl.images import encode
from purifyctl.parquet import read_columns
from purifyctl.photographs import read_all
from purifyctl.run import RunOptions, run
from purifyctl.samples import copy_samples
from purifyctl.sources import ImageFile, list_images
from purifyctl.strip import Line, Picture, draw_strip

SIDE = 256  # pixels; the engine's size, so that attacked files reach it unchanged
EPS = 4 / 255  # L-infinity budget in [0, 1]
PGD_STEPS = 10
MARKER = "purifyctl-demo.json"  # written into the folder; only a folder with this file is ever replaced
STRIP_LINES = 6


@dataclass(frozen=True)
class DemoResult:
    """Accuracies and the picture of one demo."""

    figures: dict[str, Any]
    strip: Path


def demo(out: Path) -> DemoResult:
    """Run the demo into the folder `out`. A folder of an earlier demo is replaced.

    Raises
    ------
    ConfigError
        `out` holds something else.
    MissingDependencyError
        The demo's packages are not installed.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise ConfigError(f"{out} holds files that are not an earlier demo's.", hint="choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).write_text("{}\n")
    started = time.monotonic()

    photographs = out / "photographs"
    n = copy_samples(photographs)
    classifier = load_classifier(CLASSIFIER, WEIGHTS)
    console.note(f"Attacking {n} photographs: FGSM, and PGD with {PGD_STEPS} steps, at {format_eps(EPS)} ...")
    folders = _attack_all(photographs, out, classifier)
    bundle = default_engine()
    summaries = {}
    for name, folder in folders.items():
        console.note(f"Purifying and classifying {name} ...")
        result = run(folder, bundle, out / "runs" / folder.name, RunOptions(compare=True))
        summaries[name] = result.summary
    figures = _figures(summaries, bundle, time.monotonic() - started)
    (out / MARKER).write_text(json.dumps(figures, indent=2) + "\n")
    strip = out / "strip.png"
    attack = list(folders)[-1]
    _draw(out, folders[attack].name, attack).save(strip)
    _show(figures, strip)
    return DemoResult(figures, strip)


def _attack_all(photographs: Path, out: Path, classifier: Classifier) -> dict[str, Path]:
    """Write the photographs at the engine's size, clean and attacked, as PNG (JPEG would change the attack)."""
    x, files = read_all(list_images(photographs), SIDE)
    y = classifier(x).argmax(1)  # the classifier's own predictions, because the attack does not know the true labels
    made = {
        "clean": x,
        f"FGSM {format_eps(EPS)}": fgsm(classifier, x, y, EPS),
        f"PGD-{PGD_STEPS} {format_eps(EPS)}": pgd(classifier, x, y, EPS, steps=PGD_STEPS, random_start=False),
    }
    folders = {}
    for name, images in made.items():
        folder = out / name.split()[0].lower()
        pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for image, file in zip(pixels, files, strict=True):
            _save(image, folder, file)
        folders[name] = folder
    return folders


def _save(image: NDArray[np.uint8], folder: Path, source: ImageFile) -> None:
    file = folder / source.path.with_suffix(".png")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(np.ascontiguousarray(image), "png"))


def _figures(summaries: Mapping[str, Any], bundle: Bundle, seconds: float) -> dict[str, Any]:
    rows = {}
    for name, summary in summaries.items():
        accuracy = summary["accuracy"]
        rows[name] = {key: accuracy[key] for key in ("unpurified_top1", "top1", "misclassification_rate", "labelled")}
    last = list(summaries.values())[-1]
    return {
        "threat_model": "gray-box: the attack knows the classifier, not the purifier",
        "top1": rows,
        "purify_ms": last["stage_ms"]["purify"]["mean"],
        "machine": last["machine"],
        "engine": {"backend": bundle.manifest.backend, "precision": bundle.manifest.precision, "sha256": bundle.sha256},
        "seconds": round(seconds, 1),
    }


def _show(figures: Mapping[str, Any], strip: Path) -> None:
    def cell(share: float, n: int) -> str:
        return f"{round(share * n)} of {n} right"

    rows = [
        (name, cell(f["unpurified_top1"], f["labelled"]), cell(f["top1"], f["labelled"]))
        for name, f in figures["top1"].items()
    ]
    console.table(f"{CLASSIFIER}, {figures['threat_model']}", ("photographs", "unpurified", "purified"), rows)
    engine, machine = figures["engine"], figures["machine"]
    console.note(
        f"Purifying took {figures['purify_ms']:.1f} ms per {SIDE}x{SIDE} image (its share of a batch; "
        f"{engine['backend']} {engine['precision']}, {machine['cores']} cores). "
        f"The whole demo: {figures['seconds']} s.",
        "So few photographs show that it works, not how well. An attacker who knows the purifier can defeat it.",
        f"Picture strip: {strip}",
    )


def _draw(out: Path, attack_folder: str, attack: str) -> Image.Image:
    """Draw labelled photographs whose attack succeeded: first those that the purifier restored, then the others."""
    columns = ("path", "output", "true_index", "top_label", "top_index", "top_probability")
    unpurified = ("unpurified_top_label", "unpurified_top_index", "unpurified_top_probability")
    clean, attacked = (
        read_columns(out / "runs" / folder / "rows", (*columns, *unpurified)) for folder in ("clean", attack_folder)
    )
    restored: list[Line] = []
    lost: list[Line] = []
    for i, truth in enumerate(attacked["true_index"]):
        before, after = clean["unpurified_top_index"][i][0], attacked["unpurified_top_index"][i][0]
        if truth is None or before != truth or after == truth:
            continue
        path = attacked["path"][i]
        line = Line(
            _picture(out / "clean" / path, clean, i, "unpurified_top"),
            _picture(out / attack_folder / path, attacked, i, "unpurified_top"),
            _picture(out / "runs" / attack_folder / attacked["output"][i], attacked, i, "top"),
        )
        (restored if line.purified.good else lost).append(line)
    half = STRIP_LINES // 2
    lines = (restored[: max(half, STRIP_LINES - len(lost))] + lost)[:STRIP_LINES]
    n = len(restored) + len(lost)
    return draw_strip(lines, f"{attack}, gray-box: {len(restored)} of {n} successful attacks undone (both kinds shown)")


def _picture(file: Path, columns: Mapping[str, list[Any]], i: int, which: str) -> Picture:
    good = columns[f"{which}_index"][i][0] == columns["true_index"][i]
    label, probability = columns[f"{which}_label"][i][0], columns[f"{which}_probability"][i][0]
    with Image.open(file) as image:
        return Picture(np.asarray(image.convert("RGB")), label, probability, good)
