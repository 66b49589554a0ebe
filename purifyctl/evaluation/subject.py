"""Everything that an evaluation loads: classifier, defences and surrogates, and the facts that identify them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.attacks import Model, behind
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import Classifier, load_classifier, own_square, weights_sha256
from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.config.values import DEFAULT_GATE_FPR, Size
from purifyctl.devices import torch_device
from purifyctl.errors import ConfigError, WeightsError
from purifyctl.evaluation.defences import (
    GATED,
    NONE,
    PURIFIER,
    Defence,
    bpda_model,
    classical_defences,
    gated_defence,
    network_defence,
)
from purifyctl.evaluation.ladder import Rung
from purifyctl.gate import load_gate
from purifyctl.images.synthetic import natural_images
from purifyctl.nn import AnySize
from purifyctl.photographs import show_square, to_tensor
from purifyctl.shipped import shipped_checkpoint, shipped_gate
from purifyctl.thresholds import threshold_for

SAME = 1e-4  # in logits; the order of sums alone can make two passes differ by this much


@dataclass(frozen=True)
class Subject:
    """What is evaluated, on its device."""

    classifier: Classifier
    defences: Mapping[str, Defence]  # by name; NONE is the first
    surrogates: Mapping[str, Classifier]
    device: torch.device
    seed: int
    random: frozenset[str] = frozenset()  # pipelines whose outputs differ from pass to pass
    sketches: Mapping[str, str | None] = field(default_factory=dict)  # by network, of its training photographs
    size: Size = 0  # pixels; side of the squares that photographs become

    @property
    def pipelines(self) -> list[str]:
        """What can be attacked together with the classifier: nothing at all, and the defences that are networks."""
        return [name for name, defence in self.defences.items() if defence.net or name == NONE]

    def differentiable(self, defence: str, *, bpda: bool = False) -> Model | None:
        """Defence and classifier as one model with gradients; None for a defence that has none."""
        if defence == NONE:
            return self.classifier
        net = self.defences[defence].net
        if net is None:
            return None
        return (bpda_model if bpda else behind)(net, self.classifier)

    def attacked_model(self, rung: Rung) -> Model:
        """What this rung's attacker attacks: RGB NCHW float in [0, 1] -> logits."""
        if rung.surrogate:
            return self.surrogates[rung.surrogate]
        model = self.differentiable(rung.pipeline or NONE, bpda=rung.bpda)
        assert model is not None  # the ladder has only networks as pipelines
        return model


def load_subject(options: EvaluateOptions) -> tuple[Subject, dict[str, Any]]:
    """Load what `options` names. Also returns the facts that identify it, for settings and report.

    Raises
    ------
    ConfigError
        The purifier cannot take images of that size, or a surrogate does not know the classifier's classes.
    WeightsError
        Weights cannot be downloaded, read, or fitted to their network.
    """
    device = torch_device(options.device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # the report says FP32
    chosen = options.defended
    defences = {defence.name: defence for defence in classical_defences()}
    if taken := [name for name, _ in options.against if name in ("", PURIFIER, GATED, *defences)]:
        raise ConfigError(f"--against {taken[0]}=...: the name is taken.", hint="call it something else")
    named = (*options.against, (PURIFIER, options.checkpoint or shipped_checkpoint(chosen)))
    purifiers = {name: load_purifier(file) for name, file in named}
    multiple = math.lcm(*(purifier.network.size_multiple for purifier in purifiers.values()))
    loaded = load_classifier(chosen)
    whole = options.image_size == "original"
    size = own_square(loaded, multiple) if options.image_size in (0, "original") else int(options.image_size)

    def placed(net: Any) -> Any:
        """A network that classifies or scores, on its device. It sees the square of a whole picture."""
        net = _placed(net, device)
        if whole:
            show_square(net, size)
        return net

    classifier = placed(loaded)
    facts: dict[str, Any] = {
        "classifier": {"name": chosen.name, "weights": chosen.weights, "sha256": weights_sha256(classifier)}
    }
    facts["purifiers"], sketches = {}, {}
    for name, purifier in purifiers.items():
        purifier.check_size(size)
        net = _placed(purifier.net, device)
        defences[name] = network_defence(name, AnySize(net, purifier.network.size_multiple) if whole else net)
        facts["purifiers"][name] = {"sha256": purifier.sha256, "guided_by": purifier.guided_by}
        sketches[name] = purifier.photographs
    if options.gate:
        gate = load_gate(shipped_gate() if options.gate == Path("shipped") else options.gate)
        rate = DEFAULT_GATE_FPR if options.gate_fpr is None else options.gate_fpr
        threshold = threshold_for(gate.thresholds, rate)
        defences[GATED] = gated_defence(placed(gate.net), threshold, _net_of(defences[PURIFIER]))
        facts["gate"] = {"sha256": gate.sha256, "threshold": threshold, "false_positive_rate": rate}
    surrogates = {}
    probe = to_tensor(natural_images(2, size)).to(device)
    for name, weights in options.surrogates:
        surrogates[name] = placed(load_classifier(name, weights))
        _check_classes(surrogates[name], classifier, probe, name)
    facts["surrogates"] = [
        {"name": name, "weights": weights, "sha256": weights_sha256(surrogates[name])}
        for name, weights in options.surrogates
    ]
    subject = Subject(
        classifier, defences, surrogates, device, options.seed, sketches=sketches, size="original" if whole else size
    )
    for name in subject.pipelines:
        _check_numbers(subject, name, probe)
    facts["random"] = [name for name in subject.pipelines if _is_random(subject, name, probe)]
    subject = replace(subject, random=frozenset(facts["random"]))
    for name, surrogate in zip(surrogates, facts["surrogates"], strict=True):
        if surrogate["sha256"] == facts["classifier"]["sha256"]:
            raise ConfigError(
                f"The surrogate {name} has the weights of the classifier that is defended: that is gray-box.",
                hint="name another classifier as --surrogate",
            )
    for name in surrogates:
        if name in facts["purifiers"][PURIFIER]["guided_by"]:
            console.warn(f"The surrogate {name} guided the purifier's training; it is not foreign to it.")
    return subject, facts


def _net_of(defence: Defence) -> nn.Module:
    assert defence.net is not None
    return defence.net


def _placed(net: Any, device: torch.device) -> Any:
    return net.to(device).to(memory_format=torch.channels_last)


@torch.no_grad()
def _check_classes(surrogate: Classifier, classifier: Classifier, probe: Tensor, name: str) -> None:
    theirs, ours = surrogate(probe).shape[1], classifier(probe).shape[1]
    if theirs != ours or (surrogate.labels.names and surrogate.labels != classifier.labels):
        raise ConfigError(
            f"The surrogate {name} has {theirs} classes, the classifier {ours}, or they go by other names.",
            hint="a surrogate must know the same classes in the same order",
        )


@torch.no_grad()
def _check_numbers(subject: Subject, defence: str, probe: Tensor) -> None:
    if not torch.isfinite(subject.classifier(subject.defences[defence].apply(probe))).all():
        raise WeightsError(f"Behind {defence} the classifier returns values that are no numbers: the weights are bad.")


@torch.no_grad()
def _is_random(subject: Subject, defence: str, probe: Tensor) -> bool:
    one, two = (subject.classifier(subject.defences[defence].apply(probe)) for _ in range(2))
    return bool((one - two).abs().max() > SAME)
