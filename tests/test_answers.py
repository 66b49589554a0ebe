"""What `run` answers at its end: which predictions changed, what failed, and at which cost."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from purifyctl import console
from purifyctl.cli import app
from purifyctl.config import run as options_of_run
from purifyctl.engine.bundle import Bundle
from purifyctl.report.answers import show_summary, verdict
from purifyctl.run import RunOptions, RunResult, run
from purifyctl.run.answers import ANSWERS_NEED, SHOWN, Answers
from tests import tiny


def columns(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    """Rows as lists by column. What a row does not say is missing."""
    empty = {name: [] if name.removeprefix("unpurified_").startswith("top") else None for name in ANSWERS_NEED}
    return {name: [(empty | row)[name] for row in rows] for name in ANSWERS_NEED}


def compared(path: str, before: int, after: int, true: int | None = None, divergence: float = 0.5) -> dict[str, Any]:
    said: dict[str, Any] = {"path": path, "status": "ok", "true_index": true, "divergence": divergence}
    said["true_label"] = None if true is None else f"class {true}"
    for kind, index in (("", after), ("unpurified_", before)):
        said |= {f"{kind}top_index": [index], f"{kind}top_label": [f"class {index}"], f"{kind}top_probability": [0.5]}
    return said


PREDICTED = st.tuples(st.integers(0, 2), st.integers(0, 2), st.none() | st.integers(0, 2), st.floats(0, 1, width=32))


@given(predictions=st.lists(PREDICTED, max_size=40), cut=st.integers(0, 40))
def test_changes_are_counted_however_the_rows_are_cut_and_the_clearest_are_named(
    predictions: list[tuple[int, int, int | None, float]], cut: int
) -> None:
    rows = [compared(f"{i}.jpg", *prediction) for i, prediction in enumerate(predictions)]
    answers = Answers()
    answers.add(columns(*rows[:cut]))
    answers.add(columns(*rows[cut:]))
    found = answers.figures()
    if not rows:
        assert found == {"failed": {"n": 0, "first": []}}
        return
    changed = [(i, p) for i, p in enumerate(predictions) if p[0] != p[1]]
    labelled = [p for p in predictions if p[2] is not None]
    clearest = sorted(changed, key=lambda entry: (-entry[1][3], entry[0]))[:SHOWN]
    assert [one["path"] for one in found["changed"].pop("first")] == [f"{i}.jpg" for i, _ in clearest]
    assert found["changed"] == {
        "n": len(changed),
        "of": len(predictions),
        "labelled": len(labelled),
        "right_before": sum(p[0] == p[2] for p in labelled),
        "right_after": sum(p[1] == p[2] for p in labelled),
    }
    assert ("only_image" in found) == (len(rows) == 1)


@pytest.fixture(scope="module")
def result(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """Fifteen photographs and twelve inputs that fail."""
    folder = tmp_path_factory.mktemp("answers")
    source = tiny.photographs(folder / "photos", 15, labelled=True)
    for i in range(12):
        (source / f"bad-{i:02d}.jpg").touch()
    return folder / "out", run(source, tiny_bundle, folder / "out")


def test_a_small_run_says_what_changed_which_inputs_failed_and_why(
    result: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    out, done = result
    summary = done.summary
    assert done.exit_code == 3
    show_summary(summary, out)
    said, warned = capsys.readouterr()
    assert said.startswith(f"{summary['changed']['n']} of 15 predictions changed.")
    assert "27 inputs in " in said
    assert warned.count("The file is empty.") == SHOWN
    assert "  bad-00.jpg: empty. The file is empty.\n" in warned
    assert f"and 2 more: the rows in {out / 'rows'}" in warned


def test_the_verdict_gives_accuracy_before_and_after_and_names_the_clearest_changes(
    result: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [compared(f"{i}.jpg", 1, 2 if i < 12 else 1, true=2, divergence=i / 100) for i in range(20)]
    answers = Answers()
    answers.add(columns(*rows))
    summary = result[1].summary | answers.figures()
    show_summary(summary, result[0])
    said = capsys.readouterr().out
    text = "12 of 20 predictions changed. Top-1 accuracy: 0.0 % before, 60.0 % after (20 with a true label)."
    assert said.splitlines()[0] == verdict(summary) == text
    assert [line.split()[0] for line in said.splitlines() if ".jpg" in line] == [f"{i}.jpg" for i in range(11, 1, -1)]
    assert "and 2 more: purifyctl report" in said
    assert verdict(summary | {"finished": False}).startswith("Not finished: 27 of 27 inputs. 12 of 20")


def test_the_last_lines_count_in_plain_words_and_give_no_rate_where_nothing_was_purified(
    result: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    out, done = result
    call = {**done.summary["this_call"], "rows": 26}
    show_summary({**done.summary, "this_call": call}, out)
    said = capsys.readouterr().out
    assert "(1 was done before)" in said
    assert "images/s" in said
    show_summary({**done.summary, "failed": {**done.summary["failed"], "n": 27}}, out)
    assert "images/s" not in capsys.readouterr().out


def test_quiet_names_failures_and_nothing_else(
    result: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_settings", console._Settings(quiet=True))
    show_summary(result[1].summary, result[0])
    said, warned = capsys.readouterr()
    assert said == ""
    assert warned.startswith("warning: 12 of 27 inputs failed:\n  bad-00.jpg: empty.")


def test_the_images_of_a_batch_have_a_mean_time_and_no_percentiles(result: tuple[Path, RunResult]) -> None:
    for stage, ms in result[1].summary["stage_ms"].items():
        assert set(ms) == (
            {"mean"} if stage in ("decode", "purify", "classify") else {"mean", "p50", "p90", "p95", "p99"}
        )


def test_a_single_picture_prints_its_best_classes_before_and_after(tiny_bundle: Bundle, tmp_path: Path) -> None:
    tiny.photograph().save(tmp_path / "one.png")
    words = ["run", str(tmp_path / "one.png"), "--out", str(tmp_path / "out"), "--engine", str(tiny_bundle.path)]
    said = CliRunner().invoke(app, [*words, "--verbose"]).output
    only = json.loads((tmp_path / "out" / "summary.json").read_text())["only_image"]
    assert len(only["before"]) == len(only["after"]) == 5
    for label, probability in only["before"] + only["after"]:
        assert f"{label} {100 * probability:.0f}%" in said
    assert "The prediction " in said


def test_only_small_runs_compare_without_being_asked_and_a_run_stays_what_it_was(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import purifyctl.run.prepare

    monkeypatch.setattr(purifyctl.run.prepare, "COMPARED", 10)
    small = run(photos, tiny_bundle, tmp_path / "small")
    assert small.summary["changed"]["of"] == 10
    assert json.loads((tmp_path / "small" / "run.json").read_text())["options"]["compare"] is True
    monkeypatch.setattr(purifyctl.run.prepare, "COMPARED", 9)
    assert run(photos, tiny_bundle, tmp_path / "small").summary["this_call"]["rows"] == 0  # the same run, resumed
    large = run(photos, tiny_bundle, tmp_path / "large").summary
    assert "changed" not in large
    assert "run --compare" in verdict(large)
    assert run(photos, tiny_bundle, tmp_path / "asked", RunOptions(compare=True)).summary["changed"]["of"] == 10
    assert options_of_run.COMPARED == 2000  # as the documentation says
