"""Commands for a first look: `demo`, `doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import __version__, console
from purifyctl.cli import completion
from purifyctl.cli.app import app
from purifyctl.cli.options import Json, Quiet, Verbose


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl demo[/]

    Attack, purify and classify photographs that come inside packages: no GPU, no network, about a minute.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.demo import demo as run_demo

    console.result(run_demo(out).figures)


@app.command()
def doctor(
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Engine bundle that has to work here. Default: the shipped purifier has to.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to be written to. Default: the current one.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl doctor[/]

    Say what works on this machine, what is missing, and how to install or mend it.

    Exits with 0 if [bold]purifyctl run[/] can work here, with 1 if something that it needs failed.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from dataclasses import asdict

    from purifyctl.doctor import examine, works
    from purifyctl.report.doctor import show_checks

    checks = examine(engine, out)
    show_checks(checks)
    console.result({"works": works(checks), "purifyctl": __version__, "checks": [asdict(check) for check in checks]})
    raise typer.Exit(0 if works(checks) else 1)
