"""Commands that purify folders: `run`, `merge`, `report`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.app import app
from purifyctl.cli.options import ClassifierWeights, Json, Quiet, Trust, Verbose
from purifyctl.errors import ConfigError

Format = Literal["png", "webp", "jpeg", "none"]
Unflagged = Literal["copy", "link", "leave"]
OnEarlierRun = Literal["resume", "overwrite", "error"]


class _WithRay(TyperCommand):
    """A command whose `--ray` may stand without an address; typer knows no such options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args, "-"][1:]
        alone = [arg == "--ray" and after.startswith("-") for arg, after in zip(args, following, strict=True)]
        return super().parse_args(ctx, ["--ray=" if bare else arg for arg, bare in zip(args, alone, strict=True)])


@app.command(cls=_WithRay)
def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder tree of images, or one image; or a URL of one: s3://, gs://, https:// ..."
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
    classifier: Annotated[
        str | None,
        typer.Option(help="[bold]none[/] purifies only. Without --engine also a name as for build-engine."),
    ] = None,
    weights: ClassifierWeights = "",
    image_format: Annotated[
        Format, typer.Option("--format", help="Of purified images; png and webp are lossless, none writes rows only.")
    ] = "png",
    tar: Annotated[
        bool, typer.Option("--tar", help="Purified images in tar files of about 1,000, and no tree of them.")
    ] = False,
    images_to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Purified images into an object store, such as s3://bucket/folder, not OUT."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Classify the unpurified images too.")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="Purify only images that look attacked; pass the others on as they are.")
    ] = False,
    gate_fpr: Annotated[
        str | None,
        typer.Option(help="Clean images that may be purified for nothing, such as 0.2%, 5% or 0.05. Default: 1%."),
    ] = None,
    unflagged: Annotated[
        Unflagged | None,
        typer.Option(help="What --gate does with files that it passes on: into OUT by copy (default), link, or leave."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per row.")] = 5,
    files_from: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="File that names the files in SRC to take, one per line; SRC is not listed."),
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Glob of paths to read; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Glob of paths to leave out; repeatable.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write rows.csv.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Also write rows.jsonl.")] = False,
    max_errors: Annotated[int | None, typer.Option(min=0, help="Stop when more inputs have failed.")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger images, from their header.")] = 100_000_000,
    on_existing: Annotated[
        OnEarlierRun,
        typer.Option(help="What to do when OUT holds an earlier run; resume: if it was asked for the same."),
    ] = "resume",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in earlier calls.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Of N calls that share a run, this is number I, from 0.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many inputs.")] = None,
    image_timeout: Annotated[
        float, typer.Option(help="Seconds that a batch may spend in one stage, before its images go one by one.")
    ] = 60.0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Work on a Ray cluster. Without an address: that of $RAY_ADDRESS, or a fresh Ray on this machine.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of --ray. Default: one per GPU, or per machine where it works on CPUs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl run photos --out clean[/]

    Purify and classify every file of a folder tree, or every image in tar shards; on this machine, in an object store,
    or on a web server that lists its folders ([bold]pip install 'purifyctl\\[cloud]'[/]).

    Writes OUT/images (the purified tree), OUT/rows (Parquet, one row per input) and OUT/summary.json. Inputs that
    cannot be read become rows that say why; the exit code is then 3. The same command goes on where an earlier call
    stopped.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl import run as pipeline
    from purifyctl.config import parse_percent, parse_share
    from purifyctl.engine.bundle import load_bundle
    from purifyctl.report.table import show_dry_run, show_summary

    if not gate and (gate_fpr or unflagged):
        raise ConfigError("--gate-fpr and --unflagged are for --gate.", hint="add --gate")
    options = pipeline.RunOptions(
        image_format=None if image_format == "none" else image_format,
        packed=tar,
        images_to=images_to,
        classify=classifier != "none",
        compare=compare,
        gate=parse_percent(gate_fpr or "1%") if gate else None,
        unflagged=unflagged or "copy",
        top=top,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        csv=csv,
        jsonl=jsonl,
        files_from=files_from,
        limit=limit,
        on_existing=on_existing,
        retry_failed=retry_failed,
        shard=parse_share(shard),
        image_timeout=image_timeout,
        max_errors=max_errors,
        max_pixels=max_pixels,
        ray=ray,
        workers=workers,
    )
    if engine is None:
        if trust:
            raise ConfigError("--trust is for a bundle, and --engine names none.", hint="add --engine BUNDLE")
        from purifyctl.engine.default import default_engine

        bundle = default_engine(classifier, weights)
    elif classifier not in (None, "none") or weights:
        raise ConfigError(
            "An engine bundle has its classifier inside; --classifier can only be none with --engine.",
            hint="build another bundle: purifyctl build-engine --classifier ...",
        )
    else:
        bundle = load_bundle(engine, trusted=trust)
    if dry_run:
        would = pipeline.dry_run(source, bundle, out, options)
        show_dry_run(would, out)
        console.result(would)
        return
    result = pipeline.run(source, bundle, out, options)
    show_summary(result.summary, out)
    console.result(result.summary)
    raise typer.Exit(result.exit_code)


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Run folders of one run.")],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl merge clean[/]

    Summarise a run that several calls did (--shard), in one folder or in several. Writes summary.json into the first.

    Exits with 1 while something is left to do, and with 3 when some inputs failed.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl import run as pipeline
    from purifyctl.report.table import show_summary

    summary = pipeline.merge(folders)
    show_summary(summary, folders[0])
    console.result(summary)
    if missing := summary["missing_shards"]:
        console.error(f"{len(missing)} shards are not done, the first: {', '.join(map(str, missing[:10]))}.")
        raise typer.Exit(1)
    raise typer.Exit(0 if set(summary["statuses"]) <= {"ok"} else 3)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder: the --out of run.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write. Default: RUN/report.html.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl report clean[/]

    Write one HTML page about a run, to look at and to pass on: counts, speed, accuracy, what changed most, what failed.

    The page needs no other file and no network. It may be made while the run is still at work.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.report.run import write_report

    figures = write_report(run, out)
    console.note(f"Report of {figures['rows']:,} of {figures['inputs']:,} inputs: {figures['report']}")
    console.result(figures)
