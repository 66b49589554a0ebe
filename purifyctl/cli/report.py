"""`purifyctl report`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVERYDAY


@command("report", short_help="Write one HTML page about a run.", panel=EVERYDAY)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder: the --out of purifyctl run.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write. Default: RUN/report.html.")] = None,
) -> None:
    """[bold]purifyctl report clean[/]

    Write one HTML page about a run: counts, speed, accuracy, what changed most, what failed.

    The page needs no other file and no network. You can make it while the run is still at work.
    """
    from purifyctl.report.run import write_report

    figures = write_report(run, out)
    console.note(f"Report of {figures['rows']:,} of {figures['inputs']:,} inputs: {figures['report']}")
    console.result(figures)
