"""`purifyctl merge`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVERYDAY


@command("merge", short_help="Summarise a run that several calls shared (--shard).", panel=EVERYDAY)
def merge(folders: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Run folders of one run.")]) -> None:
    """[bold]purifyctl merge clean[/]

    Summarise a run that several calls shared (--shard), in one folder or in several. Writes summary.json into the
    first one.

    Exits with 1 while parts of the run are missing, and with 3 when some inputs failed.
    """
    from purifyctl.report.answers import show_summary
    from purifyctl.run import merge as merge_folders
    from purifyctl.run.rows import NOT_FAILED

    summary = merge_folders(folders)
    show_summary(summary, folders[0])
    console.result(summary)
    if missing := summary["missing_shards"]:
        console.error(f"{len(missing)} parts are not done, the first: {', '.join(map(str, missing[:10]))}.")
        raise typer.Exit(1)
    raise typer.Exit(0 if set(summary["statuses"]) <= NOT_FAILED else 3)
