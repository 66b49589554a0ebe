"""Commands about engines: `build-engine`, `inspect`, `bench`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from purifyctl import console
from purifyctl.cli import completion
from purifyctl.cli.app import app, show_recipe
from purifyctl.cli.options import ClassifierWeights, Json, PrintRecipe, Quiet, Trust, Verbose
from purifyctl.config import AHEAD_OF_TIME, DEFAULT_BACKEND, BackendName
from purifyctl.errors import ConfigError

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]


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
    backend: Annotated[BackendName | None, typer.Option(help=f"What runs it. Default: {DEFAULT_BACKEND}.")] = None,
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
        list[str] | None,
        typer.Option(help=f"GPU for {' or '.join(AHEAD_OF_TIME)}, such as SM86; repeatable. Default: all."),
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
    """[bold]purifyctl build-engine --checkpoint runs/mine --classifier mobilenet_v2 --out engines/mine[/]

    Build an engine bundle from a checkpoint and a classifier, and check that it agrees with torch.

    RECIPE, where one is given: a word without / and . names one that comes with purifyctl, anything else a file.

    TensorRT for RTX plans need no GPU to build: [bold]--backend tensorrt-rtx --target SM89[/].
    """
    console.configure(json=json, quiet=quiet, verbose=verbose)
    from purifyctl.config.recipes import find_recipe

    file = find_recipe(recipe, "engines") if recipe is not None else None
    if print_recipe:
        if file is None:
            raise ConfigError("--print shows a recipe, and none is named.")
        show_recipe(file)
    from purifyctl.checkpoint import shipped_checkpoint
    from purifyctl.config import EngineConfig, from_dict, read_recipe, to_dict
    from purifyctl.engine.backends import implementation
    from purifyctl.engine.build import build_engine as build

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
        drafted = read_recipe(file, EngineConfig).backend if file else DEFAULT_BACKEND
        flags["precision"] = implementation(flags.get("backend", drafted)).best_precision()
    config = read_recipe(file, EngineConfig, flags) if file else from_dict(EngineConfig, flags)
    name = file.stem if file else f"{config.backend}-{config.precision}"
    bundle = build(
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
    from purifyctl.config import to_dict
    from purifyctl.engine.bundle import load_bundle
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
    from purifyctl.config import parse_list
    from purifyctl.engine.bundle import load_bundle
    from purifyctl.engine.default import default_engine
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
