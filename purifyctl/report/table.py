"""A run's summary as tables on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.pipeline.summary import PERCENTILES

_ACCURACY = {
    "top1": "top-1",
    "top5": "top-5",
    "unpurified_top1": "top-1, unpurified",
    "misclassification_rate": "prediction changed by purifying",
    "top1_confidence": "mean confidence, predicted class",
    "true_confidence": "mean confidence, true class",
    "unpurified_top1_confidence": "mean confidence, unpurified",
}


def show_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print what `run` returned: counts, speed, accuracy."""
    engine = summary["engine"]
    title = f"{summary['rows']} of {summary['inputs']} inputs, {summary['images_per_s']} images/s of wall time"
    console.table(title, ("status", "images"), [(name, str(n)) for name, n in summary["statuses"].items()])
    columns = ("stage, ms per image", *(f"p{p}" for p in PERCENTILES))
    rows = [(stage, *(f"{v:.2f}" for v in values.values())) for stage, values in summary["stage_ms"].items()]
    console.table("", columns, rows)
    accuracy = summary["accuracy"]
    if accuracy:
        lines = [(text, f"{accuracy[key]:.1%}") for key, text in _ACCURACY.items() if key in accuracy]
        counts = f"{accuracy['classified']} classified, {accuracy.get('labelled', 0)} with a true label"
        console.table(f"{engine['classifier']}: {counts}", ("accuracy", "share"), lines)
    console.note(
        f"Times of decode, purify and classify are a batch's time divided by its images (amortised; batch "
        f"{engine['batch_size']}, {engine['backend']} {engine['precision']}).\nResults: {out}"
    )
