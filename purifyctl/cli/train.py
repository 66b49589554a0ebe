"""`purifyctl train`."""

from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import PrintRecipe, command
from purifyctl.cli.panels import TRAINING
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
    """[bold]purifyctl train shipped --photos DIR[/]

    Train a purifier on clean photographs. The attacks on a frozen classifier are made during the training.

    A word without / and . names a recipe that comes with purifyctl, anything else a file; [bold]--print[/] shows it.

    The same command continues from the last saved step. On several GPUs:
    [bold]torchrun --nproc-per-node 8 -m purifyctl train RECIPE ...[/]
    """
    file = find_recipe(recipe, "train")
    if print_recipe:
        console.raw(file.read_text())
        return
    from purifyctl.training import train_recipe
    from purifyctl.training.validation import describe

    result = train_recipe(options.config(file), options.folder(file), max_steps=options.max_steps, pictures=options)
    if result.held_out:  # where torchrun started several processes, only the leading one has measured this
        console.note(f"{result.steps} steps in {result.seconds:.0f} s; held out: {describe(result.held_out)}")
        console.note(f"Checkpoint: {result.checkpoint}")
        console.result({"checkpoint": str(result.checkpoint), "steps": result.steps, "held_out": result.held_out})
    raise typer.Exit(130 if result.interrupted else 0)
