"""Where the purifier and the gate lie that come with purifyctl."""

from importlib.resources import files
from pathlib import Path


def shipped_checkpoint() -> Path:
    """The small purifier that comes with purifyctl, trained with `train/shipped.toml`; its card lies beside it."""
    return Path(str(files("purifyctl").joinpath("data/purifier.safetensors")))


def shipped_gate() -> Path:
    """The gate that comes with purifyctl, trained with `train/gate.toml`; its card lies beside it."""
    return Path(str(files("purifyctl").joinpath("data/gate.safetensors")))
