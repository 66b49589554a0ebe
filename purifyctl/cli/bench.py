"""`purifyctl bench`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import Trust, command
from purifyctl.cli.panels import ENGINES
from purifyctl.config.bench import BenchOptions


@command("bench", short_help="Measure an engine on this machine.", panel=ENGINES)
def bench(
    *,
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="Engine bundle. Default: the shipped purifier, built here on first use.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    options: BenchOptions,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    trust: Trust = False,
) -> None:
    """[bold]purifyctl bench engines/mine --against torch,onnxruntime[/]

    Measure an engine on this machine: latency, throughput, the ceiling that its stages set, and how close run comes.
    """
    from purifyctl.bench import bench as measure
    from purifyctl.engine.chosen import chosen_bundle
    from purifyctl.files import write_json
    from purifyctl.report.bench import plot_bench, show_bench

    chosen = chosen_bundle(bundle, trusted=trust, device=options.device)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # before minutes are spent
    figures = measure(chosen, options)
    if out is not None:
        write_json(out / "bench.json", figures)
        plot_bench(figures, out / "bench.png")
    show_bench(figures)
    console.result(figures)
