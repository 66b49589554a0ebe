"""Rows as Parquet parts. A rename makes a part visible, so a reader finds a whole part or none."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_part(rows: Sequence[Any], row_type: type, file: Path) -> None:
    """Write rows, instances of the dataclass `row_type`, as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f.name for f in dataclasses.fields(row_type)]
    table = pa.table({name: [getattr(row, name) for row in rows] for name in names}, schema=schema(row_type))
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(file)


def read_columns(parts: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """The named columns of all Parquet parts in the folder `parts`, in order. `parts` can also be one part."""
    import pyarrow.parquet as pq

    found: dict[str, list[Any]] = {name: [] for name in columns}
    for part in sorted(parts.glob("part-*.parquet")) if parts.is_dir() else [parts]:
        table = pq.read_table(part, columns=list(columns), partitioning=None)  # leaves out what is not there
        for name in columns:  # an older version may have written the part, before there was such a column
            found[name] += table[name].to_pylist() if name in table.column_names else [None] * len(table)
    return found


def schema(row_type: type) -> Any:
    """The fields of a dataclass as Arrow types. Its annotations must be text: `from __future__ import annotations`."""
    import pyarrow as pa

    types = {
        "str": pa.string(),
        "Status": pa.string(),
        "str | None": pa.string(),
        "Handled | None": pa.string(),
        "DecoderName | None": pa.string(),
        "int": pa.int32(),
        "bool": pa.bool_(),
        "bool | None": pa.bool_(),
        "int | None": pa.int32(),
        "float | None": pa.float32(),
        "Time | None": pa.float64(),
        "list[int]": pa.list_(pa.int32()),
        "list[str]": pa.list_(pa.string()),
        "list[float]": pa.list_(pa.float32()),
    }
    return pa.schema([(f.name, types[str(f.type)]) for f in dataclasses.fields(row_type)])
