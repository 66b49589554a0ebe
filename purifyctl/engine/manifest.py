"""What `manifest.json` of an engine bundle holds."""

import shlex
from dataclasses import dataclass, field

from purifyctl.config import BackendName, ClassifierConfig, EnginePrecision
from purifyctl.engine.tiles import Tiling

SCHEMA = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Network:
    """One network of a bundle."""

    onnx: str  # file of the graph, relative to the bundle: ONNX, or a program of torch
    plans: dict[str, str]  # by GPU target such as "SM86", or "local": file
    name: str  # kind of purifier, or the classifier's name
    parameters: int
    multiply_adds: int  # per image, as the network was trained: rewriting does not count
    source: str  # where the weights came from; empty: the library's own download
    sha256: str  # of the purifier's checkpoint, of the classifier's tensors
    rewrites: tuple[str, ...]  # passes of `purifyctl.engine.rewrites` applied before export, in order


@dataclass(frozen=True)
class Candidate:
    """A precision and a form of the purifier that `--precision auto` timed on this machine."""

    precision: EnginePrecision
    rewrites: tuple[str, ...]  # of the purifier
    ms_per_image: float  # purifier and classifier, all cores, at the engine's batch size; 0: it was not timed
    refused: str = ""  # why it was not taken although it is faster than the one that was

    def __str__(self) -> str:
        form = next((name.replace("_", " ") for name in self.rewrites if name != "fold_norms"), "")
        return f"{self.precision}, {form}" if form else self.precision


@dataclass(frozen=True)
class Parity:
    """How closely an engine agrees with torch FP32, by `purifyctl.engine.parity`."""

    measured_with: str  # library and version
    covers: str
    networks: dict[str, dict[str, dict[str, float]]]  # by network and batch size
    chains: dict[str, dict[str, float]]  # from the image to its class, clean and attacked

    def lines(self) -> list[str]:
        """What people read of it."""
        lines = [f"Against torch FP32 ({self.covers}; measured with {self.measured_with}):"]
        for name, by_batch in self.networks.items():
            lines += [f"  {name}, {batch.replace('_', ' ')}: {_numbers(found)}" for batch, found in by_batch.items()]
        lines += [f"  classes by {name}: {_numbers(found)}" for name, found in self.chains.items()]
        return lines


def _numbers(found: dict[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in found.items())


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds."""

    schema: int  # of this file; another one is refused
    created: str  # UTC
    purifyctl: str  # version
    backend: BackendName  # what runs it
    backend_version: str  # plans need exactly this one
    gpu: str  # name of the GPU that "local" plans were built on; else empty
    precision: EnginePrecision  # of the purifier; the classifier's too, except that INT8 is for the purifier alone
    image_size: int  # pixels; side of the square that the graphs take
    batch_size: int  # the most images of one call
    opset: int  # of the ONNX graphs
    networks: dict[str, Network]  # "purifier"; with a classifier "classifier"; "gate" unless left out; "fused" if asked
    gate_thresholds: dict[str, float]  # of the gate's scores, by false-positive rate
    class_names: tuple[str, ...]  # of the classifier, by index
    class_wnids: tuple[str, ...]  # their WordNet ids, if it has some
    parity: Parity  # how closely it agrees with torch: pixels, probabilities and classes, clean and attacked
    rebuild: str  # the command that makes this bundle again
    build_s: float  # seconds that building took
    files: dict[str, str]  # every other file of the bundle: SHA-256
    varies: str  # why building again may give other bytes; empty: it gives the same
    candidates: tuple[Candidate, ...] = ()  # what `--precision auto` timed, the fastest first; empty: it was not asked
    tiling: Tiling | None = None  # how whole pictures are cut for the purifier; None: it was not measured
    classifier: ClassifierConfig | None = None  # its file, input size, crop, mean and std; None: none, or not recorded
    fitted_to: dict[str, str] = field(default_factory=dict)  # classifiers that guided the purifier: SHA-256 or ""

    @property
    def misfit(self) -> str:
        """What the purifier was fitted to, if it is not this classifier; what to expect then, and what to do. Empty: it
        was fitted to this one, or nothing is known.
        """
        classifier = self.networks.get("classifier")
        if classifier is None or not self.fitted_to:
            return ""
        if classifier.sha256 in self.fitted_to.values() or self.fitted_to.get(classifier.name) == "":
            return ""
        chosen = self.classifier or ClassifierConfig(classifier.name)
        if not chosen.name.endswith(".onnx"):  # its library or its function knows the rest
            chosen = ClassifierConfig(chosen.name, chosen.weights)
        train = ["purifyctl", "train", "fit", *chosen.flags, "--photos", "DIR"]
        if classifier.name in self.fitted_to:
            said = " with these weights. How much it recovers with others was not measured."
        else:
            said = ". For families of classifiers that it never saw, 3 to 24 % of the accuracy was recovered at 4/255."
        return (
            f"The purifier was fitted to {', '.join(self.fitted_to)}, and not to {classifier.name}{said} "
            f"To fit it: {shlex.join(train)}"
        )
