"""What a report says about a run's rows. They are counted part by part, so that a run of any length fits in memory."""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ConfigError
from purifyctl.metrics import Share
from purifyctl.report.counters import Floats, Histogram, Mean, Timeline
from purifyctl.run.rows import NOT_FAILED
from purifyctl.run.run_folder import rows_of
from purifyctl.run.summary import STAGES

MOST_CHANGED = 12  # images that are kept to be shown
FAILURES = 8  # of each status
CONFIDENCE_BINS = 25
_SHOWN = (
    "path", "true_index", "true_label", "top_index", "top_label", "top_probability",
    "unpurified_top_index", "unpurified_top_label", "unpurified_top_probability", "mean_change", "position",
)  # fmt: skip
_NEEDED = {
    *_SHOWN, *(f"{stage}_ms" for stage in STAGES),
    "status", "error", "true_probability", "flagged", "handled",
    "unpurified_true_probability", "divergence", "finished", "bundle",
}  # fmt: skip
Classes = NDArray[np.int64]  # -1: unknown


@dataclass
class Outcome:
    """What the classifier says about images, purified or not."""

    classified: int = 0
    labelled: int = 0
    right: int = 0
    ranked: int = 0  # labelled, with five classes in their row
    right_5: int = 0
    confidence: Mean = field(default_factory=Mean)  # in the predicted class
    true_confidence: Mean = field(default_factory=Mean)
    confidences: Floats = field(default_factory=lambda: np.zeros(CONFIDENCE_BINS))  # [bins over 0 to 1]
    right_by_class: Counter[int] = field(default_factory=Counter)

    @property
    def top1(self) -> Share:
        return Share(self.right, self.labelled)

    @property
    def top5(self) -> Share:
        return Share(self.right_5, self.ranked)

    def add(self, table: Mapping[str, Any], kind: str, true: Classes) -> Classes:
        """Count the predictions in these rows. `kind`: "" or "unpurified_". Returns the predicted classes."""
        classes, lengths = _lists(table[f"{kind}top_index"])
        firsts = _firsts(lengths)
        said = lengths > 0
        predicted = np.full(len(lengths), -1)
        predicted[said] = classes[firsts[said]]
        labelled = said & (true >= 0)
        right = labelled & (predicted == true)
        self.classified += int(said.sum())
        self.labelled += int(labelled.sum())
        self.right += int(right.sum())
        self.right_by_class.update(_counted(true[right]))
        ranked = labelled & (lengths >= 5)
        self.ranked += int(ranked.sum())
        best = classes[firsts[ranked][:, None] + np.arange(5)] if ranked.any() else np.zeros((0, 5))
        self.right_5 += int((best == true[ranked][:, None]).any(axis=1).sum())
        probabilities = _lists(table[f"{kind}top_probability"])[0][firsts[said]]
        self.confidence.add(probabilities)
        self.confidences += np.histogram(probabilities, CONFIDENCE_BINS, (0, 1))[0]
        self.true_confidence.add(_floats(table[f"{kind}true_probability"])[labelled])
        return predicted


Entry = tuple[float, int, int, dict[str, Any]]  # how much, -part, -position, row; in a heap


@dataclass
class Tally:
    """Everything that the report says about rows."""

    rows: int = 0
    rows_of_part: dict[int, int] = field(default_factory=dict)  # how many are there
    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by status, the first few
    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    timeline: Timeline = field(default_factory=Timeline)
    flagged: Counter[bool] = field(default_factory=Counter)  # by a gate
    handled: Counter[str] = field(default_factory=Counter)
    change: Histogram = field(default_factory=Histogram)
    most_changed: list[Entry] = field(default_factory=list)  # by grey levels
    most_diverged: list[Entry] = field(default_factory=list)  # with another prediction than before, by divergence
    purified: Outcome = field(default_factory=Outcome)
    unpurified: Outcome = field(default_factory=Outcome)
    compared: int = 0  # classified purified and unpurified
    differing: int = 0  # compared, with another prediction
    of_class: Counter[int] = field(default_factory=Counter)  # labelled images
    mistakes: Counter[tuple[int, int]] = field(default_factory=Counter)  # by true and predicted class
    names: dict[int, str] = field(default_factory=dict)  # of classes that occurred
    bundles: Counter[str] = field(default_factory=Counter)

    def add(self, part: int, table: Mapping[str, Any]) -> None:
        """Count the rows of one part, given as Arrow columns by name."""
        status = table["status"].to_pylist()
        self.rows += len(status)
        self.rows_of_part[part] = len(status)
        self.statuses.update(status)
        self.bundles.update(sha256 for sha256 in table["bundle"].to_pylist() if sha256)
        self.timeline.add(_floats(table["finished"]))
        for stage, histogram in self.stages.items():
            histogram.add(_floats(table[f"{stage}_ms"]))
        if "flagged" in table:  # not in rows of earlier versions
            self.flagged.update(flag for flag in table["flagged"].to_pylist() if flag is not None)
            self.handled.update(what for what in table["handled"].to_pylist() if what is not None)
        self._add_failures(status, table)
        self._add_changes(part, table)
        self._add_predictions(part, table)

    def _add_failures(self, status: list[str], table: Mapping[str, Any]) -> None:
        for i, name in enumerate(status):
            if name not in NOT_FAILED and len(known := self.failures.setdefault(name, [])) < FAILURES:
                known.append({"path": table["path"][i].as_py(), "error": table["error"][i].as_py()})

    def _add_changes(self, part: int, table: Mapping[str, Any]) -> None:
        if "mean_change" not in table:  # not in rows of earlier versions
            return
        changes = _floats(table["mean_change"])
        self.change.add(changes)
        known = np.flatnonzero(~np.isnan(changes))
        _keep_most(self.most_changed, part, table, changes, known)

    def _add_predictions(self, part: int, table: Mapping[str, Any]) -> None:
        true = np.nan_to_num(_floats(table["true_index"]), nan=-1).astype(np.int64)
        predicted = self.purified.add(table, "", true)
        unpurified = self.unpurified.add(table, "unpurified_", true)
        both = (predicted >= 0) & (unpurified >= 0)
        self.compared += int(both.sum())
        differing = both & (predicted != unpurified)
        self.differing += int(differing.sum())
        if "divergence" in table and "mean_change" in table:  # not in rows of earlier versions
            divergence = np.nan_to_num(_floats(table["divergence"]))
            _keep_most(self.most_diverged, part, table, divergence, np.flatnonzero(differing))
        labelled = (predicted >= 0) & (true >= 0)
        self.of_class.update(_counted(true[labelled]))
        wrong = labelled & (predicted != true)
        self.mistakes.update(zip(true[wrong].tolist(), predicted[wrong].tolist(), strict=True))
        for i in np.flatnonzero(wrong).tolist():
            if int(true[i]) not in self.names:
                self.names[int(true[i])] = table["true_label"][i].as_py()
            if int(predicted[i]) not in self.names:
                self.names[int(predicted[i])] = table["top_label"][i].as_py()[0]

    def worst_classes(self, most: int) -> list[tuple[int, Share, list[tuple[int, int]]]]:
        """The classes with the most errors: index, share that is right, and the three most frequent wrong classes."""
        errors: Counter[int] = Counter()
        for (true, _), n in self.mistakes.items():
            errors[true] += n
        worst = sorted(errors, key=lambda true: (-errors[true], true))[:most]
        taken: dict[int, list[tuple[int, int]]] = {true: [] for true in worst}
        for (true, predicted), n in self.mistakes.items():
            if true in taken:
                taken[true].append((predicted, n))
        return [
            (
                true,
                Share(self.of_class[true] - errors[true], self.of_class[true]),
                sorted(taken[true], key=lambda pair: (-pair[1], pair[0]))[:3],
            )
            for true in worst
        ]


def _keep_most(
    heap: list[Entry], part: int, table: Mapping[str, Any], values: Floats, among: Classes | NDArray[np.intp]
) -> None:
    """Keep the rows with the largest values. If two values are equal, the earlier row stays."""
    for i in among[np.argsort(-values[among], kind="stable")][:MOST_CHANGED].tolist():
        row = {name: table[name][i].as_py() for name in _SHOWN if name in table}
        entry = (float(values[i]), -part, -row.get("position", i), row)
        if len(heap) < MOST_CHANGED:
            heapq.heappush(heap, entry)
        elif entry[:3] > heap[0][:3]:
            heapq.heapreplace(heap, entry)


def tally(folder: Path, parts: int) -> Tally:
    """Count the rows of a run that is finished, under way or stopped."""
    found = Tally()
    for part, table in _tables(folder, parts):
        found.add(part, table)
    return found


def _tables(folder: Path, parts: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows that are there, one part at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in range(parts):
        committed, kept = rows_of(folder, part)
        for file in (committed, kept, committed):  # kept rows vanish when their part is committed
            try:
                with pq.ParquetFile(file) as parquet:
                    table = parquet.read([name for name in parquet.schema_arrow.names if name in _NEEDED])
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError) as error:
                raise ConfigError(
                    f"{file} cannot be read: {error}.", hint="remove it, and run will make it again"
                ) from None
            yield part, {name: table[name].combine_chunks() for name in table.column_names}
            break


def _floats(column: Any) -> Floats:
    found: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _lists(column: Any) -> tuple[NDArray[Any], Classes]:
    """The values of all lists one after the other, and the length of each list."""
    import pyarrow.compute as pc

    lengths: Classes = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), lengths


def _firsts(lengths: Classes) -> Classes:
    found: Classes = np.cumsum(lengths) - lengths
    return found


def _counted(classes: Sequence[int] | Classes) -> dict[int, int]:
    values, counts = np.unique(classes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
