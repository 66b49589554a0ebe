"""What a run will do: every input, in parts. The first call plans; a later one plans what has been added to the source.

plan.parquet          the inputs that the first call found, in order
plan-00001.parquet    those that a later call found in addition, and so on: their parts follow those of the files before
"""

import functools
import heapq
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from purifyctl.errors import ConfigError, Status
from purifyctl.images.names import Naming, name_outputs
from purifyctl.images.sink import IMAGES
from purifyctl.run.archives import archive_name
from purifyctl.run.listed import Listed
from purifyctl.sources import Found, ImageFile
from purifyctl.sources.choice import described
from purifyctl.truth import PlannedTruth

PART_SIZE = 1000  # inputs, about: a part has whole batches
_ABOUT = b"purifyctl"  # key of what a plan's file says besides its rows


@dataclass(frozen=True)
class Input:
    """One input of the plan."""

    image: ImageFile
    output: PurePosixPath  # relative to the run folder
    true_index: int | None

    @property
    def passed_on(self) -> PurePosixPath:
        """Where the unchanged file goes. It keeps its name, which no output has except perhaps that of this input."""
        same = self.output.suffix == self.image.path.suffix
        return self.output if same else IMAGES / self.image.path


@dataclass(frozen=True)
class Part:
    """The inputs that are committed together."""

    number: int
    inputs: Sequence[Input]


def write_plan(
    file: Path,
    found: Iterable[Found],
    *,
    naming: Naming,
    truth: PlannedTruth,
    batch_size: int,
    archives: bool = False,
    earlier: "Plan | None" = None,
    about: Callable[[], Any] = dict,
) -> Listed:
    """Stream inputs into a plan: one row for each input, one row group for each part. It appears whole, or not at all.

    Parameters
    ----------
    found
        In the order of their paths.
    archives
        The outputs of each part go into an archive.
    earlier
        Only inputs that are not in this plan are written, and their parts are numbered after its parts. If there are
        none, no file appears.
    about
        Plain data that the file keeps; it is asked for when `found` is at its end.

    Raises
    ------
    ConfigError
        There are no inputs, and no earlier plan.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = Listed(is_first=earlier is None)
    size = max(1, PART_SIZE // batch_size) * batch_size
    planned = earlier.by_path(archives=archives) if earlier else iter(())
    one, two = itertools.tee(_compared(planned, found, listed))
    outputs = name_outputs(((path, known.output if known else None) for path, known, _ in two), naming)
    new = ((f, output) for (_, known, f), output in zip(one, outputs, strict=True) if f and not known)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    schema = _schema()
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for number, group in enumerate(_cut(new, size), earlier.parts if earlier else 0):
                listed.added += len(group)
                for f, _ in group if naming.keep else ():
                    if not naming.keeps(f.path):
                        listed.count_unwritable(f.path)
                inside = archive_name(number).encode() + b"/" if archives else b""
                rows = [(*f, inside + output, truth.of(f.path)) for f, output in group]
                columns = zip(*rows, strict=True)
                arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
                writer.write_table(pa.table(arrays, schema=schema))
            writer.add_key_value_metadata({_ABOUT: json.dumps(about()).encode()})
        if listed.added:
            temporary.replace(file)
        elif earlier is None:
            said = described(about().get("left_out", {}))
            raise ConfigError(
                f"The source holds no pictures{f' to take. Left out: {said}' if said else ''}.", hint="check SRC"
            )
    finally:
        temporary.unlink(missing_ok=True)
    return listed


class _Planned(NamedTuple):
    """An input of a plan, as far as a listing is compared with it."""

    path: bytes
    start: int
    length: int | None
    stamp: str
    output: bytes  # relative to the images folder, or to its archive


def _compared(
    planned: Iterator[_Planned], found: Iterable[Found], listed: Listed
) -> Iterator[tuple[bytes, _Planned | None, Found | None]]:
    """All inputs of both, in order. Counts what has changed and what is gone."""
    coming = iter(found)
    known, there = next(planned, None), next(coming, None)
    while known or there:
        if known is None or (there is not None and there.path < known.path):
            assert there is not None
            yield there.path, None, there
            there = next(coming, None)
        elif there is None or known.path < there.path:
            listed.count_gone(known.path)
            yield known.path, known, None
            known = next(planned, None)
        else:
            moved = (known.start, known.length) != (there.start, there.length)
            if moved or (known.stamp and there.stamp and known.stamp != there.stamp):
                listed.count_changed(known.path)
            yield known.path, known, there
            known, there = next(planned, None), next(coming, None)


def _cut(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(itertools.islice(rows, size)):
        yield group


def plan_files(file: Path) -> list[Path]:
    """The files of a plan, in order; and the name of the one that would extend it, as the last."""
    names = (file.with_name(f"{file.stem}-{number:05d}{file.suffix}") for number in itertools.count(1))
    files = [file]
    while files[-1].exists():
        files.append(next(names))
    return files


class Plan:
    """A plan on disk. What is added to it later is only seen by a `Plan` that is opened later."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        *self.files, self.extension = plan_files(file)
        try:
            self._parquet = [pq.ParquetFile(each) for each in self.files or [file]]
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The plan {file} cannot be read: {error}.", hint="pass --on-existing overwrite"
            ) from None
        self._lock = threading.Lock()  # pyarrow's files are for one thread at a time
        self._groups = [(each, n) for each in self._parquet for n in range(each.metadata.num_row_groups)]
        self.inputs: int = sum(each.metadata.num_rows for each in self._parquet)
        self.parts: int = len(self._groups)

    def size(self, part: int) -> int:
        """How many inputs a part has."""
        parquet, group = self._groups[part]
        return int(parquet.metadata.row_group(group).num_rows)

    def part(self, number: int) -> Part:
        """Read one part's inputs."""
        no_truth = {"true_index": None} if self.truth and self.truth["from"] == "none" else {}
        return Part(number, [_input(**row | no_truth) for row in self.rows(number)])

    def rows(self, number: int) -> list[dict[str, Any]]:
        """One part's inputs as they are written."""
        parquet, group = self._groups[number]
        with self._lock:
            rows: list[dict[str, Any]] = parquet.read_row_group(group).to_pylist()
        return rows

    def by_path(self, *, archives: bool) -> Iterator[_Planned]:
        """All inputs in the order of their paths. Each file of the plan is in order."""
        ends = itertools.accumulate(each.metadata.num_row_groups for each in self._parquet)
        spans = [range(end - each.metadata.num_row_groups, end) for each, end in zip(self._parquet, ends, strict=True)]
        return heapq.merge(*(self._planned(span, archives) for span in spans))

    def _planned(self, parts: range, archives: bool) -> Iterator[_Planned]:
        for number in parts:
            for row in self.rows(number):
                output = row["output"].partition(b"/")[2] if archives else row["output"]
                yield _Planned(row["path"], row["start"], row["length"], row.get("stamp", ""), output)

    def is_same(self, other: "Plan") -> bool:
        """Whether another plan has the same inputs in the same parts. When files were changed does not matter."""
        if self.parts != other.parts:
            return False
        return all(
            [one | {"stamp": ""} for one in self.rows(number)] == [one | {"stamp": ""} for one in other.rows(number)]
            for number in range(self.parts)
        )

    @functools.cached_property
    def truth(self) -> dict[str, Any] | None:
        """Where true classes come from (`from`), of how many inputs they are known (`labelled`), and of how many
        `inputs`. The plan's first file decides where from. None: version 0.1.0 planned.
        """
        kept = [json.loads((each.metadata.metadata or {}).get(_ABOUT, b"{}")).get("truth") for each in self._parquet]
        said = [facts for facts in kept if facts]
        if not said or not kept[0]:
            return None
        return {"from": kept[0]["from"], **{key: sum(facts[key] for facts in said) for key in ("labelled", "inputs")}}

    def about(self) -> Any:
        """What the last file of the plan says besides its inputs."""
        kept = self._parquet[-1].metadata.metadata or {}
        return json.loads(kept.get(_ABOUT, b"{}"))


def _input(
    *,
    path: bytes,
    file: bytes,
    start: int,
    length: int | None,
    problem: str,
    output: bytes,
    true_index: int | None,
    status: Status = "unreadable",
    stamp: str = "",
) -> Input:
    image = Found(path, file, start, length, problem, status, stamp).as_image()
    return Input(image, IMAGES / PurePosixPath(os.fsdecode(output)), true_index)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("path", pa.binary()),
            ("file", pa.binary()),
            ("start", pa.int64()),
            ("length", pa.int64()),
            ("problem", pa.string()),
            ("status", pa.string()),  # of its row, if there is a problem; version 0.1.0 had none
            ("stamp", pa.string()),  # version 0.1.0 had none
            ("output", pa.binary()),
            ("true_index", pa.int32()),
        ]
    )
