"""What a run's rows say together, one part at a time."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.metrics import percentiles
from purifyctl.parquet import read_columns
from purifyctl.run.answers import ANSWERS_NEED, Answers
from purifyctl.run.rows import Row

STAGES = ("read", "decode", "gate", "purify", "classify", "encode", "write")
BATCH_STAGES = ("decode", "gate", "purify", "classify")  # their time is a batch's, divided by its images (amortised)
_NEEDED = (
    *ANSWERS_NEED, "true_probability", "unpurified_true_probability", "mean_change", "flagged", "handled",
    "decoder", "damaged", "profile", "first_frame",
    *(f"{stage}_ms" for stage in STAGES),
)  # fmt: skip


SATURATED = 0.8  # a stage whose threads are busy for this fraction of the time limits the run


class Busy:
    """How busy the threads of each stage were, from the rows of whole batches."""

    def __init__(self) -> None:
        self._ms = dict.fromkeys(("read", "decode", "infer", "write"), 0.0)

    def add(self, rows: Sequence[Row]) -> None:
        """Count rows that are done."""
        self._ms["decode"] += sum(row.decode_ms or 0.0 for row in rows)
        self._ms["infer"] += sum(
            (row.gate_ms or 0.0) + (row.purify_ms or 0.0) + (row.classify_ms or 0.0) for row in rows
        )
        self._ms["read"] += sum(row.read_ms or 0.0 for row in rows)
        self._ms["write"] += sum((row.encode_ms or 0.0) + (row.write_ms or 0.0) for row in rows)

    def figures(self, seconds: float, threads: Mapping[str, int]) -> dict[str, Any]:
        """For each stage, the fraction of the time in which its `threads` were busy; and the stage that limits the run.
        None: no stage is busy enough, so the run waits for something between them.
        """
        busy = {stage: round(ms / 1e3 / seconds / threads[stage], 3) for stage, ms in self._ms.items()}
        most = max(busy, key=busy.__getitem__)
        return {"busy": busy, "limited_by": most if busy[most] >= SATURATED else None}


def summarise(parts: Iterable[Path]) -> dict[str, Any]:
    """Counts, answers, latencies, percentiles of mean changes, and accuracy, from the rows of these Parquet parts."""
    statuses: Counter[str] = Counter()
    times: dict[str, list[NDArray[np.float32]]] = {stage: [] for stage in STAGES}
    changes: list[NDArray[np.float32]] = []
    flagged: Counter[bool] = Counter()
    handled: Counter[str] = Counter()
    right, answers, pictures = Accuracy(), Answers(), _Pictures()
    for part in parts:
        columns = read_columns(part, _NEEDED)
        statuses.update(columns["status"])
        for stage, known in times.items():
            known.append(np.array([ms for ms in columns[f"{stage}_ms"] if ms is not None], np.float32))
        right.add(columns)
        answers.add(columns)
        pictures.add(columns)
        flagged.update(flag for flag in columns["flagged"] if flag is not None)
        handled.update(what for what in columns["handled"] if what is not None)
        changes.append(np.array([change for change in columns["mean_change"] if change is not None], np.float32))
    changed = np.concatenate(changes) if changes else ()
    joined = {stage: np.concatenate(known) for stage, known in times.items() if known}
    return {
        "rows": statuses.total(),
        "statuses": dict(statuses.most_common()),
        **answers.figures(),
        "handled": dict(handled.most_common()),
        "pictures": pictures.figures(),
        **({"gate": _saved(flagged, joined)} if flagged else {}),
        "stage_ms": {stage: _latency(stage, ms) for stage, ms in joined.items() if len(ms)},
        "mean_change": percentiles(changed) if len(changed) else {},  # in grey levels, of each image's own mean
        "accuracy": right.figures(),
    }


def _latency(stage: str, ms: NDArray[np.float32]) -> dict[str, float]:
    """The mean of a stage, in ms per image. Percentiles only where each image was timed: the images of a batch share
    its average, and percentiles of such averages would say nothing about images.
    """
    return {"mean": round(float(ms.mean()), 3), **({} if stage in BATCH_STAGES else percentiles(ms))}


class _Pictures:
    """How files became pixels, counted part by part."""

    def __init__(self) -> None:
        self._decoders: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()

    def add(self, columns: Mapping[str, list[Any]]) -> None:
        """Count rows, given as lists by column."""
        self._decoders.update(name for name in columns["decoder"] if name is not None)
        self._kept["damaged"] += sum(why is not None for why in columns["damaged"])
        self._kept["converted"] += sum(name is not None for name in columns["profile"])
        self._kept["first_frames"] += sum(map(bool, columns["first_frame"]))

    def figures(self) -> dict[str, Any]:
        return {"decoders": dict(self._decoders.most_common()), **self._kept}


def _saved(flagged: Counter[bool], ms: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """What the gate flagged and what it saved. `gate_s`: engine time of the gate. `spared_s`: the engine time that it
    would have taken to purify the unflagged images, at the mean time of the purified ones; None if none was purified.
    """
    purify = ms.get("purify", np.empty(0, np.float32))
    return {
        "flagged": flagged[True],
        "unflagged": flagged[False],
        "flagged_share": round(flagged[True] / flagged.total(), 4),
        "gate_s": round(float(ms["gate"].sum()) / 1e3, 3),
        "spared_s": round(float(purify.mean()) * flagged[False] / 1e3, 3) if len(purify) else None,
    }


class Accuracy:
    """Accuracy figures, each over the images that it can be computed from, summed up part by part.

    top1, top5 and true_confidence need true labels. misclassification_rate (the prediction differs from that for the
    unpurified image) needs both predictions.
    """

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._n: Counter[str] = Counter()

    def add(self, columns: Mapping[str, list[Any]]) -> None:
        """Count rows, given as lists by column."""
        rows = [
            {name: values[i] for name, values in columns.items()}
            for i in range(len(columns["status"]))
            if columns["top_index"][i]
        ]
        compared = [row for row in rows if row["unpurified_top_index"]]
        labelled = [row for row in rows if row["true_index"] is not None]
        self._add("top1_confidence", [row["top_probability"][0] for row in rows])
        changed = [row["top_index"][0] != row["unpurified_top_index"][0] for row in compared]
        self._add("misclassification_rate", changed)
        self._add("unpurified_top1_confidence", [row["unpurified_top_probability"][0] for row in compared])
        self._add("top1", [row["top_index"][0] == row["true_index"] for row in labelled])
        self._add("true_confidence", [row["true_probability"] for row in labelled])
        if min((len(row["top_index"]) for row in labelled), default=0) >= 5:
            self._add("top5", [row["true_index"] in row["top_index"][:5] for row in labelled])
        known = [row for row in labelled if row["unpurified_top_index"]]
        self._add("unpurified_top1", [row["unpurified_top_index"][0] == row["true_index"] for row in known])

    def _add(self, name: str, values: list[Any]) -> None:
        if values:
            self._n[name] += len(values)
            self._sums[name] += sum(values)

    def figures(self) -> dict[str, Any]:
        """Means, and how many images they are from. Empty if nothing was classified."""
        if not self._n:
            return {}
        counts = {"classified": self._n["top1_confidence"]} | ({"labelled": n} if (n := self._n["top1"]) else {})
        return counts | {name: round(self._sums[name] / n, 4) for name, n in self._n.items() if n}
