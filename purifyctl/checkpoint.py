"""A trained purifier on disk: one safetensors file whose metadata says what it is.

The file holds only the generator. The training itself keeps what it needs to resume (discriminator, optimisers, step).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from purifyctl.config import NetworkConfig, from_dict, to_dict
from purifyctl.config.folders import PURIFIER
from purifyctl.errors import ConfigError, PurifyctlError, WeightsError
from purifyctl.files import file_sha256, write_atomically
from purifyctl.nn import build_purifier
from purifyctl.strict_json import parse_json

FORMAT = "purifyctl-purifier-1"


@dataclass(frozen=True)
class Checkpoint:
    """A purifier in eval mode, and where it came from."""

    net: nn.Module  # RGB NCHW float in [0, 1] -> the same
    network: NetworkConfig
    about: dict[str, Any]  # recipe, step, held-out figures, versions
    sha256: str  # of the file

    @property
    def guided_by(self) -> list[str]:
        """The classifiers that guided its training, or that of the purifier it started from; empty: unknown."""
        recipe = self.about.get("recipe", {})
        return [str(name) for name in self.about.get("guided_by", [c["name"] for c in recipe.get("classifiers", ())])]

    @property
    def fitted_to(self) -> dict[str, str]:
        """The classifiers of its own training, with the SHA-256 of their weights; "": it is not known."""
        return {str(k): str(v) for k, v in self.about.get("fitted_to", dict.fromkeys(self.guided_by, "")).items()}

    @property
    def photographs(self) -> str | None:
        """A sketch (`purifyctl.sources.sketch`) of its training and validation photographs; None: unknown."""
        return self.about.get("photographs")

    def check_size(self, pixels: int) -> None:
        """Refuse an image size that the network cannot take.

        Raises
        ------
        ConfigError
            The side is not a multiple of what the network needs.
        """
        if pixels % (multiple := self.network.size_multiple):
            raise ConfigError(
                f"image_size is {pixels}; this purifier takes multiples of {multiple} pixels.",
                hint=f"pass another size, such as {max(1, round(pixels / multiple)) * multiple}",
            )


def save_purifier(path: Path, net: nn.Module, network: NetworkConfig, about: dict[str, Any]) -> None:
    """Write atomically: a reader finds the old file or the new one, whole."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    metadata = {"format": FORMAT, "network": json.dumps(to_dict(network)), "about": json.dumps(about)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_purifier(path: Path) -> Checkpoint:
    """Read a checkpoint that `save_purifier` wrote.

    Raises
    ------
    WeightsError
        The file is missing or damaged, or is not a purifier checkpoint.
    """
    if path.is_dir():
        path = path / PURIFIER
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint {path}.", hint="purifyctl train RECIPE --photos DIR --out RUN")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The checkpoint {path} is damaged: {error}.", hint="copy it anew, or train again") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is no purifier checkpoint of this version (format {metadata.get('format', 'none')!r}, "
            f"expected {FORMAT!r}).",
            hint="use the purifier.safetensors that purifyctl train wrote",
        )
    try:
        network = from_dict(NetworkConfig, parse_json(metadata["network"]))
        net = build_purifier(network)
        net.load_state_dict(tensors)
        about = parse_json(metadata["about"])
    except (KeyError, ValueError, RuntimeError, PurifyctlError) as error:
        raise WeightsError(f"The checkpoint {path} does not hold the network it names: {error}") from None
    return Checkpoint(net.eval().requires_grad_(False), network, about, file_sha256(path))
