"""Figures of an evaluation: accuracy against eps, confidences, picture strips. They need no display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purifyctl.config.evaluate import THREAT_MODELS
from purifyctl.evaluation.defences import NONE, PIX2PIX, PURIFIER
from purifyctl.evaluation.examples import Examples
from purifyctl.images import encode
from purifyctl.strip import draw_strip

Cell = Mapping[str, Any]
# Okabe and Ito's colours suit every kind of colour vision; markers distinguish the lines without colour.
_STYLES = {NONE: ("#000000", "o"), PIX2PIX: ("#CC79A7", "D"), PURIFIER: ("#0072B2", "s")}
# Other defences take these in turn. The lengths share no divisor, so there are as many pairs as their product.
_COLOURS, _MARKERS = ("#E69F00", "#009E73", "#56B4E9", "#D55E00", "#999999"), "^vPX*<"
_DPI = 150
_COLUMNS = 3  # panels beside each other


def write_figures(cells: Sequence[Cell], examples: Examples | None, out: Path) -> list[str]:
    """Draw all figures that the evaluation has data for into `out`. Returns the names of the files."""
    names = []
    for threat_model in THREAT_MODELS[1:]:
        chosen = [cell for cell in cells if cell["threat_model"] == threat_model]
        if chosen:
            names.append(f"accuracy-{threat_model}.png")
            accuracy_figure(chosen, threat_model).savefig(out / names[-1], dpi=_DPI)
    if examples is None:
        return names
    names.append("confidence.png")
    confidence_figure(examples).savefig(out / names[-1], dpi=_DPI)
    attack = f"{examples.rung.title}, {examples.rung.threat_model.replace('_', '-')}"
    n = examples.restored_n + examples.lost_n
    kinds = (
        ("strip-undone.png", examples.restored, f"{attack}: {examples.restored_n} of {n} successful attacks undone"),
        ("strip-not-undone.png", examples.lost, f"{attack}: {examples.lost_n} of {n} successful attacks not undone"),
    )
    for name, shown, title in kinds:
        if shown:
            strip = draw_strip(shown, title, PIX2PIX if shown[0].baseline else "")
            (out / name).write_bytes(encode(np.asarray(strip), "png"))
            names.append(name)
    return names


def accuracy_figure(cells: Sequence[Cell], threat_model: str) -> Figure:
    """Robust top-1 against eps: one panel per attack, one line per defence, with 95 % intervals as bands."""
    attacks = list(dict.fromkeys(cell["attack"] for cell in cells))
    defences = list(dict.fromkeys(cell["defence"] for cell in cells))
    budgets = sorted({cell["eps"] for cell in cells})
    columns = min(_COLUMNS, len(attacks))
    rows = math.ceil(len(attacks) / columns)
    figure = Figure(figsize=(max(3.6 * columns, 5.2), 2.9 * rows + 1.0), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, attack in zip(axes.flat, attacks, strict=False):
        for defence in defences:
            mine = [cell for cell in cells if (cell["attack"], cell["defence"]) == (attack, defence)]
            if mine:
                _draw_line(panel, sorted(mine, key=lambda cell: float(cell["eps"])), budgets, defences)
        n = min(cell["n"] for cell in cells if cell["attack"] == attack)
        panel.set_title(f"{attack} (n = {n})", fontsize=10)
        panel.set_xticks(range(len(budgets) + 1), ["clean", *(f"{eps * 255:.3g}" for eps in budgets)])
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("eps, of 255", fontsize=9)
        panel.set_ylim(-3, 104)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes.flat[len(attacks) :]:
        panel.set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("top-1, %")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=9)
    figure.suptitle(f"Accuracy under attack, {threat_model.replace('_', '-')}", fontsize=11)
    return figure


def _draw_line(panel: Axes, cells: Sequence[Cell], budgets: Sequence[float], defences: Sequence[str]) -> None:
    """Draw one defence under one attack: first the clean accuracy of the same images, then each budget."""
    defence = cells[0]["defence"]
    clean = "clean_top1" if defence == NONE else "purified_clean_top1"
    points = [(0, cells[0][clean], cells[0][f"{clean}_interval"])]
    points += [(1 + budgets.index(cell["eps"]), cell["robust_top1"], cell["robust_top1_interval"]) for cell in cells]
    x, y = [point[0] for point in points], [100 * point[1] for point in points]
    low, high = ([100 * point[2][side] for point in points] for side in (0, 1))
    colour, marker = _style(defence, defences)
    network = defence in (PURIFIER, PIX2PIX)
    panel.fill_between(x, low, high, color=colour, alpha=0.18 if network or defence == NONE else 0.07, linewidth=0)
    width = 2.0 if network else 1.2
    panel.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=width, label=defence)


def _style(defence: str, defences: Sequence[str]) -> tuple[str, str]:
    if defence in _STYLES:
        return _STYLES[defence]
    others = [name for name in defences if name not in _STYLES]
    place = others.index(defence)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def confidence_figure(examples: Examples) -> Figure:
    """Histograms of the confidence in the true and in the predicted class: clean, attacked, purified."""
    tables = examples.tables
    kinds = (
        ("clean", examples.clean, "#009E73", "-"),
        ("attacked", tables[NONE], "#D55E00", "--"),
        ("attacked, purified", tables[PURIFIER], "#0072B2", "-"),
    )
    figure = Figure(figsize=(8.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    bins = np.linspace(0, 100, 21)
    for panel, column, title in zip(
        panels, ("true_confidence", "top1_confidence"), ("of the true class", "of the predicted class"), strict=True
    ):
        for name, table, colour, dashes in kinds:
            values = 100 * table[column]
            weights = np.full(len(values), 100 / max(1, len(values)))
            style = {"color": colour, "linestyle": dashes, "linewidth": 1.8}
            label = f"{name}, mean {values.mean():.0f} %"
            panel.hist(values, bins, weights=weights, histtype="step", label=label, **style)
        panel.set_xlabel(f"confidence {title}, %")
        panel.set_xlim(0, 100)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, loc="upper center")
    panels[0].set_ylabel("images, %")
    rung = examples.rung
    threat_model = rung.threat_model.replace("_", "-")
    title = f"Confidence, {rung.title}, {threat_model}, n = {len(tables[NONE]['path'])}"
    figure.suptitle(title, fontsize=11)
    return figure
