"""`purifyctl inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import command
from purifyctl.cli.panels import ENGINES


@command("inspect", short_help="Check a bundle's files, and say what it is.", panel=ENGINES)
def inspect(bundle: Annotated[Path, typer.Argument(help="Engine bundle.", autocompletion=completion.bundles)]) -> None:
    """[bold]purifyctl inspect engines/mine[/]

    Check an engine bundle's files against its manifest, and say what it is and what it was made from. Runs nothing.
    """
    from purifyctl.config import to_dict
    from purifyctl.engine.bundle import load_bundle
    from purifyctl.report.table import show_bundle

    loaded = load_bundle(bundle)
    show_bundle(loaded)
    facts = {"bundle": str(bundle), "sha256": loaded.sha256, "trusted": loaded.trusted}
    console.result({**facts, "manifest": to_dict(loaded.manifest)})
