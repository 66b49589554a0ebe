"""`purifyctl demo`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVERYDAY


@command("demo", short_help="See it work on sample photographs, in about a minute.", panel=EVERYDAY)
def demo(out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo")) -> None:
    """[bold]purifyctl demo[/]

    Attack, purify and classify photographs that come inside packages: no GPU, no network, about a minute.
    """
    from purifyctl.demo import demo as run_demo

    console.result(run_demo(out).figures)
