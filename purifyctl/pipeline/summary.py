"""What a run's rows say together."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purifyctl.metrics import percentiles
from purifyctl.parquet import read_columns

STAGES = ("read", "decode", "purify", "classify", "encode", "write")


def summarise(rows: Path, seconds: float) -> dict[str, Any]:
    """Counts, throughput, latency percentiles and accuracy of the Parquet parts in `rows`.

    Parameters
    ----------
    seconds
        Wall time from the first file read to the last row committed.
    """
    times = [f"{stage}_ms" for stage in STAGES]
    columns = read_columns(
        rows,
        [
            "status", "true_index", "top_index", "top_probability", "true_probability",
            "unpurified_top_index", "unpurified_top_probability", "unpurified_true_probability", *times,
        ],
    )  # fmt: skip
    statuses = Counter(columns["status"])
    n = len(columns["status"])
    return {
        "rows": n,
        "statuses": dict(statuses.most_common()),
        "seconds": round(seconds, 3),
        "images_per_s": round(n / seconds, 2) if seconds else None,
        "stage_ms": {
            stage: percentiles(known)
            for stage, name in zip(STAGES, times, strict=True)
            if (known := [ms for ms in columns[name] if ms is not None])
        },
        "accuracy": accuracy(columns),
    }


def accuracy(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Accuracy figures, each with the number of images it stands on. Empty where nothing was classified.

    top1, top5, true_confidence need true labels; misclassification_rate (the prediction differs from that on the
    unpurified image) needs both predictions.
    """
    figures: dict[str, Any] = {}
    rows = [
        {name: values[i] for name, values in columns.items()}
        for i in range(len(columns["status"]))
        if columns["top_index"][i]
    ]
    if not rows:
        return figures
    figures["classified"] = len(rows)
    figures["top1_confidence"] = _mean([row["top_probability"][0] for row in rows])
    compared = [row for row in rows if row["unpurified_top_index"]]
    if compared:
        changed = [row["top_index"][0] != row["unpurified_top_index"][0] for row in compared]
        figures["misclassification_rate"] = _mean(changed)
        figures["unpurified_top1_confidence"] = _mean([row["unpurified_top_probability"][0] for row in compared])
    labelled = [row for row in rows if row["true_index"] is not None]
    if labelled:
        figures["labelled"] = len(labelled)
        figures["top1"] = _mean([row["top_index"][0] == row["true_index"] for row in labelled])
        figures["true_confidence"] = _mean([row["true_probability"] for row in labelled])
        if min(len(row["top_index"]) for row in labelled) >= 5:
            figures["top5"] = _mean([row["true_index"] in row["top_index"][:5] for row in labelled])
        if compared:
            hits = [row["unpurified_top_index"][0] == row["true_index"] for row in labelled]
            figures["unpurified_top1"] = _mean(hits)
    return figures


def _mean(values: list[Any]) -> float:
    return round(float(np.mean(values)), 4)
