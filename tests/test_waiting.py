"""What is shown while something takes long, on a terminal and in a log."""

import io
import sys
import time

import pytest

from purifyctl import console, waiting
from purifyctl.console import duration
from purifyctl.waiting import progress, working
from tests.screen import Screen


def terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal that stderr goes to. pytest puts stderr back after fixtures, so each test calls this itself."""
    made = Screen(width)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stderr", made)
    return made


both_widths = pytest.mark.parametrize("width", [80, 120])


@both_widths
def test_messages_come_above_the_bar_and_never_through_it(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(width, monkeypatch)
    long = "warning words " * 20
    with progress(10, "purifying") as bar:
        for i in range(10):
            bar.show(under_way=0.5)
            console.note(f"note {i} {long}")
            console.warn(f"first line {i}", "  second line")
            bar.advance(errors=i == 3)
    console.error("after it all")
    lines = screen.lines()
    for i in range(10):
        assert sum(line.startswith(f"note {i} ") for line in lines) == 1
        assert f"warning: first line {i}" in lines
    assert lines[-1] == "error: after it all"
    assert not [line for line in lines if "━" in line]  # the bar is gone, whole
    assert not [line for line in lines if line.endswith(("warni", "wor", "wo")) or len(line) > screen.width]


@both_widths
def test_a_bar_fits_on_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(width, monkeypatch)
    with progress(123_456, "evaluating", rated=False) as bar:
        bar.show("PGD-100 x5 EOT 20 targeted (BPDA identity) 16/255, adaptive " * 3, left_s=3605)
        time.sleep(0.25)
        (line,) = screen.lines()
    assert line.startswith("evaluating 0/123,456 ")
    assert "1 h" in line
    assert "PGD-100" in line


@both_widths
def test_work_of_unknown_length_says_what_is_done_now_in_whole_words(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(width, monkeypatch)
    with working("building the engine") as shown:
        for now in (
            "torch computes the reference",
            "finding INT8 ranges of purifier",
            "comparing int8-bf16 with torch",
        ):
            shown.show(now)
            time.sleep(0.25)
            (line,) = screen.lines()
            assert line.endswith(now)


@both_widths
def test_what_is_under_way_moves_the_bar_and_is_not_counted(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(width, monkeypatch)
    shown = []
    with progress(30, "purifying", waits=True) as bar:
        assert bar.is_beginning
        bar.begin()
        for under_way in (0.0, 10.0, 20.0):
            bar.show(under_way=under_way)
            time.sleep(0.25)
            shown.append(screen.lines()[-1])
    assert all(line.startswith("purifying 0/30 ") for line in shown)
    assert len(set(shown)) == 3
    assert bar.done == 0


def test_a_log_gets_whole_lines_now_and_then_and_no_carriage_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    with progress(100, "attacking") as bar:
        for _ in range(100):
            now[0] += 1
            bar.advance(errors=1, text="PGD-10")
    assert "\r" not in log.getvalue()
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "attacking: 10/100, 1.0/s, 1 min 30 s left, 10 failed, PGD-10"


def test_time_before_the_start_does_not_count_as_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    with progress(100, "purifying", waits=True) as bar:
        now[0] = 50.0
        bar.show("starting the engine")
        bar.begin()
        now[0] = 60.0
        bar.advance(20)
    first, second = log.getvalue().splitlines()
    assert first == "purifying: 0/100, starting the engine"
    assert second == "purifying: 20/100, 2.0/s, 40 s left"


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(80, monkeypatch)
    monkeypatch.setattr(console, "_settings", console._Settings(quiet=True))
    with working("building the engine") as shown:
        shown.show("exporting")
    assert screen.lines() == []


def test_durations_have_at_most_two_units() -> None:
    assert [duration(s) for s in (0.04, 3.25, 59.6, 3700, 90061)] == ["0 s", "3.2 s", "1 min", "1 h 1 min", "1 d 1 h"]
