"""Build an engine bundle: a checkpoint and a classifier, typed, exported, compiled, and checked against torch."""

import hashlib
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import purifyctl
from purifyctl import console, rewrites, trust
from purifyctl.backends import backend_version, open_runner, tensorrt
from purifyctl.backends.openvino import has_amx
from purifyctl.bundle import MANIFEST, SCHEMA, Bundle, Manifest, Network, load_bundle
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import EngineConfig, to_dict
from purifyctl.errors import ConfigError
from purifyctl.export import (
    OPSET,
    FusedGraph,
    Graph,
    classifier_graph,
    count_multiply_adds,
    export_onnx,
    purifier_graph,
)
from purifyctl.files import file_sha256
from purifyctl.images import Decoder, ImageFile, list_images
from purifyctl.labels import Labels
from purifyctl.locate import compare_layers, describe_layers
from purifyctl.parity import BATCH, Reference, check_parity, reference
from purifyctl.photographs import read_some
from purifyctl.quantize import quantize_purifier
from purifyctl.samples import installed_samples

EXPLAINED = 4  # images that layers are compared on
CALIBRATION_IMAGES = 64  # of a folder


def build_engine(
    config: EngineConfig,
    checkpoint: Path,
    out: Path,
    *,
    parity_photos: Path | None = None,
    calibration_photos: Path | None = None,
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
        Photographs that the ranges of INT8 come from, the first 64 of them; without, those that come inside packages.
    explain
        Say which layers differ from FP32, and where it begins.

    Raises
    ------
    ConfigError
        `out` exists, or the network cannot take images of this size.
    ParityError
        The engine does not agree with torch within `TOLERANCES`. No bundle is left.
    """
    out = out.absolute()
    _check_out(out, overwrite=overwrite)
    tensorrt.check_targets(config.backend, config.targets)
    started = time.monotonic()
    purifier = load_purifier(checkpoint)
    purifier.check_size(config.image_size)
    classifier = load_classifier(config.classifier, config.weights) if config.classifier else None
    wanted = reference(purifier.net, classifier, _photographs(config, parity_photos))
    sources: dict[str, tuple[str, str]] = {"purifier": (purifier.network.kind, purifier.sha256)}
    if classifier is not None:
        sources["classifier"] = (classifier.name, config.weights or "default weights")
    if config.fused:
        names, origins = zip(*sources.values(), strict=True)
        sources["fused"] = (" + ".join(names), " + ".join(origins))
    # before any rewriting: what the networks are worth, not what a form of theirs costs
    multiply_adds = {
        name: count_multiply_adds(graph, config.image_size)
        for name, graph in _graphs(purifier.net, classifier, (), replace(config, precision="fp32")).items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        networks = {}
        # of the purifier alone: a classifier is somebody else's network, and whoever loads it knows what can be folded
        passes = rewrites.passes(config.backend, config.precision, amx=has_amx())
        for name, graph in _graphs(purifier.net, classifier, passes, config).items():
            console.detail(f"Exporting {name}.")
            export_onnx(graph, work / f"{name}.onnx", config.image_size)
            if config.precision == "int8" and name != "classifier":
                symmetric = config.backend.startswith("tensorrt")
                calibration = _photographs(config, calibration_photos, CALIBRATION_IMAGES)
                quantize_purifier(work / f"{name}.onnx", calibration, symmetric=symmetric)
            networks[name] = Network(
                onnx=f"{name}.onnx",
                plans=_build_plans(work, name, config),
                name=sources[name][0],
                parameters=sum(p.numel() for p in graph.parameters()),
                multiply_adds=multiply_adds[name],
                source=sources[name][1],
                rewrites=() if name == "classifier" else tuple(rewrite.__name__ for rewrite in passes),
            )
        if explain:
            _explain(work, _graphs(purifier.net, classifier, passes, replace(config, precision="fp32")), wanted, config)
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
            class_names=labels.names,
            class_wnids=labels.wnids,
            parity=_check(work, wanted, config, tuple(networks)),
            rebuild=_command(config, checkpoint.absolute(), calibration_photos, out),
            build_s=round(time.monotonic() - started, 1),
            files={f.relative_to(work).as_posix(): file_sha256(f) for f in sorted(work.rglob("*")) if f.is_file()},
        )
        text = (json.dumps(to_dict(manifest), indent=1) + "\n").encode()
        (work / MANIFEST).write_bytes(text)
        work.chmod(0o755)
        trust.remember(hashlib.sha256(text).hexdigest(), out)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return load_bundle(out)


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Only a bundle is ever replaced, and only when asked."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} exists and is no engine bundle.", hint="choose another --out")
    if not overwrite:
        raise ConfigError(f"The bundle {out} exists.", hint="choose another --out, or pass --overwrite")


def _graphs(
    purifier: nn.Module, classifier: nn.Module | None, passes: tuple[rewrites.Pass, ...], config: EngineConfig
) -> dict[str, Graph]:
    """The graphs of a bundle, typed, by name."""
    precision: Literal["fp32", "fp16"] = "fp16" if config.precision == "fp16" else "fp32"
    purify = purifier_graph(purifier, precision, passes=passes)
    if classifier is None:
        return {"purifier": purify}
    classify = classifier_graph(classifier, precision)
    fused = {"fused": FusedGraph(purify, classify)} if config.fused else {}
    return {"purifier": purify, "classifier": classify, **fused}


def _build_plans(work: Path, name: str, config: EngineConfig) -> dict[str, str]:
    """TensorRT's plans of one exported graph: file by target. None for the backends that run graphs."""
    plans: dict[str, str] = {}
    if config.backend not in ("tensorrt", "tensorrt-rtx"):
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


def _check(work: Path, wanted: Reference, config: EngineConfig, names: Sequence[str]) -> dict[str, Any]:
    """Compare what was built with torch. Returns figures for the manifest."""
    # A plan needs its GPU. Where a bundle holds plans for other machines, its graph is what can be compared.
    graph_only = config.backend == "tensorrt-rtx"
    backend = "onnxruntime" if graph_only else config.backend
    with ExitStack() as stack:
        runners = {}
        for name in names:
            file = work / (f"plans/local/{name}.plan" if config.backend == "tensorrt" else f"{name}.onnx")
            runner = open_runner(
                backend,
                file,
                precision=config.precision,
                image_size=config.image_size,
                batch_size=config.batch_size,
            )
            runners[name] = stack.enter_context(runner)
        figures = check_parity(wanted, runners, config.precision, (1, config.batch_size))
    return {
        "measured_with": f"{backend} {backend_version(backend)}",
        "covers": "the graph only: its plans run on GPUs that are not here" if graph_only else "the engine",
        **figures,
    }


def _explain(work: Path, references: Mapping[str, Graph], wanted: Reference, config: EngineConfig) -> None:
    """Say where each network begins to differ from FP32."""
    backend = "onnxruntime" if config.backend.startswith("tensorrt") else config.backend
    for name, graph in references.items():
        reference = work / f"{name}.fp32"
        export_onnx(graph, reference, config.image_size)
        images = wanted.images[:EXPLAINED]
        layers = compare_layers(reference, work / f"{name}.onnx", images, backend=backend, precision=config.precision)
        reference.unlink()
        console.note(f"{name}, {backend} {config.precision} against FP32: {describe_layers(layers, config.precision)}.")


def _photographs(config: EngineConfig, photos: Path | None, most: int | None = None) -> NDArray[np.uint8]:
    """RGB uint8 [n, size, size, 3]: those in a folder, or those that come inside packages."""
    if photos is not None:
        files = list_images(photos)[:most]
    else:
        files = [ImageFile(file, PurePosixPath(file.name)) for file in installed_samples()]
    with Decoder(size=config.image_size, batch_size=BATCH, threads=2) as decoder:
        images = np.concatenate([read_some(files[i : i + BATCH], decoder).images for i in range(0, len(files), BATCH)])
    if not len(images):
        raise ConfigError(f"None of {len(files)} photographs in {photos} can be read.")
    return images


def _command(config: EngineConfig, checkpoint: Path, calibration_photos: Path | None, out: Path) -> str:
    """The command that builds this bundle again."""
    words = ["purifyctl", "build-engine", "--checkpoint", str(checkpoint), "--out", str(out), "--overwrite"]
    words += ["--backend", config.backend, "--precision", config.precision]
    words += ["--image-size", str(config.image_size), "--batch-size", str(config.batch_size)]
    words += [word for target in config.targets for word in ("--target", target)]
    if config.classifier:
        words += ["--classifier", config.classifier]
    if config.fused:
        words.append("--fused")
    if calibration_photos:
        words += ["--calibration-photos", str(calibration_photos.absolute())]
    if config.weights:
        words += ["--weights", config.weights]
    return shlex.join(words)
