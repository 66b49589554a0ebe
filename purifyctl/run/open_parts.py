"""Parts that are being worked on: which batches are left to do, and which rows have come."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from purifyctl import console
from purifyctl.errors import OutputError
from purifyctl.run.messages import InputBatch
from purifyctl.run.plan import Plan
from purifyctl.run.rows import Row
from purifyctl.run.run_folder import RunFolder


class OpenParts:
    """Parts that have some of their rows. Supervisors' threads take batches, the main thread adds rows."""

    def __init__(
        self, plan: Plan, folder: RunFolder, batch_size: int, *, archives: bool = False, retry_failed: bool = False
    ) -> None:
        self._plan, self._folder, self._batch_size = plan, folder, batch_size
        self._archives, self._retry = archives, retry_failed
        self._rows: dict[int, dict[int, Row]] = {}  # by part and position
        self._failed: dict[int, dict[int, Row]] = {}  # rows of finished parts whose inputs are being tried again

    def left(self, part: int) -> int:
        """How many inputs of a part are still to do."""
        if self._folder.is_committed(part) and not self._retry:
            return 0
        statuses = self._folder.statuses(part)
        return self._plan.size(part) - sum(status == "ok" or not self._retry for status in statuses)

    def batches(self, parts: Iterable[int]) -> Iterator[InputBatch]:
        """The batches that these parts still need, cut as the plan cuts them."""
        sizes = [-(-self._plan.size(number) // self._batch_size) for number in range(self._plan.parts)]
        first = list(itertools.accumulate(sizes, initial=0))  # the number of each part's first batch
        for number in parts:
            inputs, rows = self._plan.part(number).inputs, self._open(number)
            self._commit_if_whole(number)
            for k in range(0, len(inputs), self._batch_size):
                positions = tuple(p for p in range(k, min(k + self._batch_size, len(inputs))) if p not in rows)
                if positions:
                    batch = first[number] + k // self._batch_size
                    yield InputBatch(number, batch, positions, [inputs[p] for p in positions])

    def _open(self, part: int) -> dict[int, Row]:
        """The rows that need not be made again."""
        rows = self._folder.rows(part)
        if self._retry:
            failed = {position: row for position, row in rows.items() if row.status != "ok"}
            rows = {position: row for position, row in rows.items() if position not in failed}
            if self._folder.is_committed(part):
                self._failed[part] = failed
        self._rows[part] = rows
        return rows

    def add(self, batch: InputBatch, rows: list[Row]) -> None:
        """Take a batch's rows. If they are the last ones of their part, commit it."""
        self._rows[batch.part] |= zip(batch.positions, rows, strict=True)
        self._commit_if_whole(batch.part)

    def _commit_if_whole(self, part: int) -> None:
        if len(self._rows[part]) == self._plan.size(part):
            self._commit(part, self._rows[part])
            del self._rows[part]
            self._failed.pop(part, None)

    def _commit(self, part: int, rows: Mapping[int, Row]) -> None:
        if self._archives:
            inputs = self._plan.part(part).inputs
            self._folder.write_archive(part, [one.output for p, one in enumerate(inputs) if rows[p].output])
        self._folder.commit(part, rows)

    def keep(self) -> None:
        """Save the rows of unfinished parts. A part that was finished before keeps its old rows of failed inputs."""
        for part, rows in list(self._rows.items()):
            try:
                if part in self._failed:
                    self._commit(part, self._failed[part] | rows)
                elif rows:
                    self._folder.keep(part, rows)
            except OutputError as error:  # most likely it is also what stopped the run
                console.warn(f"{len(rows)} images will be done again by the next call: {error.message}")
