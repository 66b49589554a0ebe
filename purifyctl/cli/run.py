"""`purifyctl run`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.options import Trust, command
from purifyctl.cli.panels import EVERYDAY
from purifyctl.config.classifier import ClassifierOptions
from purifyctl.config.run import RunOptions


class _WithRay(TyperCommand):
    """A command whose `--ray` may stand without an address. typer does not know such options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args, "-"][1:]
        alone = [arg == "--ray" and after.startswith("-") for arg, after in zip(args, following, strict=True)]
        return super().parse_args(ctx, ["--ray=" if bare else arg for arg, bare in zip(args, alone, strict=True)])


@command("run", short_help="Purify and classify a folder, tar archives, or a URL.", panel=EVERYDAY, cls=_WithRay)
def run(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder tree of images, or one image, or the URL of either: s3://, gs://, https:// ..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder for images, rows and summary.")],
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Engine bundle. Default: the shipped purifier, built here on first use.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    trust: Trust = False,
    classifier: ClassifierOptions,
    options: RunOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run would do, and write nothing.")] = False,
) -> None:
    """[bold]purifyctl run photos --out clean[/]

    Purify and classify every file of a folder tree, and every image in tar archives. The source lies on this machine,
    in an object store, or on a web server that lists its folders ([bold]pip install 'purifyctl\\[cloud]'[/]).

    Writes OUT/images (the purified tree), OUT/rows (Parquet, one row per input) and OUT/summary.json. An input
    that cannot be read becomes a row that says why, and the exit code is then 3. The same command continues where
    an earlier call stopped.
    """
    from purifyctl.engine.chosen import chosen_bundle
    from purifyctl.report.answers import show_summary
    from purifyctl.report.table import show_dry_run
    from purifyctl.run import dry_run as preview
    from purifyctl.run import run as run_source

    options = replace(options, classify=classifier.classifier != "none")
    image_size = options.size if isinstance(options.size, int) else None
    bundle = chosen_bundle(
        engine,
        classifier,
        image_size=image_size,
        trusted=trust,
        device=options.device,
        elsewhere=not options.works_here,
    )
    if dry_run:
        would = preview(source, bundle, out, options)
        show_dry_run(would, out)
        console.result(would)
        return
    result = run_source(source, bundle, out, options)
    show_summary(result.summary, out)
    if options.classify and (misfit := bundle.manifest.misfit):
        console.note(misfit)
    console.result(result.summary)
    raise typer.Exit(result.exit_code)
