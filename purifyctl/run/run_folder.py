"""A run on disk: its settings, its plan, and what is done.

run.json                the settings; it marks the folder as that of a run
plan.parquet            every input, in parts; plan-00001.parquet: what was added to the source later
rows/part-00042.parquet the rows of a finished part
rows/kept-00042.parquet the rows of a part that was stopped before its end
images/...              the purified tree
summary.json            what the rows say; if several calls share the run: summaries/0-of-4.json
report.html             the same for people, once somebody has asked for it
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, Self

from purifyctl import settings
from purifyctl.config.folders import REPORT
from purifyctl.config.run import PLAN, SETTINGS, OnExisting
from purifyctl.errors import BusyError, ConfigError, OutputError
from purifyctl.files import write_json
from purifyctl.images.sink import IMAGES, check_apart, prepare_output
from purifyctl.parquet import read_columns, write_part
from purifyctl.run import archives
from purifyctl.run.listed import Listed
from purifyctl.run.locks import in_turn, locked, shared
from purifyctl.run.plan import Plan
from purifyctl.run.rows import KeptRow, Row, read_rows
from purifyctl.strict_json import read_json

ROWS, SUMMARY, SUMMARIES = "rows", "summary.json", "summaries"
MAKES = (ROWS, SUMMARY, SUMMARIES, REPORT, "rows.csv", "rows.jsonl")  # besides the plan
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)  # what file systems say that have no hard links
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
            stack.enter_context(shared(self.path / LOCK, self._of))
            stack.enter_context(locked(self.path / f".{self._shard}.lock"))
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
        make_plan: Callable[[Path, Plan | None], Listed],
        *,
        grows: bool = True,
    ) -> tuple[Plan, Listed | None]:
        """Begin a new run, or check that an earlier one has the same settings, and plan what is new in the source.

        Parameters
        ----------
        make_plan
            Writes a plan to a file, or the part of it that an earlier plan lacks.
        grows
            Whether a plan that is there may be extended.

        Returns
        -------
        The plan, and what the listing of the source found; None: it was not listed.

        Raises
        ------
        ConfigError
            The folder holds a run of something else (the message names the differences), or files of another origin.
        """
        file = self.path / PLAN
        with in_turn(self.path / PLAN_LOCK) as waited:  # the first of several calls plans for all
            for half_written in (*self.path.glob(".plan*.part"), *self.path.glob(".*.plan-*.parquet*")):
                half_written.unlink(missing_ok=True)
            if on_existing == "resume" and file.is_file():
                check_same(self.path, asked)
                # a call that waited finds a plan that another one has just made
                listed = self._extend(Plan(file), make_plan) if grows and not waited else None
                return Plan(file), listed
            if self._of > 1 and on_existing == "overwrite":
                raise ConfigError(
                    "Calls that share a run would overwrite each other's results.", hint=f"remove {self.path} first"
                )
            never_began = (self.path / SETTINGS).is_file() and not file.is_file()
            overwrite = on_existing == "overwrite" or never_began
            makes = (PLAN, *sorted(each.name for each in self.path.glob("plan-*.parquet")), *MAKES)
            prepare_output(self.source, self.path, makes=makes, marker=SETTINGS, settings=asked, overwrite=overwrite)
            self._rows.mkdir()
            try:
                listed = make_plan(file, None)
            except BaseException:
                self._rows.rmdir()
                (self.path / SETTINGS).unlink()
                raise
            return Plan(file), listed

    def _extend(self, plan: Plan, make_plan: Callable[[Path, Plan | None], Listed]) -> Listed:
        """Add what is new in the source to the plan. The addition appears whole, or not at all."""
        addition = self.path / f".{self._shard}.{plan.extension.name}"
        try:
            listed = make_plan(addition, plan)
            if listed.added:
                # what says that everything is done goes first
                for summary in (self.path / SUMMARY, *(self.path / SUMMARIES).glob("*.json")):
                    summary.unlink(missing_ok=True)
                _appear(addition, plan.extension)
        finally:
            addition.unlink(missing_ok=True)
        return listed

    def has_grown(self, plan: Plan) -> bool:
        """Whether another call has added something to this plan."""
        return plan.extension.exists()

    def clean(self, parts: Iterable[int]) -> None:
        """Remove what a killed call left behind, and make the folder for images that are being written."""
        parts = set(parts)
        ours = {name(number) for name in (_part, _kept) for number in parts}
        for half_written in self._rows.glob(".*.part"):
            if half_written.name[1:].rsplit(".", 2)[0] in ours:
                half_written.unlink(missing_ok=True)
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
            return bool(read_json(self._summary())["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._summary().parent.mkdir(exist_ok=True)
        write_json(self._summary(), summary)

    def text_file(self, ending: str) -> Path:
        """Where this call's rows go as text."""
        self._summary().parent.mkdir(exist_ok=True)
        return self.path / f"rows{ending}" if self._of == 1 else self.path / SUMMARIES / f"{self._shard}{ending}"


def _appear(file: Path, name: Path) -> None:
    """Give a file its name, unless there is a file of that name: a lock may be missing where two calls plan at once."""
    try:
        os.link(file, name)
    except FileExistsError:
        raise BusyError(
            f"Another call has extended the plan in {name.parent} at the same moment.", hint="give the command again"
        ) from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise _no_room(name, error) from None
        file.replace(name)


def check_same(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raises ConfigError if the run was asked for something else; the message names the differences.

    A list may have changed as a folder may: what it names is compared with the plan.
    """
    listed = [each.get("options", {}).get("files_from") for each in (asked, read_settings(folder))]
    if all(listed):
        asked = {**asked, "options": {**asked["options"], "files_from": listed[1]}}
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
