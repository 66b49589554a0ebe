"""What one call of `run` has done so far."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from purifyctl.run.parent.devices import Device
from purifyctl.run.rows import NOT_FAILED, Row
from purifyctl.run.summary import Busy


@dataclass
class Progress:
    """Counts of one call."""

    left: int  # inputs that are still to do
    max_errors: int | None = None  # None: any number may fail
    rows: int = 0
    errors: int = 0
    began: float | None = None  # when the first worker was ready
    ended: float | None = None  # when the last rows came, and were committed if they ended a part
    seconds: float = 0.0  # between the two
    busy: Busy = field(default_factory=Busy)
    threads: Counter[str] = field(default_factory=Counter)  # of each stage, on all devices

    @property
    def too_many(self) -> bool:
        """Whether more inputs have failed than may."""
        return self.max_errors is not None and self.errors > self.max_errors

    def add(self, rows: Sequence[Row]) -> int:
        """Count rows that have come. Returns how many of them failed."""
        failed = sum(row.status not in NOT_FAILED for row in rows)
        self.busy.add(rows)
        self.left -= len(rows)
        self.rows += len(rows)
        self.errors += failed
        self.ended = time.monotonic()
        return failed

    def end(self, devices: Sequence[Device]) -> None:
        """The call's devices have done what they will do."""
        for device in devices:
            self.threads.update(device.threads)
        self.began = min((d.ready_at for d in devices if d.ready_at is not None), default=None)
        self.seconds = self.ended - self.began if self.began is not None and self.ended is not None else 0.0

    def facts(self, started: float) -> dict[str, Any]:
        """For the summary. `started`: when the call began."""
        return {
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "elapsed_s": round(time.monotonic() - started, 3),
            "images_per_s": round(self.rows / self.seconds, 2) if self.rows and self.seconds else None,
            **(self.busy.figures(self.seconds, self.threads) if self.rows and self.seconds else {}),
            "startup_s": round(self.began - started, 3) if self.began is not None else None,
        }
