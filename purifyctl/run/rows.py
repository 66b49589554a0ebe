"""One row for each input: what became of it. Rows are written as Parquet parts, and as CSV or JSON lines on request."""

from __future__ import annotations  # keeps Row's types as text, which `parquet.write_part` reads

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from purifyctl.config.picture_options import DecoderName
from purifyctl.errors import Status
from purifyctl.visible import visible_cell

Handled = Literal["purified", "copied", "linked", "left"]  # the last three: what became of a file that was not flagged
NOT_FAILED = frozenset(
    {"ok"}
)  # statuses of inputs that need nobody's attention; the exit code is 3 if there are others
Time = float  # 64 bits in Parquet: 32 are too few for seconds since 1970


@dataclass
class Row:
    """What became of one input. Missing values are None. Durations in ms, sizes in pixels, probabilities in [0, 1],
    grey levels in [0, 255].

    The images of a batch share its time: `*_ms` of decode, gate, purify and classify are the batch's time divided by
    its number of images (amortised), and `*_batch_ms` is the time of the whole batch. If one engine both purifies and
    classifies, the time of purifying includes that of classifying. With a gate, an image is purified and classified in
    another batch than it was decoded in. With --size original, images are decoded one by one, and `purify_ms` is the
    sum over the image's squares; `decode_batch_ms`, `purify_batch_ms` and `batch_size` are missing.
    """

    path: str  # relative to the source; bytes that are not UTF-8 are written as \\xNN
    status: Status = "ok"  # "ok", or why there is no image
    error: str | None = None  # the reason in words
    height: int | None = None  # of the input, after it was turned as EXIF says
    width: int | None = None  # of the input, after the same turn
    decoder: DecoderName | None = None  # which library read it
    damaged: str | None = None  # with --damaged keep: what is wrong with its data
    profile: str | None = None  # name of the colour profile that its colours were converted from, to sRGB
    first_frame: bool | None = None  # it holds several frames or pages, and this is the first
    purified_height: int | None = None  # of the purified image: the engine's size, or with --size original its own
    purified_width: int | None = None  # of the same
    tiles: int | None = None  # with --size original: how many squares of the engine it was purified in
    output: str | None = None  # relative to the run folder
    true_index: int | None = None  # from the folder's name
    true_label: str | None = None  # the name of that class
    top_index: list[int] = field(default_factory=list)  # most probable first; of the purified or passed-on image
    top_label: list[str] = field(default_factory=list)  # names of these classes
    top_probability: list[float] = field(default_factory=list)  # softmax of these classes
    true_probability: float | None = None  # softmax of the true class
    unpurified_top_index: list[int] = field(default_factory=list)  # with --compare: the same for the unpurified image
    unpurified_top_label: list[str] = field(default_factory=list)  # names of these classes
    unpurified_top_probability: list[float] = field(default_factory=list)  # softmax of these classes
    unpurified_true_probability: float | None = None  # softmax of the true class, for the unpurified image
    gate_score: float | None = None  # how likely it is that the input was attacked, if half of all inputs were
    flagged: bool | None = None  # whether the gate score is at or above the threshold
    handled: Handled | None = None  # "purified"; with --gate also "copied", "linked" or "left", if it was not flagged
    divergence: float | None = None  # with --compare: Jensen-Shannon, in bits, between predictions before and after
    mean_change: float | None = None  # mean |purified - input| over all values, in grey levels, at the purified size
    batch: int | None = None  # number of its batch in the plan
    batch_size: int | None = None  # how many images of its batch could be decoded
    read_ms: float | None = None  # this file, from disk or over a network
    decode_ms: float | None = None  # amortised; includes resizing
    gate_ms: float | None = None  # amortised
    purify_ms: float | None = None  # amortised
    classify_ms: float | None = None  # amortised; of the purified image
    encode_ms: float | None = None  # this image
    write_ms: float | None = None  # this file
    decode_batch_ms: float | None = None  # the whole batch
    purify_batch_ms: float | None = None  # the whole batch
    classify_batch_ms: float | None = None  # the whole batch
    finished: Time | None = None  # seconds since 1970
    bundle: str | None = None  # SHA-256 of the engine bundle's manifest


@dataclass
class KeptRow(Row):
    """A row of a part that is not finished."""

    position: int = 0  # within its part


COLUMNS = tuple(f.name for f in fields(Row))


def read_rows(part: Path) -> list[dict[str, Any]]:
    """The rows of one Parquet part, as plain data."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(part, partitioning=None).to_pylist()
    return rows


def write_text(parts: Iterable[Path], file: Path) -> None:
    """Write the rows of these parts as CSV or JSON lines, as `file`'s ending says.

    Lists in CSV are written as JSON, and texts so that neither a spreadsheet nor a terminal obeys them.
    """
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
        for part in parts:
            for whole in read_rows(part):
                row = {name: whole[name] for name in COLUMNS}
                if file.suffix == ".csv":
                    cells = ((k, json.dumps(v) if isinstance(v, list) else v) for k, v in row.items())
                    writer.writerow({k: visible_cell(v) for k, v in cells})
                else:
                    stream.write(json.dumps(row) + "\n")
    temporary.replace(file)
