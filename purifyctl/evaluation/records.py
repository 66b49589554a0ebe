"""One row per image, rung and defence: what the classifier said. Committed in Parquet parts, one per chunk."""

from __future__ import annotations  # keeps Outcome's types as text, which `parquet.write_part` reads

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.parquet import read_columns, write_part

SURROGATE = "surrogate "  # prefix of `defence` in rows with a surrogate's predictions on the clean images


@dataclass
class Outcome:
    """What became of one image on one rung, behind one defence. Missing values are None."""

    path: str  # relative to the photographs' folder
    defence: str  # what stood before the classifier: "no defence", "purifier", "JPEG-75", ...
    error: str | None = None  # the photograph could not be read; it has one such row, on the clean rung
    true_index: int | None = None  # the label that counts, and that attacks move away from
    prediction: int | None = None  # the prediction on the attacked image in whole grey levels, behind the defence
    true_confidence: float | None = None  # softmax of `true_index`
    top1_confidence: float | None = None  # softmax of `prediction`
    float_prediction: int | None = None  # the prediction on the attacked image before it was rounded to grey levels
    attacked: bool | None = None  # False: already wrong without an attack, so it counts as wrong and is not attacked
    flags: str | None = None  # warnings of the attack's library
    max_delta: float | None = None  # the largest change of any value by the attack, in [0, 1]
    gate_score: float | None = None  # how likely the image before the defence was attacked; gated defences only
    psnr: float | None = None  # dB, the defence's output against the clean image; networks only
    ssim: float | None = None  # the defence's output against the clean image; networks only
    differs: bool | None = None  # clean rung: two passes disagree
    probabilities: bool | None = None  # clean rung: the outputs look like a softmax
    zero_gradient: bool | None = None  # clean rung: no gradient reaches the image through the defence


COLUMNS = tuple(f.name for f in fields(Outcome))
Table = dict[str, NDArray[Any]]  # column -> [n]; missing numbers are NaN
Tables = Mapping[str, Mapping[str, Table]]  # by rung key and defence


def part_file(folder: Path, rung_key: str, chunk: int) -> Path:
    """Where the rows of one chunk on one rung go."""
    return folder / rung_key / f"part-{chunk:05d}.parquet"


def write_records(rows: Sequence[Outcome], file: Path) -> None:
    """Commit a chunk's rows, by one rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_part(rows, Outcome, file)


def read_tables(folder: Path, rung_key: str) -> dict[str, Table]:
    """The rows of one rung, by defence. Photographs that could not be read are left out: `unreadable` names them."""
    columns = read_columns(folder / rung_key, COLUMNS)
    arrays = {name: _array(columns[name]) for name in COLUMNS}
    pairs = zip(columns["defence"], columns["error"], strict=True)
    owners = np.array([None if error else defence for defence, error in pairs], dtype=object)
    defences = dict.fromkeys(owner for owner in owners if owner is not None)
    return {defence: {name: array[owners == defence] for name, array in arrays.items()} for defence in defences}


def of_paths(table: Table, paths: Iterable[str]) -> Table:
    """The rows of these photographs, in their order."""
    place = {path: i for i, path in enumerate(table["path"])}
    chosen = [place[path] for path in paths]
    return {name: values[chosen] for name, values in table.items()}


def unreadable(parts: Path) -> dict[str, str]:
    """Why photographs could not be read, by path. `parts`: the clean rung's folder, or one part in it."""
    columns = read_columns(parts, ("path", "error"))
    return {path: error for path, error in zip(columns["path"], columns["error"], strict=True) if error}


def _array(values: Sequence[Any]) -> NDArray[Any]:
    """Text and flags as objects; numbers as floats, in which class indexes are exact and None is NaN."""
    if any(isinstance(value, str | bool) for value in values):
        return np.array(values, dtype=object)
    return np.array(values, dtype=np.float64)
