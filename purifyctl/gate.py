"""The gate on disk: the network in front of the purifier, with its thresholds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from purifyctl.config.folders import GATE
from purifyctl.errors import WeightsError
from purifyctl.files import file_sha256, write_atomically
from purifyctl.nn.gate import GateNetwork
from purifyctl.strict_json import parse_json
from purifyctl.thresholds import Thresholds

FORMAT = "purifyctl-gate-1"


@dataclass(frozen=True)
class Gate:
    """A gate in eval mode, and where it came from."""

    net: GateNetwork  # RGB NCHW float in [0, 1] -> logits [N]
    thresholds: Thresholds  # of scores
    about: dict[str, Any]  # recipe, held-out figures, versions
    sha256: str  # of the file


def save_gate(path: Path, net: nn.Module, thresholds: Thresholds, about: dict[str, Any]) -> None:
    """Write atomically: a reader finds the old file or the new one, whole."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    metadata = {"format": FORMAT, "thresholds": json.dumps(dict(thresholds)), "about": json.dumps(about)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_gate(path: Path) -> Gate:
    """Read a checkpoint that `save_gate` wrote.

    Raises
    ------
    WeightsError
        The file is missing or damaged, or is not a gate.
    """
    if path.is_dir():
        path = path / GATE
    if not path.is_file():
        raise WeightsError(f"There is no gate {path}.", hint="purifyctl train-gate RECIPE --photos DIR --out RUN")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format', 'none')!r}, expected {FORMAT!r}")
        net = GateNetwork(width=len(tensors["features.0.weight"]))
        net.load_state_dict(tensors)
        thresholds = {key: float(value) for key, value in parse_json(metadata["thresholds"]).items()}
        about = parse_json(metadata["about"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is no gate, or damaged: {error}.", hint="use what train-gate wrote") from None
    return Gate(net.eval().requires_grad_(False), thresholds, about, file_sha256(path))
