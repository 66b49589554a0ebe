"""Counters for any number of values, in a fixed amount of memory: a histogram, a timeline, a mean."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purifyctl.metrics import PERCENTILES

EVENTS = 50_000  # moments that a timeline keeps apart
SHORTEST_PAUSE_S = 10.0  # a shorter one is a worker that starts, or a slow image
Floats = NDArray[np.float64]  # NaN: unknown


class Histogram:
    """Counts values from 0 up in bins that are one percent wide. Sum and largest value are exact."""

    LOWEST, HIGHEST, PER_E = 1e-3, 1e9, 100

    def __init__(self) -> None:
        self._bins = np.zeros(math.ceil(math.log(self.HIGHEST / self.LOWEST) * self.PER_E) + 1, np.int64)
        self.n, self.sum, self.largest = 0, 0.0, 0.0

    def add(self, values: Floats) -> None:
        """Count these values; NaN does not count."""
        known = values[~np.isnan(values)]
        if not len(known):
            return
        scaled = np.log(np.clip(known, self.LOWEST, self.HIGHEST) / self.LOWEST) * self.PER_E
        # the first bin holds everything from 0 up to `LOWEST`
        self._bins += np.bincount(np.ceil(scaled).astype(np.int64), minlength=len(self._bins))[: len(self._bins)]
        self.n += len(known)
        self.sum += float(known.sum())
        self.largest = max(self.largest, float(known.max()))

    def percentile(self, p: float) -> float:
        """A percentile, exact to one percent of its value."""
        place = int(np.searchsorted(self._bins.cumsum(), p / 100 * max(0, self.n - 1), side="right"))
        return min(self.largest, float(self._middles()[place]))

    def percentiles(self) -> dict[int, float]:
        return {p: self.percentile(p) for p in PERCENTILES}

    def rebinned(self, edges: Floats) -> Floats:
        """The counts between these edges."""
        return np.histogram(self._middles(), edges, weights=self._bins)[0]

    def _middles(self) -> Floats:
        places = np.arange(len(self._bins))
        return np.where(places == 0, 0.0, self.LOWEST * np.exp((places - 0.5) / self.PER_E))


@dataclass(frozen=True)
class Stretch:
    """Work without a pause."""

    begin: float  # seconds since 1970: when its first input was finished
    end: float
    edges: Floats  # [k + 1], seconds since 1970
    rates: Floats  # [k], inputs/s between them; inputs that were finished at `begin` itself do not count


class Timeline:
    """Counts how many inputs were finished at each moment. If there are too many moments, they become coarser."""

    def __init__(self) -> None:
        self._width = 1 / 16  # seconds
        self._counts: Counter[int] = Counter()

    def add(self, finished: Floats) -> None:
        """Seconds since 1970; NaN does not count."""
        places, counts = np.unique(
            np.floor(finished[~np.isnan(finished)] / self._width).astype(np.int64), return_counts=True
        )
        self._counts.update(dict(zip(places.tolist(), counts.tolist(), strict=True)))
        while len(self._counts) > EVENTS:
            self._width *= 2
            halved: Counter[int] = Counter()
            for place, n in self._counts.items():
                halved[place // 2] += n
            self._counts = halved

    def stretches(self, points: int) -> list[Stretch]:
        """The work between pauses. Each stretch has bins of one length: about `points` in all, and at least one.

        The inputs of a batch finish together. They are spread evenly over the time since the batch before, so that
        the bins show no spikes.
        """
        places = np.array(sorted(self._counts), np.int64)
        if not len(places):
            return []
        times = (places + 0.5) * self._width
        counts = np.array([self._counts[int(place)] for place in places], np.float64)
        gaps = np.diff(times)
        cuts = np.flatnonzero(gaps > self.pause_s()) + 1
        whole = sum(gaps[gaps <= self.pause_s()])
        found = []
        for own_times, own_counts in zip(np.split(times, cuts), np.split(counts, cuts), strict=True):
            begin, end = float(own_times[0]), float(own_times[-1])
            if len(own_times) == 1:
                found.append(Stretch(begin, end, np.array([begin, end]), np.zeros(0)))
                continue
            k = max(1, min(len(own_times) // 2, int(points * (end - begin) / whole)))
            edges = np.linspace(begin, end, k + 1)
            done = np.interp(edges, own_times, np.cumsum(own_counts))
            found.append(Stretch(begin, end, edges, np.diff(done) / np.diff(edges)))
        return found

    def pause_s(self) -> float:
        """The length of the shortest pause, in seconds without a finished input."""
        gaps = np.diff(np.array(sorted(self._counts), np.float64)) * self._width
        return max(SHORTEST_PAUSE_S, 8 * float(np.median(gaps))) if len(gaps) else SHORTEST_PAUSE_S


@dataclass
class Mean:
    """The mean of probabilities."""

    n: int = 0
    sum: float = 0.0

    def add(self, values: Floats) -> None:
        known = values[~np.isnan(values)]
        self.n += len(known)
        self.sum += float(known.sum())

    @property
    def value(self) -> float | None:
        return self.sum / self.n if self.n else None
