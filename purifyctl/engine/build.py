"""Build an engine bundle: a checkpoint and a classifier, typed, exported, compiled, and compared with torch."""

import functools
import hashlib
import json
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

import purifyctl
from purifyctl import console
from purifyctl.config import BACKENDS, REFERENCE_BACKENDS, EngineConfig, is_int8, to_dict
from purifyctl.engine import trust
from purifyctl.engine.agreement import check_agreement, explain_differences
from purifyctl.engine.backends import LOCAL, implementation, plan_builder
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.choice import find_candidates, keep, named
from purifyctl.engine.drafts import Drafts
from purifyctl.engine.graphs import OPSET
from purifyctl.engine.joined import opset_of
from purifyctl.engine.manifest import MANIFEST, SCHEMA, Candidate, Manifest, Network, Parity
from purifyctl.engine.networks import Networks, absolute, describe_networks, graphs_of, load_networks, with_size
from purifyctl.engine.overlap import measured_tiling
from purifyctl.engine.parity import Reference, compute_reference, gate_scores
from purifyctl.engine.rewrites import PASSES
from purifyctl.engine.staging import check_out, commit, staged
from purifyctl.engine.steps import Steps
from purifyctl.engine.times import describe
from purifyctl.errors import ConfigError, ParityError
from purifyctl.files import file_sha256
from purifyctl.labels import Labels
from purifyctl.photographs import Pixels, read_pixels
from purifyctl.samples import installed_samples
from purifyctl.sources import list_images
from purifyctl.thresholds import thresholds_at
from purifyctl.waiting import working

CALIBRATION_IMAGES = 64  # of a folder
GATE_IMAGES = 2000  # the most clean photographs that thresholds come from: enough for a rate of 0.2 %


def build_engine(
    config: EngineConfig,
    checkpoint: Path,
    out: Path,
    *,
    parity_photos: Path | None = None,
    calibration_photos: Path | None = None,
    gate_photos: Path | None = None,
    auto: bool = False,
    explain: bool = False,
    overwrite: bool = False,
    temporary: bool = False,
) -> Bundle:
    """Build the bundle `out`. It appears whole, or not at all.

    Parameters
    ----------
    config
        The recipe. Its precision does not count if `auto`.
    checkpoint
        `purifier.safetensors`, or the run folder that holds it.
    parity_photos
        Folder of photographs on which engine and torch are compared, on all of them. None: those inside packages.
    calibration_photos
        Folder of photographs that the ranges of INT8 come from: 64 of them. None: those inside packages.
    gate_photos
        Folder of clean photographs that the gate's thresholds come from: at most 2,000. None: the gate keeps its own.
    auto
        Take the precision that is the fastest on this machine of those that agree with torch, by measurement.
    explain
        Say which layer is the first to differ from FP32, and which differs most.
    overwrite
        Replace the bundle `out`.
    temporary
        It ends with this process: no other one needs to trust it.

    Raises
    ------
    ConfigError
        `out` exists, or the network cannot take images of this size.
    ParityError
        The engine does not agree with torch within `TOLERANCES`. No bundle is left.
    """
    _check_photos(config, auto=auto, calibration_photos=calibration_photos, gate_photos=gate_photos)
    if explain and BACKENDS[config.backend].graph != "onnx":
        raise ConfigError(
            f"--explain compares the layers of ONNX graphs, and engines of {config.backend} have none.",
            hint=f"leave out --explain, or add --backend {REFERENCE_BACKENDS['onnx']}",
        )
    out = out.absolute()
    check_out(out, overwrite=overwrite)
    backend, plans_for = implementation(config.backend), plan_builder(config.backend)
    if plans_for:
        plans_for.check_targets(config.targets)
    started = time.monotonic()
    with ExitStack() as stack:
        steps = Steps(stack.enter_context(working("building the engine")), config, auto=auto)
        work = stack.enter_context(staged(out))
        steps.begin("loading the networks")
        loaded = load_networks(config, checkpoint)
        config = with_size(config, loaded)
        nets = _with_thresholds(loaded, gate_photos, config.image_size)
        steps.begin("torch computes the reference")
        photographs = _photographs(parity_photos, config.image_size)
        reference = compute_reference(
            nets.purifier.net, nets.classifier, nets.gate.net if nets.gate else None, photographs
        )
        steps.begin("measuring how tiles overlap")
        tiling = measured_tiling(nets.purifier.net, nets.purifier.network.size_multiple, photographs)
        calibration = _photographs(calibration_photos, config.image_size, CALIBRATION_IMAGES)
        drafts = Drafts(
            Path(stack.enter_context(tempfile.TemporaryDirectory())), nets, config, calibration, reference.images, steps
        )
        candidates = find_candidates(drafts) if auto else named(config, config.precision)
        taken, networks, parity, candidates = _first_that_agrees(work, drafts, candidates, checkpoint, reference)
        if len(candidates) > 1:
            keep(drafts, candidates)
            console.note(describe(candidates))
        config = replace(config, precision=taken.precision)
        if explain:
            passes = [PASSES[name] for name in taken.rewrites]
            explain_differences(work, config, graphs_of(nets, "fp32", passes, fused=config.fused), reference)
        labels = nets.classifier.labels if nets.classifier else Labels(())
        manifest = Manifest(
            schema=SCHEMA,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            purifyctl=purifyctl.__version__,
            backend=config.backend,
            backend_version=backend.version(),
            gpu=torch.cuda.get_device_name() if LOCAL in networks["purifier"].plans else "",
            precision=config.precision,
            image_size=config.image_size,
            batch_size=config.batch_size,
            opset=opset_of(nets.classifier.graph.model) if nets.classifier and nets.classifier.graph else OPSET,
            networks=networks,
            gate_thresholds=dict(nets.gate.thresholds) if nets.gate else {},
            class_names=labels.names,
            class_wnids=labels.wnids,
            parity=parity,
            rebuild=_command(
                config,
                "auto" if auto else config.precision,
                out,
                {
                    "--checkpoint": checkpoint,
                    "--parity-photos": parity_photos,
                    "--calibration-photos": calibration_photos,
                    "--gate-photos": gate_photos,
                },
            ),
            build_s=round(time.monotonic() - started, 1),
            fitted_to=nets.purifier.fitted_to,
            varies=plans_for.why_builds_vary(config) if plans_for else "",
            candidates=candidates if len(candidates) > 1 else (),
            tiling=tiling,
            classifier=nets.preprocessing,
            files={f.relative_to(work).as_posix(): file_sha256(f) for f in sorted(work.rglob("*")) if f.is_file()},
        )
        text = (json.dumps(to_dict(manifest), indent=1) + "\n").encode()
        (work / MANIFEST).write_bytes(text)
        sha256 = hashlib.sha256(text).hexdigest()
        trust.accept(sha256) if temporary else trust.remember(sha256, out)
        commit(work, out, overwrite=overwrite)
        steps.keep()
    return load_bundle(out)


def _first_that_agrees(
    work: Path, drafts: Drafts, candidates: Sequence[Candidate], checkpoint: Path, reference: Reference
) -> tuple[Candidate, dict[str, Network], Parity, tuple[Candidate, ...]]:
    """Build the best candidate that agrees with torch. Also returns all of them, with why better ones were refused."""
    found = list(candidates)
    for i, candidate in enumerate(candidates):
        config = replace(drafts.config, precision=candidate.precision)
        passes = [PASSES[name] for name in candidate.rewrites]
        about = describe_networks(drafts.networks, config, checkpoint, passes)
        drafts.write(candidate.precision, candidate.rewrites, work)
        networks = {}
        for name in drafts.names():
            drafts.steps.begin(f"compiling {name}")
            networks[name] = replace(about[name], onnx=drafts.file_name(name), plans=_build_plans(work, name, config))
        drafts.steps.begin(f"comparing {candidate} with torch")
        try:
            parity = check_agreement(work, config, networks, reference)
        except ParityError as error:
            if i == len(candidates) - 1:
                raise
            found[i] = replace(candidate, refused=error.message)
            continue
        return candidate, networks, parity, tuple(found)
    raise AssertionError("there is at least one candidate")


def _check_photos(
    config: EngineConfig, *, auto: bool, calibration_photos: Path | None, gate_photos: Path | None
) -> None:
    """Refuse photographs that the build has no use for."""
    if calibration_photos is not None and not auto and not is_int8(config.precision):
        raise ConfigError(
            f"Calibration photographs are for int8, and the precision is {config.precision}.",
            hint="leave out --calibration-photos, or add --precision int8",
        )
    if gate_photos is not None and config.gate == "none":
        raise ConfigError(
            "Photographs for a gate's thresholds are given, but there is no gate.", hint="leave out --gate-photos"
        )


def _with_thresholds(networks: Networks, clean: Path | None, image_size: int) -> Networks:
    """The networks, with thresholds of the gate from these clean photographs, if there are some."""
    gate = networks.gate
    if gate is None or clean is None:
        return networks
    images = _photographs(clean, image_size, GATE_IMAGES)
    return replace(networks, gate=replace(gate, thresholds=thresholds_at([gate_scores(gate.net, images)])))


def _build_plans(work: Path, name: str, config: EngineConfig) -> dict[str, str]:
    """Build the plans of one exported graph: file by target. Empty for backends that run graphs."""
    plans: dict[str, str] = {}
    if (builder := plan_builder(config.backend)) is None:
        return plans
    for target in config.targets or builder.targets():
        console.detail(f"Building the plan of {name} for {'the GPU here' if target == LOCAL else target}.")
        plan = builder.build_plan(
            work / f"{name}.onnx", image_size=config.image_size, batch_size=config.batch_size, target=target
        )
        file = work / "plans" / target / f"{name}.plan"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(plan)
        plans[target] = str(file.relative_to(work))
    return plans


def _photographs(folder: Path | None, size: int, most: int | None = None) -> Pixels:
    """The photographs in a folder, or evenly spaced ones if there are more than `most`. None: those inside packages."""
    if folder is None:
        return _packaged_photographs(size)  # they are few
    files = list_images(folder)
    if most is not None and len(files) > most:
        files = [files[i * len(files) // most] for i in range(most)]
    return read_pixels(files, size)[0]


@functools.lru_cache(maxsize=1)
def _packaged_photographs(size: int) -> Pixels:
    """They are read once, for comparing and for calibrating."""
    return read_pixels(installed_samples(), size)[0]


def _command(config: EngineConfig, precision: str, out: Path, folders: Mapping[str, Path | None]) -> str:
    """The command that builds this bundle again."""
    words = ["purifyctl", "build-engine", "--out", str(out), "--overwrite"]
    words += [word for flag, folder in folders.items() if folder for word in (flag, str(folder.absolute()))]
    words += ["--backend", config.backend, "--precision", precision]
    words += ["--image-size", str(config.image_size), "--batch-size", str(config.batch_size)]
    words += [word for target in config.targets for word in ("--target", target)]
    if chosen := config.classified_by:
        name, weights, labels = map(absolute, (chosen.name, chosen.weights, chosen.labels))
        words += replace(chosen, name=name, weights=weights, labels=labels).flags
    if config.fused:
        words.append("--fused")
    if config.gate != "shipped":
        words += ["--gate", absolute(config.gate)]
    return shlex.join(words)
