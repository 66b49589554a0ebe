"""A build says which step it is at, how long the rest takes, and, if it is interrupted, what is left of it."""

import shutil
import signal
import time
from pathlib import Path
from typing import cast

import pytest

from purifyctl.config import EngineConfig
from purifyctl.engine import steps
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.steps import Steps, earlier_builds_s
from purifyctl.waiting import Counter, progress, working
from tests import strange, tiny
from tests.commands import Call
from tests.test_waiting import terminal

CONFIG = EngineConfig()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The time, in seconds, which a test moves; and a cache of the test's own."""
    now = [0.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    return now


class Shown:
    """Keeps what is said, and how long it takes."""

    def __init__(self) -> None:
        self.said: list[tuple[str, float | None]] = []

    def show(self, text: str, *, left_s: float | None) -> None:
        self.said.append((text, left_s))


def build(clock: list[float], slower: float = 1.0, *, timed: bool = True) -> list[tuple[str, float | None]]:
    shown = Shown()
    made = Steps(cast(Counter, shown), CONFIG, auto=True)
    if not timed:
        made.leave_out("timing")
    for step, seconds in (("loading", 2.0), ("exporting", 10.0), ("timing fp32", 20.0), ("comparing", 8.0)):
        if timed or not step.startswith("timing"):
            made.begin(step)
            clock[0] += seconds * slower
    made.keep()
    return shown.said


def test_the_first_build_promises_nothing_and_the_next_one_what_the_last_one_took(clock: list[float]) -> None:
    assert earlier_builds_s(CONFIG) is None
    assert [left for _, left in build(clock)] == [None] * 4
    assert build(clock) == [("loading", 40.0), ("exporting", 38.0), ("timing fp32", 28.0), ("comparing", 8.0)]
    assert earlier_builds_s(CONFIG) == 40.0


def test_on_a_busy_machine_the_rest_takes_longer_and_one_slow_step_does_not_decide_it(clock: list[float]) -> None:
    build(clock)
    assert [left for _, left in build(clock, slower=3.0)] == pytest.approx([40.0, 1.4 * 38, 2.2 * 28, 2.6 * 8])


def test_steps_that_are_not_needed_are_not_waited_for_and_not_forgotten(clock: list[float]) -> None:
    build(clock)
    assert build(clock, timed=False) == [("loading", 20.0), ("exporting", 18.0), ("comparing", 8.0)]
    assert [left for _, left in build(clock)] == [40.0, 38.0, 28.0, 8.0]


@pytest.mark.parametrize("text", ["", "[1]", '{"loading": "x"}', '{"loading": NaN}', '{"loading": -4}'])
def test_a_damaged_file_of_times_is_as_none(clock: list[float], text: str) -> None:
    build(clock)
    (file,) = steps.cache_folder().glob("builds/*.json")
    file.write_text(text)
    assert [left for _, left in build(clock)] == [None] * 4


def test_what_takes_longer_than_was_thought_does_not_say_that_no_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(80, monkeypatch)
    with progress(10, "evaluating") as bar, working("nothing"):
        bar.show("PGD-10", left_s=0.2)
        time.sleep(0.6)
        bar.show("PGD-10", left_s=30)
        time.sleep(0.3)
    assert " so far" in screen.getvalue()
    assert "0 s left" not in screen.getvalue().replace("30 s left", "")


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_ctrl_c_in_a_build_says_what_is_left_and_leaves_nothing_half_built(
    there: bool, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    out = tmp_path / "bundles" / "mine"
    if there:
        shutil.copytree(tiny_bundle.path, out)
    before = {file: file.read_bytes() for file in out.rglob("*.json")}
    begin = Steps.begin

    def interrupted(self: Steps, step: str) -> None:
        begin(self, step)
        if step.startswith("compiling"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Steps, "begin", interrupted)
    words = ("build-engine", "--checkpoint", tiny.checkpoint(tmp_path / "run"), "--classifier", "none", "--out", out)
    printed = call(*words, "--backend", "onnxruntime", "--image-size", "64", "--overwrite", code=130)
    said = strange.OUR_COLOURS.sub(b"", printed).decode()
    assert "error: Interrupted.\n" in said
    assert f"-> The engine {out} is not built; " in said
    assert ("what was there before is unchanged" if there else "nothing half-built is left") in said
    assert "Traceback" not in said
    assert [file.name for file in out.parent.iterdir()] == ["mine"] * there
    assert {file: file.read_bytes() for file in out.rglob("*.json")} == before
