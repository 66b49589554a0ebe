"""`purifyctl report`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVERYDAY


@command("report", short_help="Write one HTML page about a run, an attack, a training ...", panel=EVERYDAY)
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The --out of purifyctl run, attack, train, train-gate or evaluate."),
    ],
    out: Annotated[Path | None, typer.Option(help="HTML file to write. Default: FOLDER/report.html.")] = None,
) -> None:
    """[bold]purifyctl report clean[/]

    Write one HTML page about what a folder holds: a run, an attack, a training, a gate or an evaluation.

    It begins with the answers: which predictions changed, whether that helped, what failed. Pictures can be enlarged.
    The page needs no other file, no script and no network. You can make it while the work is still under way.
    """
    from purifyctl.report.folder import say_what_was_written, write_report_of

    figures = write_report_of(folder, out)
    say_what_was_written(figures)
    console.result(figures)
