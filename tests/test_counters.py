import numpy as np
import pytest

from purifyctl.metrics import PERCENTILES
from purifyctl.report.counters import EVENTS, Histogram, Timeline


def test_pauses_are_not_averaged_into_the_throughput() -> None:
    timeline = Timeline()
    for begin in (1.7e9, 1.7e9 + 40_000):
        timeline.add(np.repeat(begin + np.arange(600) * 0.5, 8))  # 16 a second, for five minutes
    found = timeline.stretches(200)
    assert [round(s.end - s.begin) for s in found] == [300, 300]
    rates = np.concatenate([s.rates for s in found])
    assert 150 < len(rates) <= 200
    assert rates == pytest.approx(16, rel=0.02)


def test_a_timeline_of_weeks_grows_coarser_and_counts_all() -> None:
    timeline = Timeline()
    for day in range(21):
        timeline.add(1.7e9 + 86_400 * day + np.arange(0, 86_400, 4.0))
    (whole,) = timeline.stretches(200)
    assert len(timeline._counts) <= EVENTS
    assert whole.rates == pytest.approx(0.25, rel=0.02)


def test_percentiles_from_bins_are_within_one_percent() -> None:
    values = np.random.default_rng(0).gamma(2, 30, 20_000)
    histogram = Histogram()
    for part in np.split(values, 20):
        histogram.add(np.append(part, np.nan))
    for p in PERCENTILES:
        assert histogram.percentile(p) == pytest.approx(np.percentile(values, p), rel=0.011)
    assert histogram.n == 20_000
    assert histogram.sum == pytest.approx(values.sum())
    assert histogram.rebinned(np.array([0, 1e6])) == [20_000]
    same = Histogram()
    same.add(np.zeros(5))
    assert same.percentile(99) == 0
