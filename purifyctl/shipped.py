"""Where the purifiers and the gate lie that come with purifyctl."""

from importlib.resources import files
from pathlib import Path

from purifyctl.config.classifier import ClassifierConfig


def shipped_checkpoint(classifier: ClassifierConfig | None = None) -> Path:
    """The purifier that comes with purifyctl for a classifier of this name. Their card lies beside them.

    A classifier that `data/fitted` has no purifier for gets the general one, trained with `train/shipped.toml`. So does
    None, which stands for no classifier, or several.
    """
    data = Path(str(files("purifyctl").joinpath("data")))
    fitted = {file.stem: file for file in (data / "fitted").glob("*.safetensors")}
    return fitted.get(classifier.name if classifier else "", data / "purifier.safetensors")


def shipped_gate() -> Path:
    """The gate that comes with purifyctl, trained with `train/gate.toml`; its card lies beside it."""
    return Path(str(files("purifyctl").joinpath("data/gate.safetensors")))
