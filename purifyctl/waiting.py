"""What is shown while something takes long: a bar on a terminal, elsewhere a plain line now and then.

Messages that are printed meanwhile come above the bar, because both use the same console.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from purifyctl import console

PLAIN_PROGRESS_S = 10.0  # seconds between lines where there is no bar
WIDE = 100  # columns of a terminal from which on the bar is long
TIME, GAPS = 18, 6  # columns that a time needs, and what lies between the columns and behind them (for "^C")


class Counter:
    """Progress of one task: a bar on a terminal, plain lines elsewhere. Only one thread may call its methods."""

    def __init__(self, total: int, what: str, done: int, bar: Progress | None, *, rated: bool, waits: bool) -> None:
        self.total, self.what = total, what
        self.done, self._earlier = done, done
        self.errors = 0
        self._rated = rated
        self.is_beginning = waits  # until `begin`
        self._start = self._said = time.monotonic()
        self._bar = bar
        self._task = bar.add_task("", total=total or None, completed=done, **self._fields("", None)) if bar else None

    def begin(self) -> None:
        """The time until now was spent on starting: it says nothing about the rate."""
        self._start, self.is_beginning = time.monotonic(), False

    def advance(
        self, n: int = 1, errors: int = 0, text: str = "", *, under_way: float = 0.0, left_s: float | None = None
    ) -> None:
        """`n` more are done, `errors` of them failed. `text` is shown beside the rate; the others are as for `show`."""
        self.done += n
        self.errors += errors
        self.show(text, under_way=under_way, left_s=left_s)

    def show(self, text: str = "", *, under_way: float = 0.0, left_s: float | None = None) -> None:
        """Say what is being done now.

        Parameters
        ----------
        under_way
            How much of the work in hand is done: it moves the bar, and is not counted.
        left_s
            How long it will take, in seconds, for a caller that knows more than the rate so far.
        """
        now = time.monotonic()
        made, passed = self.done + under_way - self._earlier, max(now - self._start, 1e-9)
        completed = self.done + under_way
        if left_s is not None:  # the bar is a share of the time
            completed = self._earlier + (self.total - self._earlier) * passed / max(passed + left_s, 1e-9)
        elif self.done > self._earlier:  # what is only under way says too little about the rate
            left_s = (self.total - self.done - under_way) * passed / made
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=completed, **self._fields(text, left_s))
        elif now - self._said >= PLAIN_PROGRESS_S:
            self._said = now
            rate = (self.done - self._earlier) / passed
            counts = {"done": self.done, "total": self.total, "errors": self.errors, "per_s": rate, "left_s": left_s}
            console.event("progress", what=self.what, **counts)
            console.line(self._line(text, rate, left_s))

    def _line(self, text: str, rate: float, left_s: float | None) -> str:
        parts = [f"{self.what}: {self.done}/{self.total}" if self.total else self.what]
        parts += [f"{rate:.1f}/s"] if self._rated and self.done > self._earlier else []
        parts += [f"{console.duration(left_s)} left"] if left_s is not None else []
        return ", ".join([*parts, *filter(None, (f"{self.errors} failed" if self.errors else "", text))])

    def _fields(self, text: str, left_s: float | None) -> dict[str, Any]:
        """What the bar's columns show beside the bar."""
        made, passed = self.done - self._earlier, max(time.monotonic() - self._start, 1e-9)
        rate = f"{made / passed:.1f}/s" if self._rated and made else ""
        failed = f"{self.errors} failed" if self.errors else ""
        count = self.what + (f" {self.done:,}/{self.total:,}" if self.total else "")
        more = "  ".join(filter(None, (failed, rate, text)))
        width = console.stderr().width
        room = max(0, width - len(count) - (_bar_width(width) if self.total else 1) - TIME - GAPS)
        return {
            "ends": None if left_s is None else time.monotonic() + left_s,
            "count": count,
            "more": more if len(more) <= room else f"{more[: max(0, room - 1)]}…",
        }


def _bar_width(width: int) -> int:
    return 20 if width < WIDE else 40


class _Left(ProgressColumn):
    """The time that is left, counting down between two updates."""

    def render(self, task: Task) -> Text:
        ends = task.fields["ends"]
        if task.finished:
            return Text("")
        left = 0 if ends is None else round(ends - time.monotonic())
        if left <= 0:  # nobody knows, or it takes longer than anybody knew
            return Text(f"{console.duration(round(task.elapsed or 0))} so far", style="cyan")
        return Text(f"{console.duration(left)} left", style="cyan")


@contextlib.contextmanager
def progress(total: int, what: str, *, done: int = 0, rated: bool = True, waits: bool = False) -> Iterator[Counter]:
    """Show progress towards `total`.

    Parameters
    ----------
    what
        What is being done, in a word or two.
    done
        By an earlier call.
    rated
        Show how many are done in a second: not where one may take a thousand times as long as another.
    waits
        Something has to start first; the caller says when it has, by `Counter.begin`.
    """
    if not console.shows_bars():
        yield Counter(total, what, done, None, rated=rated, waits=waits)
        return
    screen = console.stderr()
    columns = (
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=_bar_width(screen.width)) if total else SpinnerColumn("line"),  # no share to show
        _Left(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[more]}", markup=False, table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=screen, transient=True, redirect_stdout=console.stdout_is_terminal()) as bar:
        yield Counter(total, what, done, bar, rated=rated, waits=waits)


@contextlib.contextmanager
def working(what: str) -> Iterator[Counter]:
    """Show that something is done that nobody knows the length of: what, and for how long already."""
    with progress(0, what, rated=False) as counter:
        yield counter
