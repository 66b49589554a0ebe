"""A benchmark's figures as tables and as a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from purifyctl import console


def show_bench(figures: Mapping[str, Any]) -> None:
    """Print what `bench` measured."""
    bundle, engine, stages = figures["bundle"], figures["engine"], figures["stages"]
    where = figures["gpu"] or f"{figures['machine']['processor']}, {figures['machine']['cores']} cores"
    networks = " + ".join(name for key, name in bundle["networks"].items() if key != "fused")
    console.note(f"{networks}; {bundle['backend']} {bundle['precision']}; {bundle['image_size']} pixels; {where}")
    rows = [
        (str(batch), f"{found['images_per_s']:.1f}", "" if found["steady"] else "not steady")
        for batch, found in engine["throughput"].items()
    ]
    console.table("The engine alone", ("batch", "images/s", ""), rows)
    columns = ("latency of a batch, ms", *next(iter(engine["latency"].values()))["ms"], "calls")
    rows_ms = [
        (f"batch {batch}", *(f"{v:.2f}" for v in found["ms"].values()), str(found["calls"]))
        for batch, found in engine["latency"].items()
    ]
    console.table("", columns, rows_ms)
    (product, peak), *_ = engine["matrix_product_flop_per_s"].items()
    console.note(
        f"{engine['multiply_adds_per_image'] / 1e9:.2f} G multiply-adds per image: {engine['flop_per_s'] / 1e12:.3f} "
        f"TFLOP/s, {engine['of_matrix_product']:.0%} of a large matrix product's {peak / 1e12:.3f} ({product})."
    )
    rates = stages["images_per_s"]
    rows = [(name, f"{rates[name]:.1f}", "") for name in ("decode", "engine", "encode")]
    rows.append(("ceiling", f"{stages['ceiling_images_per_s']:.1f}", f"limited by {stages['limited_by']}"))
    rows.append(("run, end to end", f"{rates['run']:.1f}", f"{stages['of_ceiling']:.0%} of the ceiling"))
    title = f"{stages['photographs']} photographs, {stages['format'].upper()} out, medians of {stages['rounds']} rounds"
    console.table(title, ("each alone", "images/s", ""), rows)
    if figures["against"]:
        against = [
            (name, f"{found['images_per_s']:.1f}", f"{found['times_faster']:.2f}")
            for name, found in figures["against"].items()
        ]
        console.table("Against", ("the same networks in", "images/s", "we are times faster"), against)


def plot_bench(figures: Mapping[str, Any], file: Path) -> None:
    """Draw images/s and latency against batch size, with the peers as lines across."""
    engine = figures["engine"]
    batches = list(engine["throughput"])
    rates = [found["images_per_s"] for found in engine["throughput"].values()]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(batches, rates, marker="o", color="#0072B2", label="this engine")
    for (name, found), colour in zip(
        ((n, f) for n, f in figures["against"].items() if n != "loop"),
        ("#D55E00", "#009E73", "#CC79A7"),
        strict=False,
    ):
        axes.axhline(found["images_per_s"], color=colour, linestyle="--", label=f"{name}, batch {batches[-1]}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size")
    axes.set_ylabel("images per second")
    bundle = figures["bundle"]
    axes.set_title(f"{bundle['backend']} {bundle['precision']}, {bundle['image_size']} pixels", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
