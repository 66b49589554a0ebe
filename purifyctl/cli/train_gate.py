"""`purifyctl train-gate`."""

from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import PrintRecipe, command
from purifyctl.cli.panels import TRAINING
from purifyctl.config.recipes import find_recipe
from purifyctl.config.train import TrainGateOptions
from purifyctl.errors import ConfigError


@command("train-gate", short_help="Train a gate, which flags attacked images.", panel=TRAINING)
def train_gate(
    *,
    recipe: Annotated[
        str,
        typer.Argument(
            help="[bold]gate[/], the built-in recipe, or a TOML file's path.", autocompletion=completion.gate_recipes
        ),
    ],
    options: TrainGateOptions,
    print_recipe: PrintRecipe = False,
) -> None:
    """[bold]purifyctl train-gate gate --photos DIR[/]

    Train a gate: a small network that says which images look attacked; [bold]run --gate[/] purifies only those.

    Attacked crops are made once and kept in the run folder. After a stop, the same command continues with them.
    """
    file = find_recipe(recipe, "train-gate")
    if print_recipe:
        console.raw(file.read_text())
        return
    if options.photos is None:
        raise ConfigError("Photographs are missing.", hint="add --photos DIR")
    from purifyctl.training.gate import train_gate as train_on

    result = train_on(options.config(file), options.photos.absolute(), options.folder(file), options, options.device)
    if result.interrupted:
        raise typer.Exit(130)
    for name, found in result.figures["attacked"].items():
        if not found["n"]:
            console.note(f"{name}: it changed no prediction.")
            continue
        shares = ", ".join(f"{value:.1%} at {float(rate):.1%}" for rate, value in found["tpr"].items())
        console.note(f"{name}: AUROC {found['auroc']:.4f}; found {shares} of clean ones (n = {found['n']})")
    console.note(f"Gate: {result.checkpoint} ({result.seconds:.0f} s)")
    console.result({"checkpoint": str(result.checkpoint), "held_out": result.figures})
