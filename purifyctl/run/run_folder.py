"""A run on disk: what was asked for, what is to be done, what is done.

run.json                what was asked for; marks the folder as ours
plan.parquet            every input, in shards
rows/part-00042.parquet the rows of a finished shard
rows/kept-00042.parquet those of one that was stopped in its midst
images/...              the purified tree
summary.json            what the rows say; of several calls that share a run: summaries/0-of-4.json
report.html             the same for people, once somebody asked for it
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from purifyctl import console, settings
from purifyctl.config.run import OnExisting
from purifyctl.errors import BusyError, ConfigError, OutputError
from purifyctl.files import write_json
from purifyctl.images.sink import IMAGES, check_apart, prepare_output
from purifyctl.parquet import read_columns, write_part
from purifyctl.run import archives
from purifyctl.run.plan import PLAN, Plan
from purifyctl.run.rows import KeptRow, Row, read_rows

ROWS, SETTINGS, SUMMARY, SUMMARIES, REPORT = "rows", "run.json", "summary.json", "summaries", "report.html"
MAKES = (PLAN, ROWS, SUMMARY, SUMMARIES, REPORT, "rows.csv", "rows.jsonl")
LOCK, PLAN_LOCK = ".lock", ".plan.lock"


class RunFolder:
    """The folder of a run, held by one call: another that asks for the same share of it is refused meanwhile.

    Parameters
    ----------
    source
        Must not be what the run writes into. None: it is not on this machine.
    share
        Which of several calls, on one machine or many, this one is: (i, n).
    """

    def __init__(self, source: Path | None, path: Path, share: tuple[int, int]) -> None:
        check_apart(source, path)
        self.path, self.source = path, source.absolute() if source else None
        self.marker = path.absolute() / SETTINGS
        self._rows = path / ROWS
        self._share = "{}-of-{}".format(*share)
        self._of = share[1]
        # images that are being written; beside the others, so that they lie on the same file system
        self.partial = path.absolute() / IMAGES / f".{self._share}.partial"
        self._held = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written to: {error.strerror}.", hint="check --out") from None
        with ExitStack() as stack:
            stack.enter_context(_shared(self.path / LOCK, self._of))
            stack.enter_context(_locked(self.path / f".{self._share}.lock"))
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.partial.parent.rmdir()  # no image was written
        if self._of == 1 and not (self.path / PLAN).exists():  # nothing was begun, and nobody else is here
            for lock in (LOCK, PLAN_LOCK, f".{self._share}.lock"):
                (self.path / lock).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there is something else
                self.path.rmdir()
        self._held.close()

    def begin_or_resume(
        self,
        asked: Mapping[str, Any],
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
        with _locked(self.path / PLAN_LOCK, fcntl.LOCK_EX):  # the first of several calls plans for all
            if on_existing == "resume" and file.is_file():
                check_same(self.path, asked)
            else:
                if self._of > 1 and on_existing == "overwrite":
                    raise ConfigError(
                        "Calls that share a run would overwrite each other's results.", hint=f"remove {self.path} first"
                    )
                never_began = (self.path / SETTINGS).is_file() and not file.is_file()
                overwrite = on_existing == "overwrite" or never_began
                prepare_output(
                    self.source, self.path, makes=MAKES, marker=SETTINGS, settings=asked, overwrite=overwrite
                )
                self._rows.mkdir()
                try:
                    make_plan(file)
                except BaseException:
                    self._rows.rmdir()
                    (self.path / SETTINGS).unlink()
                    raise
        return Plan(file)

    def clean(self, shards: Iterable[int]) -> None:
        """Remove what a killed call left, and make the folder for images that are being written."""
        for number in filter(self.is_committed, shards):
            (self._rows / _kept(number)).unlink(missing_ok=True)
            archives.clear(self.path, number)
        for partial in self.partial.parent.glob(".*.partial") if self._of == 1 else (self.partial,):
            shutil.rmtree(partial, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)

    def commit(self, shard: int, rows: Mapping[int, Row]) -> None:
        """Write a finished shard's rows, given by position: from now on it is done."""
        _write([rows[position] for position in sorted(rows)], Row, self._rows / _part(shard))
        (self._rows / _kept(shard)).unlink(missing_ok=True)
        archives.clear(self.path, shard)

    def pack(self, shard: int, outputs: Iterable[PurePosixPath]) -> None:
        """Write a finished shard's images, which wait for it, as one archive."""
        try:
            archives.pack(self.path, shard, outputs, temporary=self.partial)
        except OSError as error:
            raise _no_room(self.path / IMAGES / archives.archive(shard), error) from None

    def keep(self, shard: int, rows: Mapping[int, Row]) -> None:
        """Write the rows of a shard that is not finished, for the next call."""
        kept = [KeptRow(**vars(row), position=position) for position, row in sorted(rows.items())]
        _write(kept, KeptRow, self._rows / _kept(shard))

    def is_committed(self, shard: int) -> bool:
        return (self._rows / _part(shard)).exists()

    def statuses(self, shard: int) -> list[str]:
        """Of the rows that are there."""
        there = self.part(shard)
        return read_columns(there, ["status"])["status"] if there else []

    def rows(self, shard: int) -> dict[int, Row]:
        """Those that are there, by position."""
        there = self.part(shard)
        found = read_rows(there) if there else []
        return {row.pop("position", i): Row(**row) for i, row in enumerate(found)}

    def part(self, shard: int) -> Path | None:
        """The rows of a shard that is finished, or was stopped in its midst."""
        return next((file for file in rows_of(self.path, shard) if file.exists()), None)

    def _summary(self) -> Path:
        return self.path / SUMMARY if self._of == 1 else self.path / SUMMARIES / f"{self._share}.json"

    def has_final_summary(self) -> bool:
        """Whether an earlier call came to say that everything is done."""
        try:
            return bool(json.loads(self._summary().read_text())["finished"])
        except (OSError, ValueError, KeyError):
            return False

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._summary().parent.mkdir(exist_ok=True)
        write_json(self._summary(), summary)

    def text_file(self, ending: str) -> Path:
        """Where this call's rows go as text."""
        self._summary().parent.mkdir(exist_ok=True)
        return self.path / f"rows{ending}" if self._of == 1 else self.path / SUMMARIES / f"{self._share}{ending}"


def check_same(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raises ConfigError where a run was asked for something else; the message names the differences."""
    settings.check_same(
        folder / SETTINGS,
        asked,
        what="a run of something else",
        hint="choose another --out, ask for the same as then, or pass --on-existing overwrite",
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """What a run was asked for. Raises ConfigError where there is none."""
    if not (folder / SETTINGS).exists():
        raise ConfigError(f"{folder} holds no run.", hint="name the --out of a run")
    return settings.read_settings(folder / SETTINGS)


def parts_of(folder: Path) -> dict[int, Path]:
    """The parts of all finished shards, by shard."""
    return {int(part.stem.removeprefix("part-")): part for part in (folder / ROWS).glob("part-*.parquet")}


def rows_of(folder: Path, shard: int) -> list[Path]:
    """Where a shard's rows can be, the finished ones first."""
    return [folder / ROWS / _part(shard), folder / ROWS / _kept(shard)]


def _part(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def _kept(shard: int) -> str:
    return f"kept-{shard:05d}.parquet"


def _write(rows: list[Any], row_type: type, file: Path) -> None:
    try:
        write_part(rows, row_type, file)
    except OSError as error:
        raise _no_room(file, error) from None


def _no_room(file: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{file} cannot be written: {error.strerror or error}.", hint="make room, and give the same command again"
    )


@contextmanager
def _shared(file: Path, of: int) -> Iterator[None]:
    """Hold a lock together with calls that share the run among as many, and with no others."""
    with _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB if of == 1 else fcntl.LOCK_SH | fcntl.LOCK_NB) as stream:
        if of > 1:
            with contextlib.suppress(OSError):  # another one is there, or the file system knows no locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the first one says among how many
                stream.truncate(0)
                stream.write(str(of))
                stream.flush()
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_SH)
            stream.seek(0)
            if (others := stream.read()) not in ("", str(of)):
                raise BusyError(
                    f"Calls that share {file.parent} among {others} are at work on it.", hint=f"--shard I/{others}"
                )
        yield


@contextmanager
def _locked(file: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> Iterator[IO[str]]:
    """Hold a lock that ends with the process, whatever it dies of."""
    try:
        stream = file.open("a+")
    except OSError as error:
        raise ConfigError(f"{file.parent} cannot be written to: {error.strerror}.", hint="check --out") from None
    with stream:
        try:
            fcntl.flock(stream, how)
        except BlockingIOError:
            raise BusyError(
                f"Another call is at work on {file.parent}.", hint="wait for it, or choose another --out"
            ) from None
        except OSError as error:
            console.warn(f"{file.parent} knows no locks ({error.strerror}): see that no two calls do the same work.")
        yield stream
