"""What `purifyctl evaluate` can be told, beyond photographs and output."""

from dataclasses import dataclass
from pathlib import Path

from purifyctl.config import AttackConfig, EpsSpace, LabelsFrom
from purifyctl.errors import ConfigError
from purifyctl.evaluation.defences import GATED, NONE, PURIFIER
from purifyctl.evaluation.ladder import ThreatModel
from purifyctl.gate import DEFAULT_RATE


@dataclass(frozen=True)
class EvaluateOptions:
    """Which purifier and classifier, on which rungs, over how many photographs."""

    checkpoint: Path  # purifier.safetensors or its run folder
    classifier: str  # torchvision or timm name, or module:factory
    weights: str = ""  # of the classifier
    surrogates: tuple[tuple[str, str], ...] = ()  # (name, weights) of classifiers that transfer examples are made on
    against: tuple[tuple[str, Path], ...] = ()  # (name, checkpoint) of other purifiers; "pix2pix": the paper's baseline
    gate: Path | None = None  # gate.safetensors; None: nothing is gated
    gate_fpr: float = DEFAULT_RATE  # clean images that it may flag
    threat_models: tuple[ThreatModel, ...] = ()  # empty: all, transfer only with surrogates
    attacks: tuple[AttackConfig, ...] = ()  # empty: the protocol's
    eps: tuple[str, ...] = ()  # L-infinity, such as "8/255", in units of `eps_space`; empty: 2, 4, 8, 16 of 255
    eps_space: EpsSpace = "unit"  # which range of pixel values `eps`, and the paper's 0.3, belong to
    limit: int | None = None  # photographs in all, spread evenly over the classes
    expensive_limit: int = 64  # photographs on costly rungs: the first of those
    labels: LabelsFrom = "folder"
    seed: int = 0
    batch_size: int = 16  # photographs of a chunk: decoded, attacked and committed together
    image_size: int = 256  # pixels; side of the square that is attacked, purified and classified
    paper: bool = False  # also the rungs of the paper's tables

    def __post_init__(self) -> None:
        for name in ("expensive_limit", "batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; it must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must not be negative.")
        names = [name for name, _ in self.surrogates]
        if len(set(names)) < len(names):
            raise ConfigError("The same surrogate is named twice.")
        others = [name for name, _ in self.against]
        if taken := sorted({name for name in others if others.count(name) > 1 or name in (NONE, PURIFIER, GATED, "")}):
            raise ConfigError(f"--against {taken[0]}=...: the name is taken.", hint="call it something else")
        if (self.classifier, self.weights) in self.surrogates:
            raise ConfigError(
                f"{self.classifier} is the classifier that is defended: examples made on it are gray-box.",
                hint="name another classifier as --surrogate",
            )
