import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl import metrics
from purifyctl.metrics import Share
from tests import tiny

TRUTH = np.array([0, 1, 2, 3])


def test_top1_counts_predictions_that_are_the_truth() -> None:
    share = metrics.top1(np.array([0, 1, 0, 0]), TRUTH)
    assert share == Share(2, 4)
    assert share.value == 0.5


def test_asr_ignores_images_already_misclassified_when_clean() -> None:
    clean = np.array([0, 1, 0, 0])  # two right
    attacked = np.array([0, 5, 5, 5])  # one of these flipped; the others were wrong before
    assert metrics.attack_success_rate(attacked, clean, TRUTH) == Share(1, 2)


def test_an_image_is_twice_right_only_if_it_is_right_when_clean_too() -> None:
    clean = np.array([0, 1, 0, 0])
    attacked = np.array([0, 5, 2, 5])  # the third is right because it was attacked
    assert metrics.top1(attacked, TRUTH) == Share(2, 4)
    assert metrics.twice_right(attacked, clean, TRUTH) == Share(1, 4)


def test_asr_of_a_pipeline_that_is_never_right_has_no_value() -> None:
    wrong = np.array([9, 9, 9, 9])
    share = metrics.attack_success_rate(wrong, wrong, TRUTH)
    assert (share.value, share.interval) == (None, None)


def test_the_misclassification_rate_compares_with_the_clean_prediction_not_with_the_truth() -> None:
    clean = np.array([9, 1, 2, 3])
    attacked = np.array([9, 1, 0, 3])  # the first is wrong, and as wrong as before
    assert metrics.misclassification_rate(attacked, clean) == Share(1, 4)


def test_recovery_is_the_papers_quotient_of_accuracies() -> None:
    n = 10_000
    truth = np.zeros(n, int)
    clean, purified = np.ones(n, int), np.ones(n, int)
    clean[:5483], purified[:5034] = 0, 0  # the paper's Table 2
    assert metrics.recovery(purified, clean, truth) == pytest.approx(0.918, abs=5e-4)
    low, high = metrics.recovery_interval(purified, clean, truth)
    assert low < 0.918 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(5034 * 449) / 5483**1.5, rel=0.1)  # shares of one another
    assert metrics.recovery(purified, np.ones(n, int), truth) is None
    assert metrics.recovery_interval(purified, np.ones(n, int), truth) is None


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (181, 256, 0.6485, 0.7594)],
)
def test_wilson_intervals_are_the_known_ones(hits: int, n: int, low: float, high: float) -> None:
    assert metrics.wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_stays_within_0_and_1(share: tuple[int, int]) -> None:
    hits, n = share
    low, high = metrics.wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert low < high


def test_quality_is_that_of_known_images() -> None:
    image = np.asarray(tiny.photograph((64, 64)).convert("RGB"))
    assert metrics.quality(image, image) == (metrics.PSNR_OF_EQUALS, 1.0)
    shifted = np.where(image < 250, image + 4, image - 4).astype(np.uint8)  # an error of 4 everywhere
    psnr, ssim = metrics.quality(shifted, image)
    assert psnr == pytest.approx(20 * np.log10(255 / 4), abs=1e-3)
    assert 0.9 < ssim < 1
