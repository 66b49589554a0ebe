"""`purifyctl doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import __version__, console
from purifyctl.cli import completion
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVERYDAY


@command("doctor", short_help="Say what works on this machine, and what is missing.", panel=EVERYDAY)
def doctor(
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Engine bundle that must work here. Default: the shipped purifier.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that must be writable. Default: the current one.")] = None,
) -> None:
    """[bold]purifyctl doctor[/]

    Say what works on this machine, what is missing, and how to install or repair it.

    Exits with 0 if [bold]purifyctl run[/] can work here, with 1 if something that it needs failed.
    """
    from dataclasses import asdict

    from purifyctl.doctor import examine, works
    from purifyctl.report.doctor import show_checks

    checks = examine(engine, out)
    show_checks(checks)
    console.result({"works": works(checks), "purifyctl": __version__, "checks": [asdict(check) for check in checks]})
    raise typer.Exit(0 if works(checks) else 1)
