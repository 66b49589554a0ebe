"""What a report says of a run's rows, summed up part by part: of a run of any length only counters are kept."""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ConfigError
from purifyctl.metrics import PERCENTILES, Share
from purifyctl.run.run_folder import rows_of
from purifyctl.run.summary import STAGES

MOST_CHANGED = 12  # images that are kept to be shown
FAILURES = 8  # of each status
CONFIDENCE_BINS = 25
EVENTS = 50_000  # moments that a timeline tells apart
SHORTEST_PAUSE_S = 10.0  # shorter ones are a worker that starts, or a slow image
_SHOWN = (
    "path", "true_index", "true_label", "top_index", "top_label", "top_probability",
    "unpurified_top_label", "unpurified_top_probability", "mean_change", "position",
)  # fmt: skip
_NEEDED = {
    *_SHOWN, *(f"{stage}_ms" for stage in STAGES),
    "status", "error", "true_probability", "flagged", "handled",
    "unpurified_top_index", "unpurified_true_probability", "finished", "bundle",
}  # fmt: skip
Floats = NDArray[np.float64]  # NaN: unknown
Classes = NDArray[np.int64]  # -1: unknown


class Histogram:
    """Values from 0 up, counted in bins that are one percent wide; sum and largest value are exact."""

    LOWEST, HIGHEST, PER_E = 1e-3, 1e9, 100

    def __init__(self) -> None:
        self._bins = np.zeros(math.ceil(math.log(self.HIGHEST / self.LOWEST) * self.PER_E) + 1, np.int64)
        self.n, self.sum, self.largest = 0, 0.0, 0.0

    def add(self, values: Floats) -> None:
        """NaN does not count."""
        known = values[~np.isnan(values)]
        if not len(known):
            return
        scaled = np.log(np.clip(known, self.LOWEST, self.HIGHEST) / self.LOWEST) * self.PER_E
        # the first bin: everything from 0 up to `LOWEST`
        self._bins += np.bincount(np.ceil(scaled).astype(np.int64), minlength=len(self._bins))[: len(self._bins)]
        self.n += len(known)
        self.sum += float(known.sum())
        self.largest = max(self.largest, float(known.max()))

    def percentile(self, p: float) -> float:
        """To one percent of its value."""
        place = int(np.searchsorted(self._bins.cumsum(), p / 100 * max(0, self.n - 1), side="right"))
        return min(self.largest, float(self._middles()[place]))

    def percentiles(self) -> dict[int, float]:
        return {p: self.percentile(p) for p in PERCENTILES}

    def rebinned(self, edges: Floats) -> Floats:
        """Counts between these edges."""
        return np.histogram(self._middles(), edges, weights=self._bins)[0]

    def _middles(self) -> Floats:
        places = np.arange(len(self._bins))
        return np.where(places == 0, 0.0, self.LOWEST * np.exp((places - 0.5) / self.PER_E))


@dataclass(frozen=True)
class Stretch:
    """Work without a pause."""

    begin: float  # seconds since 1970: when the first input of it was finished
    end: float
    edges: Floats  # [k + 1], seconds since 1970
    rates: Floats  # [k], inputs/s between them; what was finished at `begin` itself does not count


class Timeline:
    """How many inputs were finished when. Moments grow coarser as there come to be too many."""

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
        """The work between pauses, each stretch in bins of one length; `points` in all, and at least one a stretch.

        A batch's inputs are taken to have been finished evenly since the batch before: what is counted in bins is no
        row of spikes.
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
        """From how many seconds without a finished input on there was a pause."""
        gaps = np.diff(np.array(sorted(self._counts), np.float64)) * self._width
        return max(SHORTEST_PAUSE_S, 8 * float(np.median(gaps))) if len(gaps) else SHORTEST_PAUSE_S


@dataclass
class Mean:
    """Of probabilities."""

    n: int = 0
    sum: float = 0.0

    def add(self, values: Floats) -> None:
        known = values[~np.isnan(values)]
        self.n += len(known)
        self.sum += float(known.sum())

    @property
    def value(self) -> float | None:
        return self.sum / self.n if self.n else None


@dataclass
class Outcome:
    """What the classifier says of one kind of image, purified or not."""

    classified: int = 0
    labelled: int = 0
    right: int = 0
    ranked: int = 0  # labelled ones with five classes in their row
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
        """`kind`: "" or "unpurified_". Returns the predictions."""
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


@dataclass
class Tally:
    """Everything that the report says of rows."""

    rows: int = 0
    rows_of_shard: dict[int, int] = field(default_factory=dict)  # how many are there
    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by status, the first few
    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    timeline: Timeline = field(default_factory=Timeline)
    flagged: Counter[bool] = field(default_factory=Counter)  # by a gate
    handled: Counter[str] = field(default_factory=Counter)
    change: Histogram = field(default_factory=Histogram)
    most_changed: list[tuple[float, int, int, dict[str, Any]]] = field(default_factory=list)  # change, shard, position
    purified: Outcome = field(default_factory=Outcome)
    unpurified: Outcome = field(default_factory=Outcome)
    compared: int = 0  # classified both ways
    differing: int = 0  # of these: another prediction
    of_class: Counter[int] = field(default_factory=Counter)  # labelled ones
    mistakes: Counter[tuple[int, int]] = field(default_factory=Counter)  # by true and predicted class
    names: dict[int, str] = field(default_factory=dict)  # of classes that occurred
    bundles: Counter[str] = field(default_factory=Counter)

    def add(self, shard: int, table: Mapping[str, Any]) -> None:
        """The rows of one shard, as Arrow columns by name."""
        status = table["status"].to_pylist()
        self.rows += len(status)
        self.rows_of_shard[shard] = len(status)
        self.statuses.update(status)
        self.bundles.update(sha256 for sha256 in table["bundle"].to_pylist() if sha256)
        self.timeline.add(_floats(table["finished"]))
        for stage, histogram in self.stages.items():
            histogram.add(_floats(table[f"{stage}_ms"]))
        if "flagged" in table:  # not in rows of earlier versions
            self.flagged.update(flag for flag in table["flagged"].to_pylist() if flag is not None)
            self.handled.update(what for what in table["handled"].to_pylist() if what is not None)
        self._add_failures(status, table)
        self._add_changes(shard, table)
        self._add_predictions(table)

    def _add_failures(self, status: list[str], table: Mapping[str, Any]) -> None:
        for i, name in enumerate(status):
            if name != "ok" and len(known := self.failures.setdefault(name, [])) < FAILURES:
                known.append({"path": table["path"][i].as_py(), "error": table["error"][i].as_py()})

    def _add_changes(self, shard: int, table: Mapping[str, Any]) -> None:
        if "mean_change" not in table:  # not in rows of earlier versions
            return
        changes = _floats(table["mean_change"])
        self.change.add(changes)
        known = np.flatnonzero(~np.isnan(changes))
        for i in known[np.argsort(-changes[known], kind="stable")][:MOST_CHANGED].tolist():
            row = {name: table[name][i].as_py() for name in _SHOWN if name in table}
            # ties: the earlier one counts more
            entry = (changes[i], -shard, -row.get("position", i), row)
            if len(self.most_changed) < MOST_CHANGED:
                heapq.heappush(self.most_changed, entry)
            elif entry[:3] > self.most_changed[0][:3]:
                heapq.heapreplace(self.most_changed, entry)

    def _add_predictions(self, table: Mapping[str, Any]) -> None:
        true = np.nan_to_num(_floats(table["true_index"]), nan=-1).astype(np.int64)
        predicted = self.purified.add(table, "", true)
        unpurified = self.unpurified.add(table, "unpurified_", true)
        both = (predicted >= 0) & (unpurified >= 0)
        self.compared += int(both.sum())
        self.differing += int((both & (predicted != unpurified)).sum())
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
        """The classes with most errors: index, what was right, and the three that they were mistaken for most."""
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


def tally(folder: Path, shards: int) -> Tally:
    """Sum up the rows of a run that is finished, under way or stopped."""
    found = Tally()
    for shard, table in _tables(folder, shards):
        found.add(shard, table)
    return found


def _tables(folder: Path, shards: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each shard's rows that are there, one shard at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in range(shards):
        part, kept = rows_of(folder, shard)
        for file in (part, kept, part):  # what was kept vanishes as its shard is finished
            try:
                with pq.ParquetFile(file) as parquet:
                    table = parquet.read([name for name in parquet.schema_arrow.names if name in _NEEDED])
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError) as error:
                raise ConfigError(
                    f"{file} cannot be read: {error}.", hint="remove it, and run will make it again"
                ) from None
            yield shard, {name: table[name].combine_chunks() for name in table.column_names}
            break


def _floats(column: Any) -> Floats:
    found: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _lists(column: Any) -> tuple[NDArray[Any], Classes]:
    """All lists' values one after the other, and each list's length."""
    import pyarrow.compute as pc

    lengths: Classes = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), lengths


def _firsts(lengths: Classes) -> Classes:
    found: Classes = np.cumsum(lengths) - lengths
    return found


def _counted(classes: Sequence[int] | Classes) -> dict[int, int]:
    values, counts = np.unique(classes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
