"""A run on disk: its settings, its plan, and what is done.

run.json                the settings; it marks the folder as that of a run
plan.parquet            every input, in parts
rows/part-00042.parquet the rows of a finished part
rows/kept-00042.parquet the rows of a part that was stopped before its end
images/...              the purified tree
summary.json            what the rows say; if several calls share the run: summaries/0-of-4.json
report.html             the same for people, once somebody has asked for it
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
    """The folder of a run, held by one call. Meanwhile another call that asks for the same shard is refused.

    Parameters
    ----------
    source
        Must lie apart from what the run writes. None: it is not on this machine.
    shard
        Which of several calls, on one machine or many, this one is: (i, n).
    """

    def __init__(self, source: Path | None, path: Path, shard: tuple[int, int]) -> None:
        check_apart(source, path)
        self.path, self.source = path, source.absolute() if source else None
        self.marker = path.absolute() / SETTINGS
        self._rows = path / ROWS
        self._shard = "{}-of-{}".format(*shard)
        self._of = shard[1]
        # images that are being written; beside the finished ones, so that they lie on the same file system
        self.partial = path.absolute() / IMAGES / f".{self._shard}.partial"
        self._held = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written to: {error.strerror}.", hint="check --out") from None
        with ExitStack() as stack:
            stack.enter_context(_shared(self.path / LOCK, self._of))
            stack.enter_context(_locked(self.path / f".{self._shard}.lock"))
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.partial.parent.rmdir()  # no image was written
        if self._of == 1 and not (self.path / PLAN).exists():  # nothing was begun, and nobody else is here
            for lock in (LOCK, PLAN_LOCK, f".{self._shard}.lock"):
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
        """Begin a new run, or check that an earlier one has the same settings.

        Parameters
        ----------
        make_plan
            Writes the plan to a file. It is not called if there is a plan.

        Raises
        ------
        ConfigError
            The folder holds a run of something else (the message names the differences), or files of another origin.
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

    def clean(self, parts: Iterable[int]) -> None:
        """Remove what a killed call left behind, and make the folder for images that are being written."""
        for number in filter(self.is_committed, parts):
            (self._rows / _kept(number)).unlink(missing_ok=True)
            archives.remove_waiting(self.path, number)
        for partial in self.partial.parent.glob(".*.partial") if self._of == 1 else (self.partial,):
            shutil.rmtree(partial, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)

    def commit(self, part: int, rows: Mapping[int, Row]) -> None:
        """Write the rows of a finished part, given by position. From now on the part is done."""
        _write([rows[position] for position in sorted(rows)], Row, self._rows / _part(part))
        (self._rows / _kept(part)).unlink(missing_ok=True)
        archives.remove_waiting(self.path, part)

    def write_archive(self, part: int, outputs: Iterable[PurePosixPath]) -> None:
        """Write the waiting images of a finished part as one archive."""
        try:
            archives.write_archive(self.path, part, outputs, temporary=self.partial)
        except OSError as error:
            raise _no_room(self.path / IMAGES / archives.archive_name(part), error) from None

    def keep(self, part: int, rows: Mapping[int, Row]) -> None:
        """Write the rows of a part that is not finished, for the next call."""
        kept = [KeptRow(**vars(row), position=position) for position, row in sorted(rows.items())]
        _write(kept, KeptRow, self._rows / _kept(part))

    def is_committed(self, part: int) -> bool:
        return (self._rows / _part(part)).exists()

    def statuses(self, part: int) -> list[str]:
        """The statuses of the rows that are there."""
        there = self.part_file(part)
        return read_columns(there, ["status"])["status"] if there else []

    def rows(self, part: int) -> dict[int, Row]:
        """The rows that are there, by position."""
        there = self.part_file(part)
        found = read_rows(there) if there else []
        return {row.pop("position", i): Row(**row) for i, row in enumerate(found)}

    def part_file(self, part: int) -> Path | None:
        """The file with a part's rows, whether the part is finished or was stopped before its end."""
        return next((file for file in rows_of(self.path, part) if file.exists()), None)

    def _summary(self) -> Path:
        return self.path / SUMMARY if self._of == 1 else self.path / SUMMARIES / f"{self._shard}.json"

    def has_final_summary(self) -> bool:
        """Whether the summary of an earlier call says that everything is done."""
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
        return self.path / f"rows{ending}" if self._of == 1 else self.path / SUMMARIES / f"{self._shard}{ending}"


def check_same(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raises ConfigError if the run was asked for something else; the message names the differences."""
    settings.check_same(
        folder / SETTINGS,
        asked,
        what="a run of something else",
        hint="choose another --out, ask for the same as then, or pass --on-existing overwrite",
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """What a run was asked for. Raises ConfigError if the folder holds no run."""
    if not (folder / SETTINGS).exists():
        raise ConfigError(f"{folder} holds no run.", hint="name the --out of a run")
    return settings.read_settings(folder / SETTINGS)


def parts_of(folder: Path) -> dict[int, Path]:
    """The row files of all finished parts, by part."""
    return {int(part.stem.removeprefix("part-")): part for part in (folder / ROWS).glob("part-*.parquet")}


def rows_of(folder: Path, part: int) -> list[Path]:
    """The files that can hold a part's rows: first that of a finished part, then that of an unfinished one."""
    return [folder / ROWS / _part(part), folder / ROWS / _kept(part)]


def _part(part: int) -> str:
    return f"part-{part:05d}.parquet"


def _kept(part: int) -> str:
    return f"kept-{part:05d}.parquet"


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
    """Hold a lock together with the other calls that share the run, if all say the same N of `--shard I/N`."""
    with _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB if of == 1 else fcntl.LOCK_SH | fcntl.LOCK_NB) as stream:
        if of > 1:
            with contextlib.suppress(OSError):  # another call is there, or the file system knows no locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the first call writes down its N
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
    """Hold a lock that ends with the process, however the process ends."""
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
