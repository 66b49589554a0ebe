"""The networks that a bundle was built from, for peers that run the same."""

from dataclasses import dataclass
from pathlib import Path

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier, weights_sha256
from purifyctl.config import ClassifierConfig
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.graphs import ClassifierGraph, FusedGraph, Graph, PurifierGraph, classifier_graph, purifier_graph
from purifyctl.errors import ConfigError
from purifyctl.shipped import shipped_checkpoint


@dataclass(frozen=True)
class Networks:
    """The networks that a bundle was built from, in torch FP32."""

    purifier: PurifierGraph
    classifier: ClassifierGraph | None

    @property
    def together(self) -> Graph:
        """All networks that one image goes through, as one graph."""
        return FusedGraph(self.purifier, self.classifier) if self.classifier else self.purifier


def networks_of(bundle: Bundle, checkpoint: Path | None) -> Networks:
    """The networks that `bundle` was built from, on its device.

    Parameters
    ----------
    checkpoint
        The purifier's checkpoint. None: the one that ships for its classifier.

    Raises
    ------
    ConfigError
        The checkpoint is not the one that the bundle was built from.
    """
    networks = bundle.manifest.networks
    about = networks.get("classifier")
    chosen = (bundle.manifest.classifier or ClassifierConfig(about.name, about.source)) if about else None
    purifier = load_purifier(checkpoint or shipped_checkpoint(chosen))
    if purifier.sha256 != networks["purifier"].sha256:
        raise ConfigError(
            f"{bundle.path} was not built from {checkpoint or 'the shipped purifier'}; peers run the same network.",
            hint=f"add --checkpoint {networks['purifier'].source}",
        )
    classifier = None
    if about and chosen:
        net = load_classifier(chosen)
        if weights_sha256(net) != about.sha256:
            raise ConfigError(f"The weights of {about.name} are no longer those that {bundle.path} was built from.")
        classifier = classifier_graph(net).to(bundle.device)
    return Networks(purifier_graph(purifier.net).to(bundle.device), classifier)
