"""`purifyctl attack`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVALUATION
from purifyctl.config.attack import AttackOptions
from purifyctl.config.folders import ATTACK_ROWS


@command("attack", short_help="Make adversarial images of a folder.", panel=EVALUATION)
def attack(
    *,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder tree of images, or one image.")],
    out: Annotated[Path, typer.Option(help="Folder for attacked images, rows and manifest.")],
    options: AttackOptions,
) -> None:
    """[bold]purifyctl attack photos --out attacked[/]

    Make adversarial images of a folder tree.

    Writes OUT/images (the attacked tree, as PNG), OUT/rows.jsonl (one row per input) and OUT/manifest.json. An
    input that cannot be read becomes a row that says why, and the exit code is then 3.
    """
    from purifyctl.attacking import attack_folder, describe

    result = attack_folder(source, out, options)
    if result.failed:
        n = result.manifest["rows"] - result.manifest["statuses"].get("ok", 0)
        said = [f"{n:,} of {result.manifest['rows']:,} inputs failed:"]
        said += [f"  {row.path}: {row.status}. {row.error or ''}".rstrip() for row in result.failed]
        if n > len(result.failed):
            said.append(f"  and {n - len(result.failed):,} more: {out / ATTACK_ROWS} gives each reason")
        console.warn(*said)
    console.note(describe(result.manifest))
    console.note(f"Images: {out / 'images'}")
    console.result(result.manifest)
    raise typer.Exit(result.exit_code)
