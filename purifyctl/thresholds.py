"""Thresholds of the gate's scores.

A score is the calibrated probability that an image was attacked, if half of all images were. A threshold belongs to a
false-positive rate: the share of clean photographs that are flagged, and purified without need.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ConfigError

FALSE_POSITIVE_RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # a checkpoint has a threshold for each

Thresholds = Mapping[str, float]  # by false-positive rate, such as "0.01"


def threshold_at(clean: NDArray[np.floating[Any]], rate: float) -> float:
    """The lowest threshold that at most `rate` of clean scores reach, of these scores and one future score.

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
