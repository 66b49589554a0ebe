"""The engine that a command is asked for: a bundle, the default engine, or one to be built."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from purifyctl import devices
from purifyctl.config import EngineConfig, from_dict, read_recipe
from purifyctl.config.build import BuildOptions
from purifyctl.config.classifier import ClassifierOptions
from purifyctl.engine.backends import implementation
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.default import default_engine
from purifyctl.errors import ConfigError
from purifyctl.shipped import shipped_checkpoint


def chosen_bundle(
    engine: Path | None,
    classifier: ClassifierOptions | None = None,
    *,
    image_size: int | None = None,
    trusted: bool,
    device: str = "auto",
    elsewhere: bool = False,
) -> Bundle:
    """The bundle `engine`. None: the shipped purifier, built for this machine on first use.

    Parameters
    ----------
    classifier
        As for `default_engine`. A bundle has its classifier inside: beside one, only "none" can be asked for.
    image_size
        As for `default_engine`. A bundle has its own.
    trusted
        Run the bundle although it was built elsewhere, now and later.
    device
        `--device`. A bundle is for the CPU or for GPUs: beside one, the other cannot be asked for.
    elsewhere
        Other machines run it.

    Raises
    ------
    ConfigError
        Trust without a bundle, or another classifier or device for a bundle; or the device cannot be used.
    """
    if engine is None:
        if trusted:
            raise ConfigError(
                "--trust is for a bundle, but none is named.", hint="name it: run --engine BUNDLE, or bench BUNDLE"
            )
        return default_engine(classifier, image_size, device)
    if classifier not in (None, ClassifierOptions(), ClassifierOptions(classifier="none")):
        raise ConfigError(
            "An engine bundle has its classifier inside, with its labels; --classifier can only be none with --engine.",
            hint="build another bundle: purifyctl build-engine --classifier ...",
        )
    bundle = load_bundle(engine, trusted=trusted)
    bundle.check_device(device)
    if bundle.device == "cuda" and not elsewhere:
        devices.place(device)  # it says which GPU
    return bundle


def build_chosen(options: BuildOptions, recipe: Path | None) -> Bundle:
    """Build what a recipe and the options ask for together. None: the options alone.

    Raises
    ------
    ConfigError
        As `read_recipe` and `build_engine`.
    """
    from purifyctl.engine.build import build_engine  # imports torch, which `chosen_bundle` does not need

    auto = options.precision == "auto" or (recipe is None and options.precision is None)
    config = _config(options, recipe)
    if auto and len(possible := implementation(config.backend).candidates()) == 1:  # nothing to measure
        config, auto = replace(config, precision=possible[0]), False
    name = recipe.stem if recipe else f"{config.backend}-{'auto' if auto else config.precision}"
    return build_engine(
        config,
        options.checkpoint or shipped_checkpoint(config.classified_by),
        options.out or Path("engines") / name,
        parity_photos=options.parity_photos,
        calibration_photos=options.calibration_photos,
        gate_photos=options.gate_photos,
        auto=auto,
        explain=options.explain,
        overwrite=options.overwrite,
    )


def _config(options: BuildOptions, recipe: Path | None) -> EngineConfig:
    """The recipe, where options win over it."""
    asked: dict[str, Any] = {key.name: getattr(options, key.name, None) for key in fields(EngineConfig)}
    asked = {name: value for name, value in asked.items() if value not in (None, "", "auto", ())}
    chosen = options.chosen(None, options.weights)
    if chosen is not None:  # a recipe's weights are for its own classifier
        asked |= {"classifier": "" if chosen.name == "none" else chosen, "weights": ""}
    return read_recipe(recipe, EngineConfig, asked) if recipe else from_dict(EngineConfig, asked)
