"""The paper's Figures 6 to 11 from trainings in small, as PNG."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from purifyctl.checkpoint import load_purifier
from purifyctl.photographs import Pixels, to_pixels, to_tensor
from tests.benchmarks.paper.measure import CLEAN, Ground, Outcome, purify
from tests.benchmarks.paper.plan import NONE, Plan, Training, condition

ROWS = 3  # photographs in a figure
HEADS = {NONE: "attacked", "pix2pix": "pix2pix", "paper": "the paper's objective", "ours": "ours, from new weights"}
TERMS = ("gan", "l1", "perceptual")


@dataclass(frozen=True)
class Sheets:
    """Where figures are saved."""

    folder: Path
    ending: str

    def save(self, figure: Figure, number: int) -> Path:
        """Save the paper's figure of this number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"figure-{number}.{self.ending}"
        figure.savefig(file, dpi=90)
        return file


def draw_all(plan: Plan, ground: Ground, folder: Path, ending: str = "png") -> list[Path]:
    """Draw the figures of the first attack and budget into `folder`, from the photographs of `ground`."""
    attack, eps = plan.attacks[0], plan.budgets[0]
    sheets = Sheets(folder, ending)
    of = {t.method: t for t in plan.trained if (t.classifier, t.attack, t.eps) == (plan.classifier, attack, eps)}
    drawn = []
    if "paper" in of:
        drawn.append(_losses(plan, of["paper"], sheets))
    pixels = ground.attacked(condition(attack, eps), attack, eps)
    for number, method in ((7, "pix2pix"), (8, "paper")):
        if method in of:
            drawn.append(_progress(plan, of[method], number, ground, pixels, sheets))
    if {"pix2pix", "paper"} <= of.keys():
        drawn += _restored(plan, of, ground, condition(attack, eps), pixels, sheets)
    return drawn


def _losses(plan: Plan, training: Training, sheets: Sheets) -> Path:
    """Figure 6: the three losses over the training, each with a running mean."""
    lines = [json.loads(line) for line in (plan.folder(training) / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "generator" in line]
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, term in zip(figure.subplots(1, 3), TERMS, strict=True):
        values = np.array([line[term] for line in steps])
        at = np.array([line["step"] for line in steps])
        axes.plot(at, values, color="#c0c0c0", linewidth=0.8)
        width = max(1, len(values) // 20)
        mean = np.convolve(values, np.ones(width) / width, "valid")
        axes.plot(at[width - 1 :], mean, color="#0072b2")
        axes.set_title(term)
        axes.set_xlabel("step")
    return sheets.save(figure, 6)


def _progress(plan: Plan, training: Training, number: int, ground: Ground, pixels: Pixels, sheets: Sheets) -> Path:
    """Figures 7 and 8: the same photographs through the purifier as it was at several times of its training."""
    kept = sorted((plan.folder(training) / "progress").glob("*.safetensors"))
    columns = [(f"{float(file.stem):.0%} of the training", file) for file in kept]
    columns.append(("100 %", plan.folder(training)))
    chosen = [i * len(ground.clean) // ROWS for i in range(ROWS)]
    grids = [("clean", ground.clean[chosen]), ("attacked", pixels[chosen])]
    grids += [(title, _purified(file, pixels[chosen])) for title, file in columns]
    return _grid(sheets, number, grids)


def _restored(
    plan: Plan, of: dict[str, Training], ground: Ground, where: str, pixels: Pixels, sheets: Sheets
) -> list[Path]:
    """Figures 9 to 11: both restore the class; only the paper's objective does; neither does."""
    outcomes = {NONE: ground.outcome(where, NONE, None, lambda: pixels)}
    for method, training in of.items():
        net = load_purifier(plan.folder(training)).net
        outcomes[method] = ground.outcome(where, training.name, net, lambda: pixels)
    clean = ground.outcome(CLEAN, NONE, None, lambda: ground.clean)

    def right(method: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = outcomes[method].prediction == ground.truth
        return found

    hit = (clean.prediction == ground.truth) & ~right(NONE)
    surer = outcomes["paper"].true_confidence > outcomes["pix2pix"].true_confidence
    chosen = {
        9: hit & right("pix2pix") & right("paper") & surer,
        10: hit & ~right("pix2pix") & right("paper"),
        11: hit & ~right("pix2pix") & ~right("paper"),
    }
    drawn = []
    for number, flags in chosen.items():
        places = np.flatnonzero(flags)[:ROWS]
        if not len(places):
            continue
        grids = [("clean", ground.clean[places]), ("attacked", pixels[places])]
        captions = [_captions(ground, clean, places), _captions(ground, outcomes[NONE], places)]
        for method in ("pix2pix", "paper", "ours"):
            if method in of:
                grids.append((HEADS[method], _purified(plan.folder(of[method]), pixels[places])))
                captions.append(_captions(ground, outcomes[method], places))
        drawn.append(_grid(sheets, number, grids, captions))
    return drawn


def _captions(ground: Ground, outcome: Outcome, places: NDArray[np.intp]) -> list[str]:
    name = ground.classifier.labels.name
    return [f"{name(int(outcome.prediction[i]))[:24]}, {outcome.top1_confidence[i]:.0%}" for i in places]


@torch.no_grad()
def _purified(checkpoint: Path, pixels: Pixels) -> Pixels:
    return to_pixels(purify(to_tensor(pixels), load_purifier(checkpoint).net))


def _grid(
    sheets: Sheets, number: int, columns: Sequence[tuple[str, Pixels]], captions: Sequence[Sequence[str]] = ()
) -> Path:
    """A column for each entry, a row for each photograph."""
    rows = len(columns[0][1])
    figure = Figure(figsize=(2.4 * len(columns), 2.6 * rows + 0.3), layout="constrained")
    for k, (title, images) in enumerate(columns):
        for row in range(rows):
            axes = figure.add_subplot(rows, len(columns), row * len(columns) + k + 1)
            axes.imshow(images[row], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(title, fontsize=9)
            if captions:
                axes.set_xlabel(captions[k][row], fontsize=8)
    return sheets.save(figure, number)
