"""Commands that attack and measure: `attack`, `evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from purifyctl import console
from purifyctl.cli.app import app
from purifyctl.cli.options import ClassifierWeights, Json, Quiet, Verbose
from purifyctl.config import AttackKind, EpsSpace, LabelsFrom
from purifyctl.errors import ConfigError

OnExisting = Literal["error", "overwrite"]


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
    from purifyctl.engine.default import chosen_classifier

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
    from purifyctl.engine.default import chosen_classifier
    from purifyctl.evaluation import EvaluateOptions
    from purifyctl.evaluation import evaluate as run_evaluation
    from purifyctl.evaluation.ladder import parse_attack, parse_threat_models
    from purifyctl.gate import shipped_gate
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
