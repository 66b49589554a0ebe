"""Weights files for the classifiers of a recipe."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from purifyctl.config.gate import GateConfig
from purifyctl.config.training import TrainConfig
from purifyctl.errors import ConfigError

Trained = TypeVar("Trained", TrainConfig, GateConfig)


def with_classifier_weights(config: Trained, given: Sequence[str]) -> Trained:
    """The recipe with other weights for its classifiers, each `given` as `NAME=FILE`, or as `FILE` for the only one.

    Raises
    ------
    ConfigError
        The recipe names no such classifier.
    """
    names = [classifier.name for classifier in config.classifiers]
    for text in given:
        name, _, weights = text.partition("=")
        if len(names) == 1 and "=" not in text:
            name, weights = names[0], text
        if name not in names or not weights:
            raise ConfigError(
                f"--weights {name}={weights}: the recipe's classifiers are {', '.join(names)}.",
                hint="write --weights NAME=FILE with one of these names",
            )
        chosen = (dataclasses.replace(c, weights=weights) if c.name == name else c for c in config.classifiers)
        config = dataclasses.replace(config, classifiers=tuple(chosen))
    return config
