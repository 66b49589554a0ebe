"""The steps of a build: which one it is at, and how long the rest takes if it is like the last build on this machine.

The seconds of each step are kept in the user's cache, so the first build on a machine shows only how long it has taken.
"""

import hashlib
import json
import time
from pathlib import Path

from purifyctl import console
from purifyctl.config import EngineConfig
from purifyctl.engine.times import this_machine
from purifyctl.files import write_json
from purifyctl.machine import cache_folder
from purifyctl.strict_json import read_json
from purifyctl.waiting import Counter

DOUBT = 0.2  # share of the last build that must have passed until this build's own pace counts for half


class Steps:
    """One build. Begin each step by its name; at the end, keep how long each took.

    Parameters
    ----------
    shown
        Where the step is shown.
    config, auto
        The last build with the same backend and precision is the one to compare with.
    """

    def __init__(self, shown: Counter, config: EngineConfig, *, auto: bool) -> None:
        self._shown, self._file = shown, _file(config, auto=auto)
        self._earlier = _read(self._file)
        self._left = list(self._earlier)  # steps of the last build that are still to come here
        self._now, self._began = "", time.monotonic()
        self._taken: dict[str, float] = {}

    def begin(self, step: str) -> None:
        """The step before is done. It does not begin again: a second time of the same step counts as part of it."""
        self._end()
        self._now = step
        if step in self._left:
            del self._left[: self._left.index(step)]  # what the last build did before it is not needed here
        self._shown.show(step, left_s=self._left_s())

    def leave_out(self, kind: str) -> None:
        """The steps whose names begin like this are not needed in this build."""
        self._left = [step for step in self._left if not step.startswith(kind)]

    def keep(self) -> None:
        """The build is done: the next one expects the same. Steps that only earlier builds had stay for later ones."""
        self._end()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._earlier | self._taken)
        except OSError as error:
            console.detail(f"How long the build took is not kept: {error}")

    def _end(self) -> None:
        now = time.monotonic()
        if self._now:
            self._taken[self._now] = round(self._taken.get(self._now, 0.0) + now - self._began, 1)
            self._left = [step for step in self._left if step != self._now]
        self._began = now

    def _left_s(self) -> float | None:
        """What the last build took for the steps to come, times how much slower this one is until now. None: nobody
        knows.
        """
        known = [step for step in self._taken if step in self._earlier]
        taken, took = (sum(times[step] for step in known) for times in (self._taken, self._earlier))
        doubt = DOUBT * sum(self._earlier.values())  # seconds: one short step says little about the others
        slower = (taken + doubt) / (took + doubt) if took else 1.0
        return slower * sum(self._earlier[step] for step in self._left) or None


def earlier_builds_s(config: EngineConfig) -> float | None:
    """How long the steps of builds took here that chose the precision, in seconds; None: there was no such build."""
    return sum(_read(_file(config, auto=True)).values()) or None


def _file(config: EngineConfig, *, auto: bool) -> Path:
    machine = hashlib.sha256(json.dumps(this_machine(), sort_keys=True).encode()).hexdigest()[:8]
    return cache_folder() / "builds" / f"{config.backend}-{'auto' if auto else config.precision}-{machine}.json"


def _read(file: Path) -> dict[str, float]:
    """Seconds by step, in order. Empty: there is nothing that can be read."""
    try:
        data = read_json(file)
        return {str(step): max(0.0, float(seconds)) for step, seconds in data.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
