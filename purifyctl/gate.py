"""The gate in front of the purifier: its checkpoint on disk, and its thresholds.

A score is the calibrated probability that an image was attacked, if half of all images were. A threshold belongs to a
false-positive rate: the share of clean photographs that are flagged, and purified without need.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from purifyctl.errors import ConfigError, WeightsError
from purifyctl.files import file_sha256, write_atomically
from purifyctl.nn.gate import GateNetwork

FORMAT = "purifyctl-gate-1"
FALSE_POSITIVE_RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # a checkpoint has a threshold for each
CHECKPOINT = "gate.safetensors"

Thresholds = Mapping[str, float]  # by false-positive rate, such as "0.01"


@dataclass(frozen=True)
class Gate:
    """A gate in eval mode, and where it came from."""

    net: GateNetwork  # RGB NCHW float in [0, 1] -> logits [N]
    thresholds: Thresholds  # of scores
    about: dict[str, Any]  # recipe, held-out figures, versions
    sha256: str  # of the file


def threshold_at(clean: NDArray[np.floating[Any]], rate: float) -> float:
    """The lowest threshold that at most `rate` of clean scores reach: of these scores and one future score.

    With the future one (conformal prediction; Vovk et al. 2005), the rate also holds on average for new photographs.

    Raises
    ------
    ConfigError
        Too few scores for such a rate.
    """
    n = len(clean)
    allowed = math.floor(rate * (n + 1)) - 1  # of these scores; the future one may be another
    if allowed < 0:
        raise ConfigError(
            f"{n} clean photographs are too few for a false-positive rate of {rate:g}.",
            hint=f"give {math.ceil(1 / rate)} or more",
        )
    highest = np.sort(clean)[::-1].astype(np.float32)  # as engines give them
    return float(np.nextafter(highest[allowed], np.float32(np.inf))) if allowed < n else 0.0


def thresholds_at(clean: Sequence[NDArray[np.floating[Any]]]) -> dict[str, float]:
    """The threshold of each rate for which there are enough photographs: the highest that any set of scores gives.

    Raises
    ------
    ConfigError
        Too few for any rate.
    """
    n = min(len(scores) for scores in clean)
    rates = [rate for rate in FALSE_POSITIVE_RATES if rate * (n + 1) >= 1] or [max(FALSE_POSITIVE_RATES)]
    return {f"{rate:g}": max(threshold_at(scores, rate) for scores in clean) for rate in rates}


def threshold_for(thresholds: Thresholds, rate: float) -> float:
    """The threshold of a false-positive rate.

    Raises
    ------
    ConfigError
        The rate has no threshold.
    """
    known = {round(float(key), 9): value for key, value in thresholds.items()}
    if round(rate, 9) not in known:
        raise ConfigError(
            f"The gate has no threshold for a false-positive rate of {rate:g}.",
            hint=f"there are those for {', '.join(f'{each:g}' for each in sorted(known))}; lower ones need more clean "
            "photographs",
        )
    return known[round(rate, 9)]


def shipped_gate() -> Path:
    """The gate that comes with purifyctl, trained with `train/gate.toml`; its card lies beside it."""
    return Path(str(files("purifyctl").joinpath("data", CHECKPOINT)))


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
        path = path / CHECKPOINT
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
        thresholds = {key: float(value) for key, value in json.loads(metadata["thresholds"]).items()}
        about = json.loads(metadata["about"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is no gate, or damaged: {error}.", hint="use what train-gate wrote") from None
    return Gate(net.eval().requires_grad_(False), thresholds, about, file_sha256(path))
