"""A run on disk: what was asked for, what is to be done, what is done.

run.json                what was asked for; marks the folder as ours
plan.parquet            every input, in shards
rows/part-00042.parquet the rows of a finished shard
rows/kept-00042.parquet those of one that was stopped in its midst
images/...              the purified tree
summary.json            what the rows say; of several calls that share a run: summaries/0-of-4.json
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from purifyctl import console
from purifyctl.config import differences
from purifyctl.errors import ConfigError, OutputError
from purifyctl.files import write_json
from purifyctl.images.sink import IMAGES, check_apart, prepare_output
from purifyctl.parquet import write_part
from purifyctl.pipeline.plan import PLAN, Plan
from purifyctl.pipeline.rows import KeptRow, Row, read_rows

OnExisting = Literal["resume", "overwrite", "error"]

ROWS, SETTINGS, SUMMARY, SUMMARIES = "rows", "run.json", "summary.json", "summaries"
MAKES = (ROWS, PLAN, SUMMARY, SUMMARIES, "rows.csv", "rows.jsonl")


class RunFolder:
    """The folder of a run, held by one call: another that asks for the same share of it is refused meanwhile.

    Parameters
    ----------
    source
        Must not be what the run writes into.
    share
        Which of several calls, on one machine or many, this one is: (i, n).
    """

    def __init__(self, source: Path, path: Path, share: tuple[int, int]) -> None:
        check_apart(source, path)
        self.path, self._source = path, source
        self._rows = path / ROWS
        self._share = "{}-of-{}".format(*share)
        self._shared = share[1] > 1
        # images that are being written; beside the others, so that they lie on the same file system
        self.partial = path / IMAGES / f".{self._share}.partial"
        self._locks = (f".{self._share}.lock", ".plan.lock")
        self._held = ExitStack()
        self._began = False

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written to: {error.strerror}.", hint="check --out") from None
        self._held.enter_context(_locked(self.path / self._locks[0]))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.partial.parent.rmdir()  # no image was written
        if not (self.path / PLAN).exists():  # nothing was begun: leave no trace
            for name in (*self._locks, *((SETTINGS,) if self._began else ())):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there is something else
                if self._began:
                    self._rows.rmdir()
                self.path.rmdir()
        self._held.close()

    def begin_or_resume(
        self,
        settings: Mapping[str, Any],
        on_existing: OnExisting,
        make_plan: Callable[[Path], None],
    ) -> Plan:
        """Make a new run, or see that an earlier one was asked for the same.

        Parameters
        ----------
        make_plan
            Writes the plan to a file, unless there is one.

        Raises
        ------
        ConfigError
            The folder holds a run of something else (the message names the differences), or nothing of ours.
        """
        file = self.path / PLAN
        with _locked(self.path / self._locks[1], wait=True):  # the first of several calls plans for all
            if on_existing == "resume" and file.is_file():
                check_same(self.path, settings)
            else:
                if self._shared and on_existing == "overwrite":
                    raise ConfigError(
                        "Calls that share a run would overwrite each other's results.", hint=f"remove {self.path} first"
                    )
                never_began = (self.path / SETTINGS).is_file() and not file.is_file()
                overwrite = on_existing == "overwrite" or never_began
                prepare_output(
                    self._source, self.path, makes=MAKES, marker=SETTINGS, settings=settings, overwrite=overwrite
                )
                self._began = True
                self._rows.mkdir()
                make_plan(file)
        return Plan(file)

    def clean(self, shards: Iterable[int]) -> None:
        """Remove what a killed call left, and make the folder for images that are being written."""
        for number in self.committed(shards):
            (self._rows / _kept(number)).unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)

    def committed(self, shards: Iterable[int]) -> dict[int, Path]:
        """The parts of those of these shards that are finished."""
        there = parts_of(self.path)
        return {number: there[number] for number in shards if number in there}

    def kept(self, shards: Iterable[int]) -> dict[int, Path]:
        """The rows of those of these shards that were stopped in their midst, and are not finished since."""
        there, finished = set(self._rows.glob("kept-*.parquet")), parts_of(self.path)
        return {n: file for n in shards if n not in finished and (file := self._rows / _kept(n)) in there}

    def commit(self, shard: int, rows: Mapping[int, Row]) -> None:
        """Write a finished shard's rows, given by position: from now on it is done."""
        _write([rows[position] for position in sorted(rows)], Row, self._rows / _part(shard))
        (self._rows / _kept(shard)).unlink(missing_ok=True)

    def keep(self, shard: int, rows: Mapping[int, Row]) -> None:
        """Write the rows of a shard that is not finished, for the next call."""
        kept = [KeptRow(**vars(row), position=position) for position, row in sorted(rows.items())]
        _write(kept, KeptRow, self._rows / _kept(shard))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        file = self.path / SUMMARIES / f"{self._share}.json" if self._shared else self.path / SUMMARY
        file.parent.mkdir(exist_ok=True)
        write_json(file, summary)


def check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError where a run was asked for something else; the message names the differences."""
    asked = json.loads(json.dumps(settings))  # as it reads back
    if changed := list(differences(read_settings(folder), asked)):
        raise ConfigError(
            f"{folder} holds a run of something else: {'; '.join(changed)}.",
            hint="choose another --out, ask for the same as then, or pass --on-existing overwrite",
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """What a run was asked for. Raises ConfigError where there is none."""
    file = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no run.", hint="name the --out of a run") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.", hint="choose another --out") from None
    return settings


def parts_of(folder: Path) -> dict[int, Path]:
    """The parts of all finished shards, by shard."""
    return {int(part.stem.removeprefix("part-")): part for part in (folder / ROWS).glob("part-*.parquet")}


def read_kept(file: Path) -> dict[int, Row]:
    """Rows by position."""
    return {row.pop("position"): Row(**row) for row in read_rows(file)}


def _part(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def _kept(shard: int) -> str:
    return f"kept-{shard:05d}.parquet"


def _write(rows: list[Any], row_type: type, file: Path) -> None:
    try:
        write_part(rows, row_type, file)
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written: {error.strerror or error}.", hint="make room, and give the same command again"
        ) from None


@contextmanager
def _locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that ends with the process, whatever it dies of."""
    try:
        stream = file.open("w")
    except OSError as error:
        raise ConfigError(f"{file.parent} cannot be written to: {error.strerror}.", hint="check --out") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigError(
                f"Another call is at work on {file.parent}.", hint="wait for it, or choose another --out"
            ) from None
        except OSError as error:
            console.warn(f"{file.parent} knows no locks ({error.strerror}): see that no two calls do the same work.")
        yield
