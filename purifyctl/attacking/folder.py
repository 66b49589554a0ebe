"""`attack`: a folder of images in, the same tree of attacked images out, with a row per image and a manifest.

Images are written as PNG (JPEG would change the perturbation), and judged in 8 bits, as files hold them.
"""

import dataclasses
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl.attacking.batch import Input, Row, Setup, attack_batch
from purifyctl.attacking.success import count, success
from purifyctl.attacks import Model, behind, check_installed
from purifyctl.checkpoint import Checkpoint, load_purifier
from purifyctl.classifiers import Classifier, load_classifier, own_square
from purifyctl.config import (
    AttackConfig,
    eps_scale,
    format_eps,
    grey_levels,
    parse_eps,
    to_dict,
)
from purifyctl.config.attack import AttackOptions
from purifyctl.config.folders import ATTACK, ATTACK_MANIFEST, ATTACK_ROWS, REPORT
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.truth import PREDICTED
from purifyctl.devices import torch_device
from purifyctl.errors import ConfigError
from purifyctl.files import write_json
from purifyctl.images.names import Naming, output_paths
from purifyctl.images.sink import IMAGES, prepare_output, printable
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.labels import Labels
from purifyctl.machine import installed
from purifyctl.nn import AnySize
from purifyctl.photographs import open_decoder, show_square
from purifyctl.sources import ImageFile, list_images
from purifyctl.truth import TruthFromFile, recorded_truth, truth_as_asked
from purifyctl.waiting import progress

DECODE_THREADS = 2
NAMED = 10  # failed inputs that a result names

_THREAT_MODELS = {
    "gray_box": "the attacker knows the classifier, and no purifier",
    "transfer": "the attacker knows another classifier than the one that is judged",
    "adaptive": "the attacker differentiates through purifier and classifier together",
    "black_box": "the attacker asks purifier and classifier together for logits, and knows neither",
}


@dataclass(frozen=True)
class AttackResult:
    manifest: dict[str, Any]
    exit_code: int  # 0 ok, 3 some inputs failed, 130 interrupted
    failed: tuple[Row, ...]  # the first inputs that failed, up to `NAMED`


def attack_folder(source: Path, out: Path, options: AttackOptions) -> AttackResult:
    """Attack every image under `source`.

    out/images/...      attacked images, in the tree of the source
    out/rows.jsonl      one row per input
    out/attack.json     the options; it marks the folder as that of an attack
    out/manifest.json   what this returns

    Raises
    ------
    ConfigError
        The source holds nothing or is the output, `out` holds an earlier attack, or the options do not fit each other.
    WeightsError
        The classifier's or the purifier's weights cannot be loaded.
    MissingDependencyError
        The classifier or the attack comes from a package that is not installed.
    """
    check_installed(options.attack)
    images = list_images(source, include=options.include, exclude=options.exclude, skip_folder=out)
    device = torch_device(options.device)
    classifier = load_classifier(options.judged).to(device)
    surrogate = classifier
    if options.surrogate:
        surrogate = load_classifier(options.attacked).to(device)
    purifier = load_purifier(options.through_purifier) if options.through_purifier else None
    whole = options.image_size == "original"
    own = own_square(classifier, purifier.network.size_multiple) if purifier else own_square(classifier)
    side = own if options.image_size in (0, "original") else int(options.image_size)
    options = options if whole else replace(options, image_size=side)
    if whole:
        for net in {classifier, surrogate}:
            show_square(net, side)
    eps = _budget(options, surrogate)
    judged, attacked = (_pipeline(purifier, net, device, whole=whole) for net in (classifier, surrogate))
    classes = _check_networks(judged, attacked, purifier, side, device)
    target = _target(options.target, classifier.labels, classes)
    inputs = _plan(images, options, classifier.labels, source)
    settings = _settings(source, options, eps, purifier)
    overwrite = options.on_existing == "overwrite"
    prepare_output(
        source, out, makes=(ATTACK_ROWS, ATTACK_MANIFEST, REPORT), marker=ATTACK, settings=settings, overwrite=overwrite
    )
    tally: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    failed: list[Row] = []
    worst = 0
    at_once = 1 if whole else options.batch_size
    batches = [inputs[i : i + at_once] for i in range(0, len(inputs), at_once)]
    with (
        open_decoder(options.image_size, options.batch_size, DECODE_THREADS, options) as decoder,
        (out / ATTACK_ROWS).open("w", encoding="utf-8") as rows_file,
        progress(len(inputs), "attacking") as bar,
        drain_on_interrupt("finishing the batch under way.") as interrupted,
    ):
        setup = Setup(
            attack=options.attack,
            eps=eps,
            judged=judged,
            attacked=attacked,
            labels=classifier.labels,
            predicted=options.truth_from == PREDICTED,
            target=target,
            out=out,
            decoder=decoder,
            generator=torch.Generator(device).manual_seed(options.seed),
            device=device,
        )
        for number, batch in enumerate(batches, start=1):
            if interrupted.is_set():
                break
            doing = f"{options.attack.name}, batch {number} of {len(batches)}"
            bar.show(doing)
            rows = attack_batch(setup, batch)
            rows_file.writelines(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
            rows_file.flush()
            for row in rows:
                count(row, tally)
            statuses.update(row.status for row in rows)
            failed += [row for row in rows if row.status != "ok"][: NAMED - len(failed)]
            worst = max(worst, *(row.max_delta_255 or 0 for row in rows))
            bar.advance(len(rows), errors=sum(row.status != "ok" for row in rows), text=doing)
    manifest = {
        "inputs": len(inputs),
        "finished": bar.done == len(inputs),
        "rows": bar.done,
        "statuses": dict(statuses.most_common()),
        **success(tally, targeted=bool(options.target)),
        "max_delta_255": worst,
        **settings,
        "classes": classes,
        "device": device.type,
    }
    write_json(out / ATTACK_MANIFEST, manifest)
    if not manifest["finished"]:
        return AttackResult(manifest, 130, tuple(failed))
    return AttackResult(manifest, 3 if bar.errors else 0, tuple(failed))


def _budget(options: AttackOptions, classifier: Classifier) -> float:
    """The L-infinity budget in [0, 1], cut to the whole grey levels that a file can show."""
    eps = parse_eps(options.eps, eps_scale(options.eps_space, classifier.std.flatten().tolist()))
    if grey_levels(eps) < 1:
        raise ConfigError(
            f"eps {options.eps} is {format_eps(eps)}: less than one grey level, the least that a file can show.",
            hint="use at least 1/255",
        )
    return grey_levels(eps) / 255


def _pipeline(purifier: Checkpoint | None, classifier: Classifier, device: torch.device, *, whole: bool) -> Model:
    """The classifier, behind the purifier if there is one. Purified images are rounded to 8 bits, as `run` does."""
    if purifier is None:
        return classifier
    net = purifier.net.to(device)
    return behind(AnySize(net, purifier.network.size_multiple) if whole else net, classifier)


def _check_networks(
    judged: Model, attacked: Model, purifier: Checkpoint | None, size: int, device: torch.device
) -> int:
    """The number of classes. Refuses networks that do not take the images, or have different numbers of classes."""
    if purifier:
        purifier.check_size(size)
    try:
        with torch.no_grad():
            classes, others = (
                int(net(torch.zeros(1, 3, size, size, device=device)).shape[1]) for net in (judged, attacked)
            )
    except (RuntimeError, IndexError) as error:  # IndexError: the output is not [N, classes]
        raise ConfigError(
            f"The classifier makes no logits of images of {size}x{size} pixels: {error}",
            hint="try another --size, and see that it returns one row of logits for each image",
        ) from None
    if classes != others:
        raise ConfigError(
            f"The classifier has {classes} classes and the surrogate {others}; they must be the same ones.",
            hint="name another --surrogate",
        )
    return classes


def _plan(images: Sequence[ImageFile], options: AttackOptions, labels: Labels, source: Path) -> list[Input]:
    outputs = output_paths([image.path for image in images], Naming("png"))
    truth = truth_as_asked(options, labels, source)
    inputs = [
        Input(image, IMAGES / output, truth(image.path) if truth else None)
        for image, output in zip(images, outputs, strict=True)
    ]
    if isinstance(truth, TruthFromFile):
        truth.check_used()
    unknown = [one for one in inputs if one.truth is None]
    if truth and unknown:
        raise ConfigError(
            f"{len(unknown)} images have no true class ({truth.where}), such as {printable(unknown[0].image.path)}.",
            hint="leave them out with --exclude, or use --truth predicted",
        )
    return inputs


def _target(target: str, labels: Labels, classes: int) -> str | int | None:
    """The target that `Setup` takes: a class given by index, WordNet id or name becomes its index."""
    if target in ("least-likely", "random"):
        return target
    if not target:
        return None
    index = labels.find(target)
    if index is None and target.isdecimal():
        index = int(target)
    if index is None or index >= classes:
        raise ConfigError(
            f"The target {target!r} is no class of this classifier, which has {classes}.",
            hint="give an index, a WordNet id or a name, or: least-likely, random",
        )
    return index


def _settings(source: Path, options: AttackOptions, eps: float, purifier: Checkpoint | None) -> dict[str, Any]:
    attack = options.attack
    if options.surrogate:
        threat_model = "transfer"
    elif not purifier:
        threat_model = "gray_box"
    else:
        threat_model = "black_box" if attack.record.family == "queries" else "adaptive"
    return {
        "attack": {"name": attack.name, **to_dict(attack), "steps": attack.effective_steps},
        "eps": eps,
        "eps_255": format_eps(eps),
        "eps_asked": {"eps": options.eps, "space": options.eps_space},
        "norm": "Linf",
        "budget": attack.record.eps_note or "no value moves by more than eps",
        "threat_model": threat_model,
        "threat_model_means": _THREAT_MODELS[threat_model],
        "classifier": to_dict(options.judged),
        "surrogate": to_dict(options.attacked),
        "purifier": {"path": str(options.through_purifier), "sha256": purifier.sha256} if purifier else None,
        "labels": recorded_truth(options),
        "target": options.target or None,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "source": str(source.absolute()),
        "include": options.include,
        "exclude": options.exclude,
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(PictureOptions)},
        "versions": _versions(attack),
        "command": shlex.join(sys.argv),
    }


def _versions(attack: AttackConfig) -> dict[str, str | None]:
    """The versions of the packages that make the images."""
    versions = {"purifyctl": purifyctl.__version__, "torch": installed("torch")}
    if package := attack.record.package:
        versions[package] = installed(package)
    return versions
