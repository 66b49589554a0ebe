"""Whether an engine does what torch does in FP32: on photographs, clean and attacked, at its batch sizes.

A purifier corrects a few grey levels, so a difference that no eye sees can undo the correction. The whole chain on
attacked photographs therefore decides: purify, classify, and count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from purifyctl.attacks import make_attack
from purifyctl.config import AttackConfig, EnginePrecision
from purifyctl.engine.backends import Runner, to_host
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.chain import Chain
from purifyctl.engine.graphs import classifier_graph, gate_graph, purifier_graph
from purifyctl.errors import ConfigError, ParityError
from purifyctl.photographs import Pixels, to_pixels, to_tensor

Figures = dict[str, dict[str, dict[str, float]]]  # network -> "batch_N" -> figures

ATTACK, EPS = AttackConfig("fgsm"), 4 / 255
LEAST = 12  # photographs
FEW = 4  # images for batch sizes other than the largest
BATCH = 16  # images in one pass of torch


@dataclass(frozen=True)
class Tolerance:
    """The most that an engine may differ from torch FP32."""

    mean_grey: float  # mean absolute difference of the purified image, in grey levels of 255
    max_grey: int  # largest difference of one value of one pixel, in grey levels
    probability: float  # largest difference of one class's probability, on the same input
    agreement: float  # least share of photographs whose purified image has torch's top-1


# Rounding to 8 bits turns any difference near .5 into one grey level; the rest is the precision's own.
TOLERANCES: dict[EnginePrecision, Tolerance] = {
    "fp32": Tolerance(mean_grey=0.02, max_grey=1, probability=0.002, agreement=0.998),
    "fp16": Tolerance(mean_grey=0.25, max_grey=8, probability=0.05, agreement=0.995),
    "bf16": Tolerance(mean_grey=0.5, max_grey=16, probability=0.15, agreement=0.99),
    "int8": Tolerance(mean_grey=0.5, max_grey=32, probability=0.002, agreement=0.99),  # its classifier is FP32
    "int8-bf16": Tolerance(mean_grey=0.5, max_grey=32, probability=0.15, agreement=0.99),
}
ATTACKED_ACCURACY = 0.01  # largest loss or gain of accuracy on purified attacked photographs


@dataclass(frozen=True)
class Reference:
    """What torch FP32 computes from some photographs. Probabilities are [n, classes]; without a classifier, empty."""

    images: Pixels
    purified: Pixels
    probabilities: NDArray[np.float32]  # of the unpurified images
    purified_probabilities: NDArray[np.float32]
    attacked: Pixels  # empty without a classifier: there is nothing to attack
    attacked_probabilities: NDArray[np.float32]  # of the purified attacked images
    scores: NDArray[np.float32]  # the gate's, [n]; empty without one


def compute_reference(
    purifier: nn.Module, classifier: nn.Module | None, gate: nn.Module | None, images: Pixels
) -> Reference:
    """Run torch FP32. FGSM attacks at 4/255, away from the classifier's prediction; it does not know the purifier."""
    purify = TorchRunner(purifier_graph(purifier))
    purified = infer_all(purify, images, BATCH)[0]
    scores = gate_scores(gate, images) if gate else np.empty(0, np.float32)
    if classifier is None:
        nothing = np.empty((0, 0), np.float32)
        return Reference(images, purified, nothing, nothing, images[:0], nothing, scores)
    classify = TorchRunner(classifier_graph(classifier))
    probabilities = infer_all(classify, images, BATCH)[0]
    attacked = np.concatenate(
        [
            _attack(classifier, images[i : i + BATCH], probabilities[i : i + BATCH].argmax(1))
            for i in range(0, len(images), BATCH)
        ]
    )
    return Reference(
        images,
        purified,
        probabilities,
        infer_all(classify, purified, BATCH)[0],
        attacked,
        _probabilities(Chain({"purifier": purify, "classifier": classify}), attacked, BATCH),
        scores,
    )


def gate_scores(gate: nn.Module, images: Pixels) -> NDArray[np.float32]:
    """The gate's score of each image in torch FP32, in [0, 1]: [n]."""
    found: NDArray[np.float32] = infer_all(TorchRunner(gate_graph(gate)), images, BATCH)[0]
    return found


def _attack(classifier: nn.Module, images: Pixels, predicted: NDArray[np.int64]) -> Pixels:
    return to_pixels(make_attack(ATTACK, classifier, to_tensor(images), torch.from_numpy(predicted), EPS))


def check_parity(
    reference: Reference, runners: Mapping[str, Runner], precision: EnginePrecision, batch_sizes: Sequence[int]
) -> tuple[Figures, dict[str, dict[str, float]]]:
    """Compare an engine with torch.

    Parameters
    ----------
    runners
        "purifier", and "classifier", "fused" and "gate" if the bundle has them.
    batch_sizes
        Each is tried; every one except the largest with only a few photographs.

    Returns
    -------
    networks, chains
        Figures by network and batch size; figures by chain, from the image to its class.

    Raises
    ------
    ConfigError
        Too few photographs.
    ParityError
        Something lies outside `TOLERANCES`, or is not a number.
    """
    tolerance, full = TOLERANCES[precision], max(batch_sizes)
    n = len(reference.images)
    if n < LEAST:
        raise ConfigError(
            f"{n} photographs are too few to compare an engine with torch; {LEAST} are the least.",
            hint="name a folder with more as --parity-photos, or leave it out",
        )
    networks: dict[str, dict[str, dict[str, float]]] = {}
    made: dict[str, list[NDArray[Any]]] = {}  # at full batches
    for name, runner in runners.items():
        expected = {"classifier": reference.probabilities, "gate": reference.scores}.get(name, reference.purified)
        networks[name] = {}
        for batch in sorted(set(batch_sizes)):
            # photographs that do not fill a batch are repeated: every place in it is compared
            which = np.arange(max(n, batch) if batch == full else FEW) % n
            outputs = infer_all(runner, reference.images[which], batch)
            measured = compare(name, expected[which], outputs[0])
            networks[name][f"batch_{batch}"] = {"images": float(len(which)), **measured}
            _refuse_outside(tolerance, measured, f"{name} at batch {batch}")
            made[name] = [output[:n] for output in outputs]
    chains: dict[str, dict[str, float]] = {}
    if "classifier" in runners:
        apart = Chain({name: runners[name] for name in ("purifier", "classifier")})
        (clean,) = infer_all(runners["classifier"], made["purifier"][0], full)
        attacked = _probabilities(apart, reference.attacked, full)
        chains["purifier, classifier"] = _check_chain(reference, clean, attacked, tolerance)
        if "fused" in runners:
            image, clean = made["fused"]
            difference = float(np.abs(clean - infer_all(runners["classifier"], image, full)[0]).max())
            _refuse_outside(tolerance, {"max_probability": difference}, "fused, beside the classifier alone")
            attacked = _probabilities(Chain({"fused": runners["fused"]}), reference.attacked, full)
            chains["fused"] = {
                **_check_chain(reference, clean, attacked, tolerance),
                "max_probability_beside_classifier": difference,
            }
    return networks, chains


def compare(name: str, expected: NDArray[Any], made: NDArray[Any]) -> dict[str, float]:
    """How far an output lies from torch's: probabilities for classifier and gate, grey levels for the others."""
    difference = np.abs(made.astype(np.float64) - expected.astype(np.float64))
    if name == "classifier":
        return {"max_probability": float(difference.max()), "top1_agreement": _agreement(expected, made)}
    if name == "gate":
        return {"max_probability": float(difference.max())}
    return {"mean_grey": float(difference.mean()), "max_grey": float(difference.max())}


def _check_chain(
    reference: Reference, clean: NDArray[np.float32], attacked: NDArray[np.float32], tolerance: Tolerance
) -> dict[str, float]:
    """Compare probabilities of purified photographs, clean and attacked, with torch's. One photograph may differ.

    Attacked photographs lie near the boundary between two classes, where any rounding changes some predictions. Their
    accuracy decides; their agreement is only reported.
    """
    n, labels = len(reference.images), reference.probabilities.argmax(1)
    least, most = min(tolerance.agreement, 1 - 1 / n), max(ATTACKED_ACCURACY, 1 / n)
    agreement = _agreement(reference.purified_probabilities, clean)
    if agreement < least - 1e-9:
        raise _outside("the chain", "top1_agreement", agreement, f">= {least:.4g}")
    accuracy, of_torch = (_accuracy(made, labels) for made in (attacked, reference.attacked_probabilities))
    if abs(accuracy - of_torch) > most + 1e-9:
        raise _outside("the chain", "change of attacked_accuracy", abs(accuracy - of_torch), f"<= {most:.4g}")
    return {
        "images": float(n),
        "top1_agreement": agreement,
        "attacked_top1_agreement": _agreement(reference.attacked_probabilities, attacked),
        "attacked_accuracy": accuracy,
        "attacked_accuracy_of_torch": of_torch,
    }


def _agreement(expected: NDArray[Any], made: NDArray[Any]) -> float:
    return float((made.argmax(1) == expected.argmax(1)).mean())


def _accuracy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def _refuse_outside(tolerance: Tolerance, measured: Mapping[str, float], what: str) -> None:
    bounds = {
        "mean_grey": tolerance.mean_grey,
        "max_grey": tolerance.max_grey,
        "max_probability": tolerance.probability,
    }
    for key, bound in bounds.items():
        if key in measured and not measured[key] <= bound:  # not <=: NaN is outside, too
            raise _outside(what, key, measured[key], f"<= {bound:.4g}")


def _outside(what: str, key: str, value: float, allowed: str) -> ParityError:
    return ParityError(
        f"The engine does not agree with torch: {what} has {key} {value:.4g}, allowed is {allowed}.",
        hint="build with --precision fp32, or on another backend; --explain says which layer differs first",
    )


def infer_all(runner: Runner, images: Pixels, batch_size: int) -> list[NDArray[Any]]:
    """Each output for all images, in batches."""
    batches = [runner.infer(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    return [np.concatenate([to_host(batch) for batch in output]) for output in zip(*batches, strict=True)]


def _probabilities(chain: Chain, images: Pixels, batch_size: int) -> NDArray[np.float32]:
    """Class probabilities of all images, purified in batches: [n, classes]."""
    batches = [chain.run(images[i : i + batch_size])[1] for i in range(0, len(images), batch_size)]
    return np.concatenate([to_host(probabilities) for probabilities in batches])
