"""One row per input: what became of it. Written as Parquet parts, and as CSV or JSON lines on request."""

from __future__ import annotations  # keeps Row's types as text, which `parquet.write_part` reads

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from purifyctl.errors import Status
from purifyctl.parquet import read_columns


@dataclass
class Row:
    """What became of one input. Missing values are None. Durations in ms, sizes in pixels, probabilities in [0, 1].

    A batch shares its time: `*_ms` of decode, purify and classify are the batch's time divided by its images
    (amortised), and `*_batch_ms` is the batch's own. Where one engine does both, purifying holds the classifier's time.
    """

    path: str  # relative to the source; bytes that are no UTF-8 are written as \\xNN
    status: Status = "ok"
    error: str | None = None
    height: int | None = None  # of the input, after EXIF rotation
    width: int | None = None
    output: str | None = None  # relative to the run folder
    true_index: int | None = None  # from the folder's name
    true_label: str | None = None
    top_index: list[int] = field(default_factory=list)  # of the purified image, most probable first
    top_label: list[str] = field(default_factory=list)
    top_probability: list[float] = field(default_factory=list)
    true_probability: float | None = None
    unpurified_top_index: list[int] = field(default_factory=list)
    unpurified_top_label: list[str] = field(default_factory=list)
    unpurified_top_probability: list[float] = field(default_factory=list)
    unpurified_true_probability: float | None = None
    batch: int | None = None
    batch_size: int | None = None  # images of the batch that could be decoded
    read_ms: float | None = None
    decode_ms: float | None = None
    purify_ms: float | None = None
    classify_ms: float | None = None
    encode_ms: float | None = None
    write_ms: float | None = None
    decode_batch_ms: float | None = None
    purify_batch_ms: float | None = None
    classify_batch_ms: float | None = None
    bundle: str | None = None  # SHA-256 of the engine bundle's manifest


COLUMNS = tuple(f.name for f in fields(Row))


def write_text(folder: Path, file: Path) -> None:
    """Write the rows of all parts as CSV or JSON lines, by `file`'s ending. Lists in CSV are JSON."""
    temporary = file.with_name(f".{file.name}.part")
    columns = read_columns(folder, COLUMNS)
    rows = zip(*columns.values(), strict=True)
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows([json.dumps(v) if isinstance(v, list) else v for v in row] for row in rows)
        else:
            stream.writelines(_json_lines(rows))
    temporary.replace(file)


def _json_lines(rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    for row in rows:
        yield json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n"
