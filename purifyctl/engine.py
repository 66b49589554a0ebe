"""Build an engine bundle: a checkpoint and a classifier, typed, exported, compiled, and checked against torch."""

import json
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import purifyctl
from purifyctl import console, rewrites
from purifyctl.backends import Runner, backend_version, open_runner, tensorrt, to_host
from purifyctl.backends.openvino import has_amx
from purifyctl.backends.torch import TorchRunner
from purifyctl.bundle import MANIFEST, SCHEMA, Bundle, Manifest, Network, load_bundle
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import EngineConfig, to_dict
from purifyctl.errors import ConfigError, ParityError
from purifyctl.export import OPSET, classifier_graph, export_onnx, purifier_graph
from purifyctl.files import file_sha256
from purifyctl.images import Decoder, list_images
from purifyctl.images.synthetic import natural_images
from purifyctl.labels import Labels
from purifyctl.photographs import read_some

PARITY_IMAGES = 32


@dataclass(frozen=True)
class Tolerance:
    """The most that an engine may differ from the torch FP32 reference."""

    mean_grey: float  # mean absolute difference of the purified image, in grey levels of 255
    max_grey: int  # largest difference of one value of one pixel, in grey levels
    probability: float  # largest difference of one class's probability, on the same input


# Rounding to 8 bits turns any difference near .5 into one grey level; the rest is the precision's own.
TOLERANCES = {
    "fp32": Tolerance(mean_grey=0.02, max_grey=1, probability=0.002),
    "fp16": Tolerance(mean_grey=0.25, max_grey=8, probability=0.05),
    "bf16": Tolerance(mean_grey=0.5, max_grey=16, probability=0.15),
}


def build_engine(
    config: EngineConfig, checkpoint: Path, out: Path, *, parity_photos: Path | None = None, overwrite: bool = False
) -> Bundle:
    """Build the bundle `out`. It appears whole, or not at all.

    Parameters
    ----------
    checkpoint
        `purifier.safetensors`, or the run folder that holds it.
    parity_photos
        Photographs to compare engine and torch on; without, images with the statistics of photographs are made.

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
    if config.image_size % purifier.network.size_multiple:
        raise ConfigError(
            f"image_size {config.image_size} does not suit {checkpoint}: "
            f"this network takes multiples of {purifier.network.size_multiple} pixels."
        )
    classifier = load_classifier(config.classifier, config.weights) if config.classifier else None
    images = _parity_images(config, parity_photos)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        built = {"purifier": _build_network(work, "purifier", purifier.net, config)}
        parity = {"purifier": _check_parity(work, "purifier", purifier.net, config, images)}
        if classifier is not None:
            built["classifier"] = _build_network(work, "classifier", classifier, config)
            parity["classifier"] = _check_parity(work, "classifier", classifier, config, images)
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
            purifier=Network(name=purifier.network.kind, source=purifier.sha256, **built["purifier"]),
            classifier=(
                (Network(name=classifier.name, source=config.weights or "default weights", **built["classifier"]),)
                if classifier
                else ()
            ),
            class_names=labels.names,
            class_wnids=labels.wnids,
            parity=parity,
            rebuild=_command(config, checkpoint.absolute(), out),
            build_s=round(time.monotonic() - started, 1),
            files={f.relative_to(work).as_posix(): file_sha256(f) for f in sorted(work.rglob("*")) if f.is_file()},
        )
        (work / MANIFEST).write_text(json.dumps(to_dict(manifest), indent=1) + "\n")
        work.chmod(0o755)
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


def _build_network(work: Path, name: str, net: nn.Module, config: EngineConfig) -> dict[str, Any]:
    """Export one network into `work`, and build its plans where the backend has plans."""
    graph_precision: Literal["fp32", "fp16"] = "fp16" if config.precision == "fp16" else "fp32"
    passes: tuple[rewrites.Pass, ...] = ()
    if name == "purifier":
        passes = rewrites.passes(config.backend, config.precision, amx=has_amx())
        graph: nn.Module = purifier_graph(net, graph_precision, passes=passes)
    else:  # somebody else's network: whoever loads it knows what can be folded
        graph = classifier_graph(net, graph_precision)
    console.detail(f"Exporting {name} in {graph_precision}.")
    onnx = f"{name}.onnx"
    export_onnx(graph, work / onnx, config.image_size)
    plans: dict[str, str] = {}
    if config.backend in ("tensorrt", "tensorrt-rtx"):
        ahead = config.targets or tensorrt.targets(config.backend)
        for target in ahead or (None,):
            console.detail(f"Building the plan of {name} for {target or 'the GPU here'}.")
            plan = tensorrt.build_plan(
                work / onnx,
                flavour=config.backend,
                image_size=config.image_size,
                batch_size=config.batch_size,
                target=target,
            )
            file = work / "plans" / (target or "local") / f"{name}.plan"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(plan)
            plans[target or "local"] = str(file.relative_to(work))
    parameters = sum(p.numel() for p in net.parameters())
    applied = tuple(rewrite.__name__ for rewrite in passes)
    return {"onnx": onnx, "plans": plans, "parameters": parameters, "rewrites": applied}


def _check_parity(
    work: Path, name: str, net: nn.Module, config: EngineConfig, images: NDArray[np.uint8]
) -> dict[str, Any]:
    """Compare the built network with torch FP32 at batch 1 and at the batch size. Returns figures for the manifest."""
    graph = purifier_graph(net) if name == "purifier" else classifier_graph(net)
    reference = _infer_all(TorchRunner(graph), images, config.batch_size)
    # A plan needs its GPU. Where a bundle holds plans for other machines, its graph is what can be compared.
    graph_only = config.backend == "tensorrt-rtx"
    backend = "onnxruntime" if graph_only else config.backend
    file = work / (f"plans/local/{name}.plan" if config.backend == "tensorrt" else f"{name}.onnx")
    figures: dict[str, Any] = {
        "measured_with": f"{backend} {backend_version(backend)}",
        "covers": "the graph only: its plans run on GPUs that are not here" if graph_only else "the engine",
    }
    tolerance = TOLERANCES[config.precision]
    options = {"precision": config.precision, "image_size": config.image_size, "batch_size": config.batch_size}
    with open_runner(backend, file, **options) as runner:  # type: ignore[arg-type]
        for batch in sorted({1, config.batch_size}):
            n = min(len(images), 4) if batch == 1 else len(images)
            made = _infer_all(runner, images[:n], batch)
            measured = {"images": n, **compare(name, reference[:n], made)}
            figures[f"batch_{batch}"] = measured
            _refuse_outside(tolerance, measured, f"{name} at batch {batch} in {config.precision} on {backend}")
    return figures


def compare(name: str, reference: NDArray[Any], made: NDArray[Any]) -> dict[str, float]:
    """How far an engine's output lies from torch's: grey levels for the purifier, probabilities for the classifier."""
    difference = np.abs(made.astype(np.float64) - reference.astype(np.float64))
    if name == "purifier":
        return {"mean_grey": float(difference.mean()), "max_grey": float(difference.max())}
    return {
        "max_probability": float(difference.max()),
        "top1_agreement": float((made.argmax(1) == reference.argmax(1)).mean()),
    }


def _refuse_outside(tolerance: Tolerance, measured: dict[str, float], what: str) -> None:
    bounds = {
        "mean_grey": tolerance.mean_grey,
        "max_grey": tolerance.max_grey,
        "max_probability": tolerance.probability,
    }
    for key, bound in bounds.items():
        # not <=: NaN is outside too
        if key in measured and not measured[key] <= bound:
            raise ParityError(
                f"The engine does not agree with torch: {what} has {key} {measured[key]:.4g}, allowed is {bound:.4g}.",
                hint="build with --precision fp32, or on another backend",
            )


def _infer_all(runner: Runner, images: NDArray[np.uint8], batch_size: int) -> NDArray[Any]:
    batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    return np.concatenate([to_host(runner.infer(batch)) for batch in batches])


def _parity_images(config: EngineConfig, photos: Path | None) -> NDArray[np.uint8]:
    if photos is None:
        return natural_images(PARITY_IMAGES, config.image_size)
    files = list_images(photos)[:PARITY_IMAGES]
    with Decoder(size=config.image_size, batch_size=len(files), threads=2) as decoder:
        images = read_some(files, decoder).images
    if not len(images):
        raise ConfigError(f"None of {len(files)} photographs in {photos} can be read: no parity to measure.")
    return images


def _command(config: EngineConfig, checkpoint: Path, out: Path) -> str:
    """The command that builds this bundle again."""
    words = ["purifyctl", "build-engine", "--checkpoint", str(checkpoint), "--out", str(out), "--overwrite"]
    words += ["--backend", config.backend, "--precision", config.precision]
    words += ["--image-size", str(config.image_size), "--batch-size", str(config.batch_size)]
    words += [word for target in config.targets for word in ("--target", target)]
    if config.classifier:
        words += ["--classifier", config.classifier]
    if config.weights:
        words += ["--weights", config.weights]
    return shlex.join(words)
