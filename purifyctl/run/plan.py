"""What a run will do: every input, in order, cut into parts. The first call writes it, others read it."""

import functools
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from purifyctl.config.formats import ImageFormat
from purifyctl.errors import ConfigError
from purifyctl.images.sink import IMAGES, name_outputs
from purifyctl.labels import TruthFromFolder
from purifyctl.run.archives import archive_name
from purifyctl.sources import Found, ImageFile

PLAN = "plan.parquet"
PART_SIZE = 1000  # inputs, about: a part has whole batches


@dataclass(frozen=True)
class Input:
    """One input of the plan."""

    image: ImageFile
    output: PurePosixPath  # relative to the run folder
    true_index: int | None


@dataclass(frozen=True)
class Part:
    """The inputs that are committed together."""

    number: int
    inputs: Sequence[Input]


def write_plan(
    file: Path,
    found: Iterable[Found],
    *,
    image_format: ImageFormat,
    truth: TruthFromFolder,
    batch_size: int,
    archives: bool = False,
) -> None:
    """Stream inputs into a plan: one row for each input, one row group for each part. It appears whole, or not at all.

    Parameters
    ----------
    archives
        The outputs of each part go into an archive.

    Raises
    ------
    ConfigError
        There are no inputs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    true_index = functools.lru_cache(maxsize=1024)(lambda folder: truth(PurePosixPath(os.fsdecode(folder), "image")))
    one, two = itertools.tee(found)
    size = max(1, PART_SIZE // batch_size) * batch_size
    outputs = name_outputs((f.path for f in two), image_format)
    if archives:
        outputs = (b"%s/%s" % (archive_name(i // size).encode(), output) for i, output in enumerate(outputs))
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    schema = _schema()
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            rows = (
                (*f, output, true_index(f.path.rpartition(b"/")[0])) for f, output in zip(one, outputs, strict=True)
            )
            n = 0
            for group in _cut(rows, size):
                n += len(group)
                columns = zip(*group, strict=True)
                arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
                writer.write_table(pa.table(arrays, schema=schema))
        if not n:
            raise ConfigError("The source holds no files, or --include and --exclude leave none.", hint="check SRC")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _cut(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(itertools.islice(rows, size)):
        yield group


class Plan:
    """A plan on disk."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        try:
            self._parquet = pq.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The plan {file} cannot be read: {error}.", hint="pass --on-existing overwrite"
            ) from None
        self._lock = threading.Lock()  # pyarrow's files are for one thread at a time
        self.inputs: int = self._parquet.metadata.num_rows
        self.parts: int = self._parquet.metadata.num_row_groups

    def size(self, part: int) -> int:
        """How many inputs a part has."""
        return int(self._parquet.metadata.row_group(part).num_rows)

    def part(self, number: int) -> Part:
        """Read one part's inputs."""
        with self._lock:
            columns = self._parquet.read_row_group(number).to_pydict()
        return Part(number, [_input(*row) for row in zip(*columns.values(), strict=True)])


def _input(
    path: bytes, file: bytes, start: int, length: int | None, problem: str, output: bytes, true: int | None
) -> Input:
    image = Found(path, file, start, length, problem).as_image()
    return Input(image, IMAGES / PurePosixPath(os.fsdecode(output)), true)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("path", pa.binary()),
            ("file", pa.binary()),
            ("start", pa.int64()),
            ("length", pa.int64()),
            ("problem", pa.string()),
            ("output", pa.binary()),
            ("true_index", pa.int32()),
        ]
    )
