"""`purifyctl train`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import PrintRecipe, command
from purifyctl.cli.panels import TRAINING
from purifyctl.config import TrainConfig
from purifyctl.config.recipes import find_recipe
from purifyctl.config.train import TrainOptions


@command("train", short_help="Train a purifier for your classifier.", panel=TRAINING)
def train(
    *,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A built-in recipe's name, such as [bold]shipped[/], or a TOML file's path.",
            autocompletion=completion.training_recipes,
        ),
    ],
    options: TrainOptions,
    print_recipe: PrintRecipe = False,
) -> None:
    """[bold]purifyctl train fit --classifier NAME --photos DIR[/]

    Train a purifier on clean photographs. The attacks on a frozen classifier are made during the training. The recipe
    [bold]fit[/] adapts the shipped purifier to your classifier in 30 minutes.

    A word without / and . names a recipe that comes with purifyctl, anything else a file; [bold]--print[/] shows it.

    The same command continues from the last saved step. On a cluster's nodes:
    [bold]torchrun --nproc-per-node 8 -m purifyctl train RECIPE ...[/]
    """
    file = find_recipe(recipe, "train")
    if print_recipe:
        console.raw(file.read_text())
        return
    from purifyctl.devices import place
    from purifyctl.training import train_recipe
    from purifyctl.training.validation import comparison, score
    from purifyctl.training.workers import processes_that_pay

    config, folder = options.config(file), options.folder(file)
    processes = options.processes or processes_that_pay(config, place(options.device, say=False).gpus)
    result = train_recipe(
        config,
        folder,
        max_steps=options.max_steps,
        processes=processes,
        pictures=options,
        device=options.device,
    )
    if result.held_out:  # where torchrun started several processes, only the leading one has measured this
        what = {"true": "accuracy"}.get(
            result.held_out["labels"], "agreement with its predictions on clean photographs"
        )
        console.table(
            f"Top-1 {what}, on {result.held_out['n']} photographs that were held out, with 95 % intervals",
            *comparison(result.before, result.held_out),
        )
        if result.before and score(result.held_out) <= score(result.before):
            console.warn(
                "It is no better than the purifier that it started from. More minutes or photographs may help."
            )
        steps = "1 step" if result.steps == 1 else f"{result.steps:,} steps"
        console.note(f"{steps} in {console.duration(result.seconds)}. Checkpoint: {result.checkpoint}")
        if not result.interrupted:
            console.note(f"Next: {build_command(config, folder)}")
        console.result(
            {
                "checkpoint": str(result.checkpoint),
                "steps": result.steps,
                "before": result.before,
                "held_out": result.held_out,
            }
        )
    raise typer.Exit(130 if result.interrupted else 0)


def build_command(config: TrainConfig, folder: Path) -> str:
    """The command that builds an engine from this training."""
    words = ["purifyctl", "build-engine", "--checkpoint", str(folder), *config.classifiers[0].flags]
    return shlex.join([*words, "--out", f"engines/{folder.name}"])
