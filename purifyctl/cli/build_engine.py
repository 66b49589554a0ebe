"""`purifyctl build-engine`."""

from typing import Annotated

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import PrintRecipe, command
from purifyctl.cli.panels import ENGINES
from purifyctl.config.build import BuildOptions
from purifyctl.config.recipes import find_recipe
from purifyctl.errors import ConfigError


@command("build-engine", short_help="Build an engine from a checkpoint and a classifier.", panel=ENGINES)
def build_engine(
    *,
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A built-in recipe's name, such as [bold]cpu[/], or a TOML file's path.",
            autocompletion=completion.engine_recipes,
        ),
    ] = None,
    options: BuildOptions,
    print_recipe: PrintRecipe = False,
) -> None:
    """[bold]purifyctl build-engine --checkpoint runs/mine --classifier mobilenet_v2 --out engines/mine[/]

    Build an engine bundle from a checkpoint and a classifier, and check that it agrees with torch.

    RECIPE: a word without / and . names a recipe that comes with purifyctl, anything else a file.

    Plans of TensorRT for RTX can be built without a GPU: [bold]--backend tensorrt-rtx --target SM89[/].
    """
    file = find_recipe(recipe, "engines") if recipe is not None else None
    if print_recipe:
        if file is None:
            raise ConfigError("--print shows a recipe, but no recipe is named.")
        console.raw(file.read_text())
        return
    from purifyctl.config import to_dict
    from purifyctl.engine.chosen import build_chosen

    bundle = build_chosen(options, file)
    console.note(f"Built {bundle.path} in {bundle.manifest.build_s} s. SHA-256 of its manifest: {bundle.sha256}")
    console.note(*bundle.manifest.parity.lines())
    if misfit := bundle.manifest.misfit:
        console.note(misfit)
    console.result({"bundle": str(bundle.path), "sha256": bundle.sha256, "manifest": to_dict(bundle.manifest)})
