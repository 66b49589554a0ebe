import numpy as np
import pytest
import torch
from torch import nn

from purifyctl.engine import parity
from purifyctl.engine.backends import Batch
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.graphs import FusedGraph, classifier_graph, gate_graph, purifier_graph
from purifyctl.engine.parity import TOLERANCES, Tolerance, check_parity, compare, compute_reference
from purifyctl.errors import ConfigError, ParityError
from purifyctl.images.synthetic import natural_images
from purifyctl.nn.gate import GateNetwork
from tests import tiny

IMAGES = natural_images(12, tiny.SIZE)


def runners(purifier: nn.Module, classifier: nn.Module) -> dict[str, TorchRunner]:
    purify, classify = purifier_graph(purifier), classifier_graph(classifier)
    graphs = {"purifier": purify, "classifier": classify, "fused": FusedGraph(purify, classify)}
    return {name: TorchRunner(graph) for name, graph in graphs.items()}


def moved(net: nn.Module, by: float) -> nn.Module:
    """The same network with every weight of its last layer moved a little."""
    last = list(net.parameters())[-1]
    with torch.no_grad():
        last.add_(by)
    return net


def test_torch_agrees_with_itself_alone_chained_and_fused() -> None:
    reference = compute_reference(tiny.purifier(), tiny.classifier(), None, IMAGES)
    networks, chains = check_parity(reference, runners(tiny.purifier(), tiny.classifier()), "fp32", (1, 16))
    alone = networks["purifier"]["batch_1"]  # sums in another order than in a batch, on some processors
    assert alone["images"] == 4
    assert alone["mean_grey"] < 1e-3
    assert alone["max_grey"] <= 1
    assert networks["classifier"]["batch_16"]["images"] == 16  # of 12 photographs: every place in a batch is filled
    assert networks["classifier"]["batch_16"]["top1_agreement"] == 1
    for chain in ("purifier, classifier", "fused"):
        assert chains[chain]["top1_agreement"] == chains[chain]["attacked_top1_agreement"] == 1
        assert chains[chain]["attacked_accuracy"] == chains[chain]["attacked_accuracy_of_torch"]


def test_the_attacked_photographs_are_attacked_within_the_budget() -> None:
    reference = compute_reference(tiny.purifier(), tiny.classifier(), None, IMAGES)
    change = np.abs(reference.attacked.astype(int) - IMAGES)
    assert change.max() == 4
    assert change.mean() > 2


def test_without_a_classifier_the_pixels_are_compared_and_nothing_else() -> None:
    reference = compute_reference(tiny.purifier(), None, None, IMAGES)
    networks, chains = check_parity(reference, {"purifier": TorchRunner(purifier_graph(tiny.purifier()))}, "fp32", (4,))
    assert set(networks) == {"purifier"}
    assert not chains


def test_a_purifier_that_is_a_grey_level_off_is_refused_in_fp32() -> None:
    reference = compute_reference(tiny.purifier(), tiny.classifier(), None, IMAGES)
    with pytest.raises(ParityError, match=r"purifier at batch 4 has mean_grey"):
        check_parity(reference, runners(moved(tiny.purifier(), 1 / 255), tiny.classifier()), "fp32", (4,))


def test_other_classes_are_refused_even_where_each_network_passes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = compute_reference(tiny.purifier(), tiny.classifier(), None, IMAGES)
    chain = runners(tiny.purifier(), tiny.classifier())
    other = tiny.classifier()
    with torch.no_grad():
        list(other.parameters())[-1].copy_(torch.arange(10.0))
    chain["fused"] = TorchRunner(FusedGraph(purifier_graph(tiny.purifier()), classifier_graph(other)))
    with pytest.raises(ParityError, match="fused, beside the classifier alone has max_probability"):
        check_parity(reference, chain, "bf16", (4,))
    monkeypatch.setitem(parity.TOLERANCES, "bf16", Tolerance(255, 255, 1, agreement=0.99))
    with pytest.raises(ParityError, match="the chain has top1_agreement"):
        check_parity(reference, chain, "bf16", (4,))


class Stale(TorchRunner):
    """An engine that repeats the results of its first few batches for all later ones."""

    def __init__(self, graph: nn.Module, batches: int) -> None:
        super().__init__(graph)
        self._held: list[tuple[Batch, ...]] = []
        self._batches, self._calls = batches, 0

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        self._calls += 1
        if len(self._held) < self._batches:
            self._held.append(super().infer(images))
        return self._held[(self._calls - 1) % self._batches]


def test_an_engine_that_is_right_on_clean_photographs_and_not_on_attacked_ones_is_refused() -> None:
    reference = compute_reference(tiny.purifier(), tiny.classifier(), None, IMAGES)
    labels = reference.probabilities.argmax(1)
    clean, attacked = reference.purified_probabilities.argmax(1), reference.attacked_probabilities.argmax(1)
    difference = (clean == labels).mean() - (attacked == labels).mean()
    assert difference > 2 / len(IMAGES)
    engine = runners(tiny.purifier(), tiny.classifier())
    del engine["fused"]
    engine["purifier"] = Stale(purifier_graph(tiny.purifier()), len(IMAGES) // 4)
    with pytest.raises(ParityError, match=f"the chain has change of attacked_accuracy {difference:.4g}, allowed is"):
        check_parity(reference, engine, "fp32", (4,))


def test_a_gate_is_compared_too_and_refused_where_its_scores_are_others() -> None:
    torch.manual_seed(0)
    gate = GateNetwork(width=6).eval()
    reference = compute_reference(tiny.purifier(), None, gate, IMAGES)
    purifier = TorchRunner(purifier_graph(tiny.purifier()))
    networks, _ = check_parity(reference, {"purifier": purifier, "gate": TorchRunner(gate_graph(gate))}, "fp32", (4,))
    assert networks["gate"]["batch_4"]["max_probability"] < 1e-6
    other = TorchRunner(gate_graph(moved(gate, 1)))
    with pytest.raises(ParityError, match="gate at batch 4 has max_probability"):
        check_parity(reference, {"purifier": purifier, "gate": other}, "fp32", (4,))


def test_a_handful_of_photographs_is_not_enough() -> None:
    reference = compute_reference(tiny.purifier(), None, None, IMAGES[:5])
    with pytest.raises(ConfigError, match="too few"):
        check_parity(reference, {"purifier": TorchRunner(purifier_graph(tiny.purifier()))}, "fp32", (4,))


def test_nan_is_outside_every_tolerance() -> None:
    nan = np.full((12, 10), np.nan, np.float32)
    assert np.isnan(compare("classifier", nan, nan)["max_probability"])
    broken = moved(tiny.classifier(), float("nan"))
    reference = compute_reference(tiny.purifier(), tiny.classifier(), None, IMAGES)
    for precision in TOLERANCES:
        with pytest.raises(ParityError, match="nan"):
            check_parity(reference, runners(tiny.purifier(), broken), precision, (4,))


class Overflowing(nn.Module):
    """A graph whose numbers have outgrown its precision."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.graph(images) * float("inf")


@pytest.mark.parametrize("network", ["classifier", "gate"])
def test_infinity_is_outside_every_tolerance_even_where_both_have_it(network: str) -> None:
    torch.manual_seed(0)
    gate = GateNetwork(width=6).eval()
    reference = compute_reference(tiny.purifier(), tiny.classifier(), gate, IMAGES)
    engine = {**runners(tiny.purifier(), tiny.classifier()), "gate": TorchRunner(gate_graph(gate))}
    graphs = {"classifier": classifier_graph(tiny.classifier()), "gate": gate_graph(gate)}
    engine[network] = TorchRunner(Overflowing(graphs[network]))
    for precision in TOLERANCES:
        with pytest.raises(ParityError, match=f"{network} at batch 4 has max_probability inf"):
            check_parity(reference, engine, precision, (4,))
    infinite = np.full((12, 10), np.inf, np.float32)
    with np.errstate(invalid="ignore"):
        assert np.isnan(compare(network, infinite, infinite)["max_probability"])
