"""Plots in an HTML page, as SVG. They take colours and font from the page, which may be light or dark."""

import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from purifyctl.config.training import LOSS_TERMS
from purifyctl.console import duration
from purifyctl.metrics import PERCENTILES
from purifyctl.report.counters import Floats, Histogram, Stretch
from purifyctl.report.tally import Outcome

# They are drawn in these colours, which the page's own variables then replace.
_INK, _MUTED, _RULE, _PURIFIED, _UNPURIFIED = "#101010", "#606060", "#d0d0d0", "#0072b2", "#d55e00"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _RULE: "rule", _PURIFIED: "purified", _UNPURIFIED: "unpurified"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.6,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
}
WIDE = 8.6  # inches; plots on a desk
SMOOTHED = 40  # running means of a loss that fit beside each other, about
_LABEL = 1.1  # inches; room for the words beside a line
_UNITS = (
    (2 * 86400.0, 86400.0, "days"),
    (2 * 3600.0, 3600.0, "hours"),
    (180.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
)


def throughput_plot(stretches: Sequence[Stretch], width: float) -> Markup:
    """Inputs/s against the time at work. Pauses take no room, and no bin spans one. `width`: inches."""
    figure, axes = _axes(width, 2.2)
    worked = sum(stretch.end - stretch.begin for stretch in stretches)
    _, unit, name = next(entry for entry in _UNITS if worked >= entry[0])
    begun = 0.0
    highest = max((float(stretch.rates.max()) for stretch in stretches if len(stretch.rates)), default=1.0)
    for i, stretch in enumerate(stretches):
        if i:
            axes.axvline(begun / unit, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
            after = stretch.end - stretch.begin
            if after >= worked * _LABEL / width:
                _label(axes, begun / unit, f"{duration(stretch.begin - stretches[i - 1].end)} pause")
        if len(stretch.rates):
            edges = (stretch.edges - stretch.begin + begun) / unit
            axes.stairs(stretch.rates, edges, fill=True, color=_PURIFIED, alpha=0.16, linewidth=0)
            axes.stairs(stretch.rates, edges, baseline=None, color=_PURIFIED, linewidth=1.4)
        begun += stretch.end - stretch.begin
    axes.set_xlim(0, max(worked, 1e-3) / unit)
    axes.set_ylim(0, highest * 1.25)
    axes.set_xlabel(f"{name} at work")
    axes.set_ylabel("inputs per second")
    axes.grid(axis="y")
    return _svg(figure, "Inputs per second over the time at work")


def latency_plot(stages: Mapping[str, Histogram], averaged: Collection[str]) -> Markup:
    """The percentiles of each stage on one line, over ms on a logarithmic scale. Of `averaged` stages only batches were
    timed: they are a dot at their mean.
    """
    figure, axes = _axes(4.2, 0.55 + 0.3 * len(stages))
    for y, (name, histogram) in enumerate(stages.items()):
        values = [histogram.sum / histogram.n] if name in averaged else list(histogram.percentiles().values())
        axes.plot([values[0], values[-1]], [y, y], color=_PURIFIED, linewidth=1.4, solid_capstyle="butt")
        axes.plot(values[1:], [y] * (len(values) - 1), color=_PURIFIED, marker="|", markersize=8, linestyle="none")
        axes.plot(values[:1], [y], color=_PURIFIED, marker="o", markersize=5, linestyle="none")
    axes.set_yticks(range(len(stages)), list(stages))
    axes.set_ylim(len(stages) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 100 * low else (1,)
    ticks = [step * 10.0**d for d in decades for step in steps if low <= step * 10.0**d <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ms per image")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    return _svg(
        figure,
        f"Latency of each stage: the mean of averages or p{PERCENTILES[0]} as a dot, then a line to p{PERCENTILES[-1]}",
    )


def change_plot(change: Histogram) -> Markup:
    """Number of images against the grey levels by which they were changed."""
    figure, axes = _axes(4.2, 2.2)
    # a few far outliers must not press everything else against the axis
    farthest = max(0.1, min(change.largest * 1.02, change.percentile(99) * 3))
    bins = max(8, min(40, round(math.sqrt(change.n) * 1.5)))
    edges = np.linspace(0, farthest, bins + 1)
    counts = change.rebinned(edges)
    axes.stairs(counts, edges, fill=True, color=_PURIFIED, alpha=0.16, linewidth=0)
    axes.stairs(counts, edges, color=_PURIFIED, linewidth=1.4)
    median = change.percentile(50)
    axes.axvline(median, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    _label(axes, median, f"median {median:.2f}")
    axes.set_xlim(0, farthest)
    axes.set_ylim(0, max(1.0, counts.max()) * 1.18)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    beyond = change.n - round(counts.sum())
    axes.set_xlabel("mean change of an image, grey levels" + (f" ({beyond:,} farther out)" if beyond else ""))
    axes.set_ylabel("images")
    axes.grid(axis="y")
    return _svg(figure, "Histogram of the mean change of each image")


def confidence_plot(purified: Outcome, unpurified: Outcome | None, name: str) -> Markup:
    """How sure the classifier is, with the purifier and, if that is known, without. `name`: "purified" or "gated"."""
    figure, axes = _axes(4.2, 2.2)
    highest = 0.0
    for outcome, colour, dashes in ((unpurified, _UNPURIFIED, (0, (4, 2))), (purified, _PURIFIED, "solid")):
        if outcome is not None and outcome.classified:
            shares: Floats = 100 * outcome.confidences / outcome.classified
            edges = np.linspace(0, 100, len(shares) + 1)
            axes.stairs(shares, edges, color=colour, linewidth=1.4, linestyle=dashes)
            highest = max(highest, float(shares.max()))
    axes.text(0.02, 1.02, name, color=_PURIFIED, transform=axes.transAxes, va="bottom")
    if unpurified is not None:
        axes.text(0.26, 1.02, "unpurified", color=_UNPURIFIED, transform=axes.transAxes, va="bottom")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, highest * 1.05)
    axes.set_xlabel("confidence in the predicted class, %")
    axes.set_ylabel("images, %")
    axes.grid(axis="y")
    return _svg(figure, "Histogram of the confidence in the predicted class")


def losses_plot(lines: Sequence[Mapping[str, Any]]) -> Markup:
    """Each loss over the steps, one panel for each. The strong line is a running mean."""
    names = [name for name in ("generator", *LOSS_TERMS, "discriminator") if any(name in line for line in lines)]
    rows = math.ceil(len(names) / 2)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDE, 1.7 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for axes, name in zip(panels.flat, names, strict=False):
        known = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        steps, values = np.array(known, dtype=np.float64).T
        axes.plot(steps, values, color=_PURIFIED, linewidth=0.6, alpha=0.35)
        near = max(1, len(values) // SMOOTHED)
        mean = np.convolve(values, np.ones(near) / near, mode="valid")
        axes.plot(steps[near // 2 : near // 2 + len(mean)], mean, color=_PURIFIED, linewidth=1.4)
        axes.set_title(name, fontsize=9, loc="left", color=_INK)
        low, high = np.percentile(values, (0, 99.5))
        axes.set_ylim(min(0.0, low), max(high * 1.1, 1e-9))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y")
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    return _svg(figure, "Losses over the steps")


def curves_plot(points: Sequence[tuple[int, Mapping[str, float]]]) -> Markup:
    """Held-out accuracy over the steps: clean in one colour, each attack in another, named at the line's end."""
    figure, axes = _axes(WIDE, 3.0)
    names = list(dict.fromkeys(name for _, values in points for name in values))
    ends = []
    for name in names:
        known = [(step, 100 * values[name]) for step, values in points if name in values]
        colour = _PURIFIED if name == "clean" else _UNPURIFIED
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.4, marker="o", markersize=3)
        ends.append((known[-1][1], known[-1][0], name, colour))
    lowest = -np.inf
    for y, x, name, colour in sorted(ends):  # labels that would lie on each other are moved up
        lowest = max(y, lowest + 6)
        axes.annotate(name, (x, lowest), (6, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
    axes.set_ylim(-2, max(102, lowest + 4))
    axes.set_xlabel("step")
    axes.set_ylabel("top-1, %")
    axes.grid(axis="y")
    return _svg(figure, "Held-out accuracy over the steps")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _label(axes: Axes, x: float, text: str) -> None:
    """Words at the top, to the right of a line."""
    axes.annotate(
        text,
        (x, 1),
        (4, -1),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=_MUTED,
    )


def _svg(figure: Figure, text: str) -> Markup:
    """The figure as SVG. `text` describes it to readers who cannot see it."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    stream = io.StringIO()
    # the salt makes ids differ between the plots of a page, and stay the same at every call
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": text}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{text}" ', 1))
