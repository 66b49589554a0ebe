"""The networks that a bundle is built from: loaded, as graphs, and described for its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from purifyctl import console
from purifyctl.checkpoint import Checkpoint, load_purifier
from purifyctl.classifiers import Classifier, load_classifier, own_square, weights_sha256
from purifyctl.config import ClassifierConfig, EngineConfig
from purifyctl.engine.graphs import (
    ClassifierGraph,
    FusedGraph,
    Graph,
    Precision,
    classifier_graph,
    count_multiply_adds,
    gate_graph,
    purifier_graph,
)
from purifyctl.engine.joined import count
from purifyctl.engine.manifest import Network
from purifyctl.engine.rewrites import Pass
from purifyctl.gate import Gate, load_gate
from purifyctl.shipped import shipped_gate


@dataclass(frozen=True)
class Networks:
    """Networks in torch FP32, as they were trained."""

    purifier: Checkpoint
    classifier: Classifier | None
    gate: Gate | None
    chosen: ClassifierConfig | None  # what the classifier was asked for as

    @property
    def preprocessing(self) -> ClassifierConfig | None:
        """The classifier as it was loaded: what was left open is filled in. None: there is none."""
        if self.classifier is None or self.chosen is None:
            return None
        return replace(
            self.chosen,
            name=absolute(self.chosen.name),
            weights=absolute(self.chosen.weights),
            labels="",  # the names themselves are in the manifest
            input_size=self.classifier.input_size or (),
            crop=self.classifier.crop_pct,
            mean=_numbers(self.classifier.mean),
            std=_numbers(self.classifier.std),
        )


def load_networks(config: EngineConfig, checkpoint: Path) -> Networks:
    """Load the networks that a recipe names.

    Raises
    ------
    ConfigError
        The purifier cannot take images of the recipe's size.
    WeightsError
        A checkpoint is missing or damaged, or weights cannot be loaded.
    """
    purifier = load_purifier(checkpoint)
    if config.image_size:
        purifier.check_size(config.image_size)
    chosen = config.classified_by
    classifier = load_classifier(chosen) if chosen else None
    gate = None
    if config.gate != "none":
        gate = load_gate(shipped_gate() if config.gate == "shipped" else Path(config.gate))
    return Networks(purifier, classifier, gate, chosen)


def with_size(config: EngineConfig, networks: Networks) -> EngineConfig:
    """The recipe with the side of its square. If none is asked for, it is the classifier's own: nothing resizes then.

    If one is asked for that makes the classifier resize, the console says what that costs.
    """
    classifier = networks.classifier
    own = own_square(classifier, networks.purifier.network.size_multiple)
    size = config.image_size or own
    if classifier is not None and classifier.input_size and classifier.scale_in(size) != 1:
        console.warn(
            f"The classifier's input is resized from {classifier.crop_of(size, size)[0]} to {classifier.input_size[0]} "
            "pixels between purifier and classifier. Such a resize took the recovery of a fitted purifier from 0.66 "
            f"to 0.14 (MobileNetV1, FGSM 4/255). Squares of {own} pixels need none: --image-size auto."
        )
    return replace(config, image_size=size)


def graphs_of(networks: Networks, precision: Precision, passes: Sequence[Pass], *, fused: bool) -> dict[str, Graph]:
    """The graphs of a bundle, typed, by name.

    Parameters
    ----------
    passes
        Rewrites of the purifier. A classifier is somebody else's network: only its loader knows what can be folded.
    """
    purify = purifier_graph(networks.purifier.net, precision, passes=passes)
    graphs: dict[str, Graph] = {"purifier": purify}
    if networks.classifier is not None:
        graphs["classifier"] = classify = classifier_graph(networks.classifier, precision)
        if fused:
            graphs["fused"] = FusedGraph(purify, classify)
    if networks.gate is not None:
        graphs["gate"] = gate_graph(networks.gate.net, precision)
    return graphs


def describe_networks(
    networks: Networks, config: EngineConfig, checkpoint: Path, passes: Sequence[Pass]
) -> dict[str, Network]:
    """What the manifest says of each network, without its plans. Sizes are those of the trained networks."""

    def network(graph: Graph, **known: Any) -> Network:
        if isinstance(graph, ClassifierGraph) and graph.own is not None:
            parameters, multiply_adds = count(graph.own)
        else:
            parameters = sum(p.numel() for p in graph.parameters())
            multiply_adds = count_multiply_adds(graph, config.image_size)
        return Network(plans={}, parameters=parameters, multiply_adds=multiply_adds, **known)

    purifier = network(
        purifier_graph(networks.purifier.net),
        onnx="purifier.onnx",
        name=networks.purifier.network.kind,
        source=str(checkpoint.absolute()),
        sha256=networks.purifier.sha256,
        rewrites=tuple(rewrite.__name__ for rewrite in passes),
    )
    known = {"purifier": purifier}
    if networks.gate is not None:
        known["gate"] = network(
            gate_graph(networks.gate.net),
            onnx="gate.onnx",
            name="gate",
            source=absolute(config.gate),
            sha256=networks.gate.sha256,
            rewrites=("fold_norms",),
        )
    if networks.classifier is None or networks.chosen is None:
        return known
    classifier = network(
        classifier_graph(networks.classifier),
        onnx="classifier.onnx",
        name=networks.classifier.name,
        source=absolute(networks.chosen.name if networks.classifier.graph else networks.chosen.weights),
        sha256=weights_sha256(networks.classifier),
        rewrites=(),
    )
    both = replace(
        purifier,
        onnx="fused.onnx",
        name=f"{purifier.name} + {classifier.name}",
        parameters=purifier.parameters + classifier.parameters,
        multiply_adds=purifier.multiply_adds + classifier.multiply_adds,
    )
    return {**known, "classifier": classifier, "fused": both}


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in tensor.flatten().tolist())


def absolute(weights: str) -> str:
    """A file's absolute path; a name of weights that is not a file is returned unchanged."""
    return str(Path(weights).absolute()) if Path(weights).is_file() else weights
