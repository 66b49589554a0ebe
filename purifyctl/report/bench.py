"""A benchmark's figures as tables and as a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purifyctl import console
from purifyctl.config.bench import LOOPS
from purifyctl.metrics import PERCENTILES

_OURS = "#0072B2"
_LINES = ("#D55E00", "#009E73", "#CC79A7")  # the peers'; from Okabe and Ito, for every kind of colour vision


def show_bench(figures: Mapping[str, Any]) -> None:
    """Print what `bench` measured."""
    bundle, engine, stages = figures["bundle"], figures["engine"], figures["stages"]
    here = figures["machine"]
    where = f"{here['processor']}, {here['cores']} cores" + (f", {figures['gpu']}" if figures["gpu"] else "")
    networks = " + ".join(bundle["networks"].values())
    console.note(f"{networks}; {bundle['backend']} {bundle['precision']}; {bundle['image_size']} pixels; {where}")
    if bundle["candidates"]:
        console.table(
            "What --precision auto measured when this engine was built",
            ("precision", "ms per image", ""),
            [(name, f"{ms:.2f}", refused) for name, ms, refused in bundle["candidates"]],
        )
    rows = [
        (
            str(size) + ("" if found["steady"] and found["latency"]["steady"] else ", not steady"),
            f"{found['images_per_s']:.1f}",
            *(f"{ms:.2f}" for ms in found["latency"]["ms"].values()),
        )
        for size, found in engine["by_batch"].items()
    ]
    columns = ("batch", "images/s", *(f"call, ms, p{p}" for p in PERCENTILES))
    console.table("The engine alone, opened for each batch size", columns, rows)
    console.note(
        f"{engine['multiply_adds_per_image'] / 1e9:.2f} G multiply-adds per image: {engine['flop_per_s'] / 1e12:.3f} "
        f"TFLOP/s at batch {engine['best_batch']}, {engine['of_matrix_product']:.0%} of a large matrix product's "
        f"{engine['matrix_product_flop_per_s'] / 1e12:.3f} ({engine['matrix_product']})."
    )
    rates = stages["images_per_s"]
    rows = [
        (name, f"{rates[name]:.1f}", bundle["precision"] if name == "engine" else "")
        for name in ("decode", "engine", "encode")
    ]
    rows.append(("ceiling", f"{stages['ceiling_images_per_s']:.1f}", f"slowest: {stages['limited_by']}"))
    rows.append(("run, end to end", f"{rates['run']:.1f}", f"{stages['of_ceiling']:.0%} of the ceiling"))
    title = (
        f"{figures['photographs']} photographs, {figures['format'].upper()} out, medians of {figures['rounds']} rounds"
    )
    console.table(title, ("each alone", "images/s", ""), rows)
    against = [
        (
            name,
            found["precision"],
            f"{found['images_per_s']:.1f}",
            f"{found['ours_images_per_s']:.1f}",
            f"{found['times_faster']:.2f}",
        )
        for name, found in figures["against"].items()
    ]
    if against:
        title = f"The same networks, batch {bundle['batch_size']}; loops beside run, libraries beside the engine alone"
        columns = ("peer", "precision", "images/s", f"ours, {bundle['precision']}", "times faster")
        console.table(title, columns, against)


def plot_bench(figures: Mapping[str, Any], file: Path) -> None:
    """Draw the engine's images/s against batch size, beside libraries; and `run`, beside loops and its ceiling."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    alone, whole = figure.subplots(1, 2)
    _plot_engine(figures, alone)
    _plot_run(figures, whole)
    figure.savefig(file, dpi=150)


def _plot_engine(figures: Mapping[str, Any], axes: Axes) -> None:
    bundle, engine = figures["bundle"], figures["engine"]
    sizes = list(engine["by_batch"])
    rates = [found["images_per_s"] for found in engine["by_batch"].values()]
    axes.plot(sizes, rates, marker="o", color=_OURS, label=f"this engine, {bundle['precision']}")
    libraries = {name: found for name, found in figures["against"].items() if name not in LOOPS}
    for (name, found), colour in zip(libraries.items(), _LINES, strict=False):
        label = f"{name} {found['precision']}, batch {bundle['batch_size']}"
        axes.axhline(found["images_per_s"], color=colour, linestyle="--", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size")
    axes.set_ylabel("images per second")
    axes.set_title(f"the networks alone: {bundle['backend']}, {bundle['image_size']} pixels", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")


def _plot_run(figures: Mapping[str, Any], axes: Axes) -> None:
    stages, loops = figures["stages"], {n: f for n, f in figures["against"].items() if n in LOOPS}
    bars = {
        f"run\n{figures['bundle']['backend'].split()[0]} {figures['bundle']['precision']}": stages["images_per_s"][
            "run"
        ],
        **{f"{name}\n{found['precision']}": found["images_per_s"] for name, found in loops.items()},
    }
    drawn = axes.bar(list(bars), list(bars.values()), color=[_OURS, *_LINES[: len(loops)]], width=0.6)
    axes.bar_label(drawn, fmt="%.0f", label_type="center", color="white", fontsize=12)  # above, the ceiling may be
    ceiling = stages["ceiling_images_per_s"]
    axes.axhline(ceiling, color="0.4", linestyle=":", label=f"ceiling of run, {ceiling:.0f}")
    axes.set_ylim(0, 1.15 * max(ceiling, *bars.values()))
    axes.set_ylabel("images per second")
    axes.set_title(f"{figures['photographs']} photographs, from files to {figures['format'].upper()}", fontsize=11)
    axes.legend(frameon=False)
