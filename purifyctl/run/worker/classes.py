"""What the classifier says of an image, as its row has it."""

import numpy as np
from numpy.typing import NDArray

from purifyctl.run.rows import Row
from purifyctl.run.worker.in_flight import ImageInFlight
from purifyctl.run.worker.resources import Resources

_Top = tuple[list[int], list[str], list[float], float | None]


def note_top(resources: Resources, row: Row, probabilities: NDArray[np.float32]) -> None:
    """Note what the image is classified as after it was purified, or passed on."""
    top = _top(resources, probabilities, row.true_index)
    row.top_index, row.top_label, row.top_probability, row.true_probability = top


def note_unpurified(resources: Resources, image: ImageInFlight, probabilities: NDArray[np.float32]) -> None:
    """Note what the image is classified as before it is purified, and keep it for the comparison."""
    row, image.unpurified = image.row, probabilities
    top = _top(resources, probabilities, row.true_index)
    row.unpurified_top_index, row.unpurified_top_label = top[:2]
    row.unpurified_top_probability, row.unpurified_true_probability = top[2:]


def _top(resources: Resources, probabilities: NDArray[np.float32], true_index: int | None) -> _Top:
    k = min(resources.setup.options.top, len(probabilities))
    best = np.argpartition(-probabilities, k - 1)[:k]
    best = best[np.lexsort((best, -probabilities[best]))]  # by probability, then by index
    true = float(probabilities[true_index]) if true_index is not None else None
    return best.tolist(), [resources.labels.name(i) for i in best], probabilities[best].tolist(), true
