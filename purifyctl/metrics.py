"""The figures that are reported, as pure functions of per-image outcomes.

Predictions and labels are class indexes, int [n], of the same n images in the same order. Shares come with their 95 %
interval; a share of 0 images has no value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)
Classes = NDArray[np.int64]  # [n]
PSNR_OF_EQUALS = 100.0  # dB; two equal images have no finite PSNR, and a mean must not be infinite


@dataclass(frozen=True)
class Share:
    """`hits` of `n` images."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        """In [0, 1]; None if there are no images."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval, in [0, 1]."""
        return wilson(self.hits, self.n) if self.n else None

    def __str__(self) -> str:
        return format_share(self.value, self.interval)


def percent(value: float | None) -> str:
    """`33.6 %`; `-` if there is no value."""
    return "-" if value is None else f"{100 * value:.1f} %"


def format_share(value: float | None, interval: Sequence[float] | None) -> str:
    """A share with its interval: `33.6 % [28.1, 39.6]`; `-` if there is no value."""
    if interval is None:
        return "-"
    return f"{percent(value)} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share (Wilson 1927), by default of 95 %.

    Unlike the normal approximation it stays in [0, 1] and has a width even at 0 of n, which strong attacks reach.
    """
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at the ends the formula is exact except for the last digit; here it is exact
    return (middle - half if hits else 0.0), (middle + half if hits < n else 1.0)


def top1(prediction: Classes, truth: Classes) -> Share:
    """Accuracy: predictions that are the truth. Under attack: robust accuracy."""
    return Share(int((prediction == truth).sum()), len(truth))


def attack_success_rate(prediction: Classes, clean: Classes, truth: Classes) -> Share:
    """Among the images that a pipeline gets right when clean, the share that it gets wrong when attacked.

    Parameters
    ----------
    prediction, clean
        The same pipeline's predictions on the attacked and on the clean images. So an image that the defence gets wrong
        when clean does not count as the attack's success: it is the defence's price, and reported as such.
    """
    right = clean == truth
    return Share(int((right & (prediction != truth)).sum()), int(right.sum()))


def twice_right(prediction: Classes, clean: Classes, truth: Classes) -> Share:
    """Images that a pipeline gets right under attack and when left alone: an attacker may choose to do nothing.

    Accuracy under attack can be higher. A perturbation away from the true label reveals that label. A defence that
    reverses perturbations then gets images right that it gets wrong when clean.

    Parameters
    ----------
    prediction, clean
        The same pipeline's predictions on the attacked and on the clean images.
    """
    return Share(int(((prediction == truth) & (clean == truth)).sum()), len(truth))


def misclassification_rate(prediction: Classes, clean: Classes) -> Share:
    """The share of predictions that differ from the undefended classifier's on the clean image: the paper's Table 3."""
    return Share(int((prediction != clean).sum()), len(clean))


def recovery(prediction: Classes, clean: Classes, truth: Classes) -> float | None:
    """Accuracy of `prediction` over that of the undefended classifier on the clean images; None if that is 0.

    The paper's 91.8 % is 50.34 % over 54.83 %.
    """
    before = top1(clean, truth).hits
    return top1(prediction, truth).hits / before if before else None


def recovery_interval(
    prediction: Classes, clean: Classes, truth: Classes, samples: int = 2000
) -> tuple[float, float] | None:
    """95 % bootstrap interval of `recovery` over images, which both accuracies share; None if it has no value."""
    after, before = prediction == truth, clean == truth
    if not before.any():
        return None
    # resampled images fall into four kinds: right or wrong, before and after
    kinds = [(before & after).sum(), (before & ~after).sum(), (~before & after).sum()]
    shares = np.append(kinds, len(truth) - sum(kinds)) / len(truth)
    both, lost, gained, _ = np.random.default_rng(0).multinomial(len(truth), shares, size=samples).T
    defined = both + lost > 0
    low, high = np.percentile(((both + gained)[defined] / (both + lost)[defined]), (2.5, 97.5))
    return float(low), float(high)


def auroc(negatives: NDArray[np.floating[Any]], positives: NDArray[np.floating[Any]]) -> float | None:
    """The probability that a positive scores higher than a negative; a tie counts half.

    None if there are no positives or no negatives.
    """
    if not (len(negatives) and len(positives)):
        return None
    ordered = np.sort(negatives)
    below, not_above = (np.searchsorted(ordered, positives, side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(ordered))


def divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> float:
    """Jensen-Shannon divergence of two distributions over classes, in bits: 0 for equal ones, 1 for disjoint ones."""
    middle = (p.astype(np.float64) + q) / 2

    def from_middle(r: NDArray[np.float32]) -> float:
        known = r > 0
        return float((r[known] * np.log2(r[known] / middle[known])).sum())

    return min(1.0, max(0.0, (from_middle(p) + from_middle(q)) / 2))


def mean(values: NDArray[np.float64]) -> float | None:
    """The mean; None if there are no values."""
    return float(np.mean(values)) if len(values) else None


def quality(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> tuple[float, float]:
    """PSNR in dB and SSIM (Wang et al. 2004, 7x7 window) of an image against a reference, both RGB uint8 HWC.

    Equal images get `PSNR_OF_EQUALS`.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    if np.array_equal(image, reference):
        return PSNR_OF_EQUALS, 1.0
    psnr = float(peak_signal_noise_ratio(reference, image, data_range=255))
    return psnr, float(structural_similarity(reference, image, channel_axis=2, data_range=255))


def percentiles(values: Sequence[float] | NDArray[np.float32]) -> dict[str, float]:
    """The median and the tail of at least one value, as `{"p50": ...}`."""
    found = np.percentile(values, PERCENTILES)
    return {f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, found, strict=True)}
