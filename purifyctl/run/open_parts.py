"""Shards in the making: which batches are left of them, and which rows have come."""

from collections.abc import Iterable, Iterator, Mapping

from purifyctl import console
from purifyctl.errors import OutputError
from purifyctl.run.messages import Batch
from purifyctl.run.plan import Plan
from purifyctl.run.rows import Row
from purifyctl.run.run_folder import RunFolder


class OpenShards:
    """Shards of which some rows are there. Supervisors' threads take batches, the main one adds rows."""

    def __init__(
        self, plan: Plan, folder: RunFolder, batch_size: int, *, packed: bool = False, retry_failed: bool = False
    ) -> None:
        self._plan, self._folder, self._batch_size = plan, folder, batch_size
        self._packed, self._retry = packed, retry_failed
        self._rows: dict[int, dict[int, Row]] = {}  # by shard and position
        self._failed: dict[int, dict[int, Row]] = {}  # rows that are being tried again, of shards that were finished

    def left(self, number: int) -> int:
        """How many inputs of a shard are to be done."""
        if self._folder.is_committed(number) and not self._retry:
            return 0
        statuses = self._folder.statuses(number)
        return self._plan.size(number) - sum(status == "ok" or not self._retry for status in statuses)

    def batches(self, todo: Iterable[int]) -> Iterator[Batch]:
        """What is left of these shards, cut as the plan cuts it."""
        per_shard = -(-self._plan.size(0) // self._batch_size)
        for number in todo:
            shard, rows = self._plan.shard(number), self._open(number)
            self._commit_if_whole(number)
            for k in range(0, len(shard.items), self._batch_size):
                positions = tuple(p for p in range(k, min(k + self._batch_size, len(shard.items))) if p not in rows)
                if positions:
                    items = [shard.items[p] for p in positions]
                    yield Batch(number, number * per_shard + k // self._batch_size, positions, items)

    def _open(self, number: int) -> dict[int, Row]:
        """The rows of a shard that need not be done again."""
        rows = self._folder.rows(number)
        if self._retry:
            failed = {position: row for position, row in rows.items() if row.status != "ok"}
            rows = {position: row for position, row in rows.items() if position not in failed}
            if self._folder.is_committed(number):
                self._failed[number] = failed
        self._rows[number] = rows
        return rows

    def add(self, batch: Batch, rows: list[Row]) -> None:
        """Take a batch's rows; commit its shard when they are its last."""
        self._rows[batch.shard] |= zip(batch.positions, rows, strict=True)
        self._commit_if_whole(batch.shard)

    def _commit_if_whole(self, number: int) -> None:
        if len(self._rows[number]) == self._plan.size(number):
            self._commit(number, self._rows[number])
            del self._rows[number]
            self._failed.pop(number, None)

    def _commit(self, number: int, rows: Mapping[int, Row]) -> None:
        if self._packed:
            items = enumerate(self._plan.shard(number).items)
            self._folder.pack(number, [item.output for position, item in items if rows[position].output])
        self._folder.commit(number, rows)

    def keep(self) -> None:
        """Save what is not finished; of what was finished earlier, beside what is still to be tried again."""
        for number, rows in list(self._rows.items()):
            try:
                if number in self._failed:
                    self._commit(number, self._failed[number] | rows)
                elif rows:
                    self._folder.keep(number, rows)
            except OutputError as error:  # most likely what stopped the run, too
                console.warn(f"{len(rows)} images will be done again by the next call: {error.message}")
