"""Build an engine bundle: a checkpoint and a classifier, typed, exported, compiled, and checked against torch."""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

import purifyctl
from purifyctl import console
from purifyctl.checkpoint import Checkpoint, load_purifier
from purifyctl.classifiers import load_classifier, weights_sha256
from purifyctl.config import GPU_BACKENDS, EngineConfig, to_dict
from purifyctl.engine import rewrites, trust
from purifyctl.engine.backends import backend_version, open_runner, tensorrt
from purifyctl.engine.backends.openvino import has_amx
from purifyctl.engine.bundle import MANIFEST, SCHEMA, Bundle, Manifest, Network, Parity, load_bundle
from purifyctl.engine.graphs import (
    OPSET,
    FusedGraph,
    Graph,
    Precision,
    classifier_graph,
    count_multiply_adds,
    export_onnx,
    gate_graph,
    purifier_graph,
)
from purifyctl.engine.locate import compare_layers, describe_layers
from purifyctl.engine.parity import Reference, check_parity, gate_scores, reference
from purifyctl.engine.quantize import quantize_purifier
from purifyctl.errors import ConfigError
from purifyctl.files import file_sha256
from purifyctl.gate import Gate, load_gate, shipped_gate, thresholds_at
from purifyctl.labels import Labels
from purifyctl.photographs import Pixels, read_pixels
from purifyctl.samples import installed_samples
from purifyctl.sources import list_images

EXPLAINED = 4  # images that layers are compared on
CALIBRATION_IMAGES = 64  # of a folder
GATE_IMAGES = 2000  # most clean photographs that thresholds come from: enough to tell 0.2 %


def build_engine(
    config: EngineConfig,
    checkpoint: Path,
    out: Path,
    *,
    parity_photos: Path | None = None,
    calibration_photos: Path | None = None,
    gate_photos: Path | None = None,
    explain: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Build the bundle `out`. It appears whole, or not at all.

    Parameters
    ----------
    checkpoint
        `purifier.safetensors`, or the run folder that holds it.
    parity_photos
        Photographs to compare engine and torch on, all of them; without, those that come inside packages.
    calibration_photos
        Photographs that the ranges of INT8 come from, 64 of them; without, those that come inside packages.
    gate_photos
        Clean photographs that the gate's thresholds come from, at most 2,000 of them; without, it keeps its own.
    explain
        Say which layers differ from FP32, and where it begins.

    Raises
    ------
    ConfigError
        `out` exists, or the network cannot take images of this size.
    ParityError
        The engine does not agree with torch within `TOLERANCES`. No bundle is left.
    """
    if calibration_photos is not None and config.precision != "int8":
        raise ConfigError(
            f"Calibration photographs are for int8, and the precision is {config.precision}.",
            hint="leave out --calibration-photos, or add --precision int8",
        )
    if gate_photos is not None and config.gate == "none":
        raise ConfigError("Photographs for a gate's thresholds, and no gate.", hint="leave out --gate-photos")
    out = out.absolute()
    _check_out(out, overwrite=overwrite)
    tensorrt.check_targets(config.backend, config.targets)
    started = time.monotonic()
    purifier = load_purifier(checkpoint)
    purifier.check_size(config.image_size)
    classifier = load_classifier(config.classifier, config.weights) if config.classifier else None
    gate = _load_gate(config.gate, gate_photos, config.image_size)
    wanted = reference(
        purifier.net, classifier, gate.net if gate else None, _photographs(parity_photos, config.image_size)
    )
    calibration = _photographs(calibration_photos, config.image_size, CALIBRATION_IMAGES)
    # of the purifier alone: a classifier is somebody else's network, and whoever loads it knows what can be folded
    passes = rewrites.passes(config.backend, config.precision, amx=has_amx())
    about = _about(purifier, classifier, gate, config, checkpoint, tuple(rewrite.__name__ for rewrite in passes))
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    lock = _lock(work, wait=True)  # until the end, however it comes
    try:
        networks = {}
        typed: Precision = "fp16" if config.precision == "fp16" else "fp32"
        for name, graph in _graphs(purifier.net, classifier, gate, typed, passes, fused=config.fused).items():
            console.detail(f"Exporting {name}.")
            export_onnx(graph, work / f"{name}.onnx", config.image_size)
            if config.precision == "int8" and name in ("purifier", "fused"):
                quantize_purifier(work / f"{name}.onnx", calibration, symmetric=config.backend in GPU_BACKENDS)
            networks[name] = replace(about[name], plans=_build_plans(work, name, config))
        if explain:
            _explain(work, _graphs(purifier.net, classifier, gate, "fp32", passes, fused=config.fused), wanted, config)
        labels = classifier.labels if classifier else Labels(())
        manifest = Manifest(
            schema=SCHEMA,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            purifyctl=purifyctl.__version__,
            backend=config.backend,
            backend_version=backend_version(config.backend),
            gpu=torch.cuda.get_device_name() if config.backend == "tensorrt" else "",
            precision=config.precision,
            image_size=config.image_size,
            batch_size=config.batch_size,
            opset=OPSET,
            networks=networks,
            gate_thresholds=dict(gate.thresholds) if gate else {},
            class_names=labels.names,
            class_wnids=labels.wnids,
            parity=_check(work, wanted, config, networks),
            rebuild=_command(
                config,
                out,
                {
                    "--checkpoint": checkpoint,
                    "--parity-photos": parity_photos,
                    "--calibration-photos": calibration_photos,
                    "--gate-photos": gate_photos,
                },
            ),
            build_s=round(time.monotonic() - started, 1),
            varies=_why_it_varies(config),
            files={f.relative_to(work).as_posix(): file_sha256(f) for f in sorted(work.rglob("*")) if f.is_file()},
        )
        text = (json.dumps(to_dict(manifest), indent=1) + "\n").encode()
        (work / MANIFEST).write_bytes(text)
        trust.remember(hashlib.sha256(text).hexdigest(), out)
        _commit(work, out, overwrite=overwrite)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    return load_bundle(out)


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Only a bundle is ever replaced, and only when asked."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} exists and is no engine bundle.", hint="choose another --out")
    if not overwrite:
        raise ConfigError(f"The bundle {out} exists.", hint="choose another --out, or pass --overwrite")


def _lock(work: Path, *, wait: bool = False) -> int | None:
    """Tell other builds that this one is at work in its folder; the kernel ends that with the process. None where the
    folder cannot be locked, or without `wait` where another build holds it.
    """
    opened = None
    try:
        opened = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if opened is not None:
            os.close(opened)
        return None
    return opened


def _remove_leftovers(out: Path) -> None:
    """Remove the folders of builds of `out` that were killed: those that nobody holds locked."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}\.part")  # as `tempfile.mkdtemp` names them
    for folder in out.parent.iterdir():
        if not ours.fullmatch(folder.name) or (lock := _lock(folder)) is None:
            continue
        empty = not any(folder.iterdir())  # a build that has just begun may not have its lock yet
        if not empty:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _load_gate(name: str, photos: Path | None, image_size: int) -> Gate | None:
    """With thresholds from these clean photographs, where there are some."""
    if name == "none":
        return None
    gate = load_gate(shipped_gate() if name == "shipped" else Path(name))
    if photos is None:
        return gate
    images = _photographs(photos, image_size, GATE_IMAGES)
    return replace(gate, thresholds=thresholds_at([gate_scores(gate.net, images)]))


def _graphs(
    purifier: nn.Module,
    classifier: nn.Module | None,
    gate: Gate | None,
    precision: Precision,
    passes: tuple[rewrites.Pass, ...],
    *,
    fused: bool,
) -> dict[str, Graph]:
    """The graphs of a bundle, typed, by name."""
    purify = purifier_graph(purifier, precision, passes=passes)
    graphs: dict[str, Graph] = {"purifier": purify}
    if classifier is not None:
        graphs["classifier"] = classify = classifier_graph(classifier, precision)
        if fused:
            graphs["fused"] = FusedGraph(purify, classify)
    if gate is not None:
        graphs["gate"] = gate_graph(gate.net, precision)
    return graphs


def _about(
    purifier: Checkpoint,
    classifier: nn.Module | None,
    gate: Gate | None,
    config: EngineConfig,
    checkpoint: Path,
    applied: tuple[str, ...],
) -> dict[str, Network]:
    """What the manifest says of each network, but for its plans. Counted as it was trained, not as it was rewritten."""

    def network(graph: Graph, **known: Any) -> Network:
        parameters = sum(p.numel() for p in graph.parameters())
        return Network(
            plans={}, parameters=parameters, multiply_adds=count_multiply_adds(graph, config.image_size), **known
        )

    one = network(
        purifier_graph(purifier.net),
        onnx="purifier.onnx",
        name=purifier.network.kind,
        source=str(checkpoint.absolute()),
        sha256=purifier.sha256,
        rewrites=applied,
    )
    known = {"purifier": one}
    if gate is not None:
        known["gate"] = network(
            gate_graph(gate.net),
            onnx="gate.onnx",
            name="gate",
            source=_absolute(config.gate),
            sha256=gate.sha256,
            rewrites=("fold_norms",),
        )
    if classifier is None:
        return known
    two = network(
        classifier_graph(classifier),
        onnx="classifier.onnx",
        name=config.classifier,
        source=_absolute(config.weights),
        sha256=weights_sha256(classifier),
        rewrites=(),
    )
    both = replace(
        one,
        onnx="fused.onnx",
        name=f"{one.name} + {two.name}",
        parameters=one.parameters + two.parameters,
        multiply_adds=one.multiply_adds + two.multiply_adds,
    )
    return {**known, "classifier": two, "fused": both}


def _absolute(weights: str) -> str:
    """A file from wherever one is; names of weights as they are."""
    return str(Path(weights).absolute()) if Path(weights).is_file() else weights


def _build_plans(work: Path, name: str, config: EngineConfig) -> dict[str, str]:
    """TensorRT's plans of one exported graph: file by target. None for the backends that run graphs."""
    plans: dict[str, str] = {}
    if config.backend not in GPU_BACKENDS:
        return plans
    for target in config.targets or tensorrt.targets(config.backend) or (None,):
        console.detail(f"Building the plan of {name} for {target or 'the GPU here'}.")
        plan = tensorrt.build_plan(
            work / f"{name}.onnx",
            flavour=config.backend,
            image_size=config.image_size,
            batch_size=config.batch_size,
            target=target,
        )
        file = work / "plans" / (target or "local") / f"{name}.plan"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(plan)
        plans[target or "local"] = str(file.relative_to(work))
    return plans


def _check(work: Path, wanted: Reference, config: EngineConfig, networks: Mapping[str, Network]) -> Parity:
    """Compare what was built with torch."""
    backend, covers = config.backend, "the engine"
    files = {name: network.onnx for name, network in networks.items()}
    if config.backend in GPU_BACKENDS:
        here = "local" if config.backend == "tensorrt" else tensorrt.capability()
        plans = networks["purifier"].plans
        if here in plans:
            files = {name: network.plans[here] for name, network in networks.items()}
            covers = f"the plan for {here}" + (f", not {', '.join(set(plans) - {here})}" if len(plans) > 1 else "")
        else:  # a plan needs its GPU; the graph that it was made of is what can be compared
            backend, covers = "onnxruntime", "the graph only: its plans run on GPUs that are not here"
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(
                open_runner(
                    backend,
                    work / file,
                    precision=config.precision,
                    image_size=config.image_size,
                    batch_size=config.batch_size,
                )
            )
            for name, file in files.items()
        }
        found = check_parity(wanted, runners, config.precision, (1, config.batch_size))
    return Parity(f"{backend} {backend_version(backend)}", f"{covers}, on {len(wanted.images)} photographs", *found)


def _commit(work: Path, out: Path, *, overwrite: bool) -> None:
    """Put the finished folder in its place. Whoever looks finds the old bundle, the new one, or for a moment none."""
    _check_out(out, overwrite=overwrite)  # again: the build took a while
    work.chmod(0o755)
    if not out.exists():
        work.rename(out)
        return
    old = work.with_suffix(".old.part")
    out.rename(old)
    work.rename(out)
    shutil.rmtree(old)


def _explain(work: Path, references: Mapping[str, Graph], wanted: Reference, config: EngineConfig) -> None:
    """Say where each network begins to differ from FP32."""
    backend = "onnxruntime" if config.backend in GPU_BACKENDS else config.backend
    for name, graph in references.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "fp32.onnx"
            export_onnx(graph, file, config.image_size)
            images = wanted.images[:EXPLAINED]
            layers = compare_layers(file, work / f"{name}.onnx", images, backend=backend, precision=config.precision)
        console.note(f"{name}, {backend} {config.precision} against FP32: {describe_layers(layers, config.precision)}.")


def _photographs(folder: Path | None, size: int, most: int | None = None) -> Pixels:
    """Those in a folder, spread over it where there are more than `most`; or those that come inside packages."""
    files = list_images(folder) if folder else installed_samples()
    if most is not None and len(files) > most:
        files = [files[i * len(files) // most] for i in range(most)]
    return read_pixels(files, size)[0]


def _why_it_varies(config: EngineConfig) -> str:
    """Why the same build may give other bytes (docs/adr/0008)."""
    if config.backend == "tensorrt":
        return "TensorRT chooses kernels by timing them"
    if config.backend == "tensorrt-rtx" and (config.fused or not config.targets or "SM75" in config.targets):
        return (
            "TensorRT for RTX orders what it compiles for SM75, and for a graph with two outputs, by memory addresses"
        )
    return ""


def _command(config: EngineConfig, out: Path, folders: Mapping[str, Path | None]) -> str:
    """The command that builds this bundle again."""
    words = ["purifyctl", "build-engine", "--out", str(out), "--overwrite"]
    words += [word for flag, folder in folders.items() if folder for word in (flag, str(folder.absolute()))]
    words += ["--backend", config.backend, "--precision", config.precision]
    words += ["--image-size", str(config.image_size), "--batch-size", str(config.batch_size)]
    words += [word for target in config.targets for word in ("--target", target)]
    if config.classifier:
        words += ["--classifier", config.classifier]
    if config.weights:
        words += ["--weights", _absolute(config.weights)]
    if config.fused:
        words.append("--fused")
    if config.gate != "shipped":
        words += ["--gate", _absolute(config.gate)]
    return shlex.join(words)
