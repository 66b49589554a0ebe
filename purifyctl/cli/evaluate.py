"""`purifyctl evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli.options import command
from purifyctl.cli.panels import EVALUATION
from purifyctl.config.evaluate import EvaluateOptions


@command("evaluate", short_help="Measure a purifier under attack.", panel=EVALUATION)
def evaluate(
    *,
    photos: Annotated[Path, typer.Option(help="Folder tree of clean photographs, in folders named after classes.")],
    out: Annotated[Path, typer.Option(help="Folder for rows, tables and figures.")],
    options: EvaluateOptions,
) -> None:
    """[bold]purifyctl evaluate --photos DIR --out evaluation[/]

    Measure a purifier under attack: gray-box, transfer, black-box and adaptive, beside cheaper defences.

    Writes OUT/evaluation.md, .json, .csv and figures. The same command continues where it stopped.
    The whole ladder takes hours on a CPU; [bold]--limit 64 --rungs gray-box --attack pgd-10[/] takes minutes.
    """
    from purifyctl.evaluation import evaluate as climb_ladder
    from purifyctl.report.evaluation import show_evaluation, write_evaluation

    result = climb_ladder(photos, out, options)
    if result.exit_code != 130:
        write_evaluation(result, out)
        show_evaluation(result.document, out)
    console.result(result.document)
    raise typer.Exit(result.exit_code)
