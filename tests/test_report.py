import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.parquet import write_part
from purifyctl.report.run import write_report
from purifyctl.run import RunOptions, plan, run
from purifyctl.run.rows import KeptRow
from tests import report_page, tiny
from tests.commands import purifyctl
from tests.report_page import Page, assert_harmless, report_of


@pytest.fixture(scope="module")
def labelled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Read only."""
    return report_page.build(tmp_path_factory.mktemp("labelled"))


@pytest.mark.slow
def test_a_report_says_what_the_summary_says(photos: Path, labelled_bundle: Bundle, tmp_path: Path) -> None:
    for name, status in (("zero.jpg", "empty"), ("notes.txt", "not_an_image")):
        data, expected = tiny.hostile_files()[name]
        assert expected == status
        (photos / name).write_bytes(data)
    out = tmp_path / "out"
    summary = run(photos, labelled_bundle, out, RunOptions(compare=True, strict=True)).summary
    figures, page = report_of(out)
    assert figures["statuses"] == summary["statuses"] == {"ok": 10, "empty": 1, "not_an_image": 1}
    assert figures["finished"]
    assert (figures["inputs"], figures["rows"]) == (12, 12)
    accuracy = summary["accuracy"]
    assert figures["top1"] == {
        "purified": {"n": 10, "value": pytest.approx(accuracy["top1"])},
        "unpurified": {"n": 10, "value": pytest.approx(accuracy["unpurified_top1"])},
    }
    changes = [row["mean_change"] for row in pq.read_table(out / "rows").to_pylist() if row["status"] == "ok"]
    for value in figures["mean_change"].values():
        assert min(abs(value / change - 1) for change in changes) < 0.011
    assert "of 12 inputs 10 are ok, and 2 failed" in page.text
    assert f"{100 * accuracy['top1_confidence']:.1f} %" in page.text
    assert "notes.txt The file has no readable image header" in page.text
    assert labelled_bundle.sha256 in page.text
    assert summary["machine"]["processor"] in page.text
    assert page.pictures() == ["before", "after", "change ×8"] * 10


def test_a_gated_runs_report_says_what_the_gate_did(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    handled = run(photos, tiny_bundle, tmp_path / "out", RunOptions(gated=True, unflagged="leave")).summary["handled"]
    figures, page = report_of(tmp_path / "out")
    assert figures["handled"] == handled
    assert figures["flagged"] == handled["purified"] < 10
    shares = {name: f"{n} {10 * n}.0 %" for name, n in handled.items()}
    assert f"flagged, purified {shares['purified']}" in page.text
    assert f"not flagged, left where it is {shares['left']}" in page.text
    assert "The gate scored 10 images, at a false-positive rate of 1.0 %" in page.text
    assert "Of the purified images" not in page.text
    assert "Gated: flagged images are classified purified" in page.text
    assert len(page.pictures()) == 3 * handled["purified"]


def test_a_run_that_is_still_at_work_has_a_report(
    photos: Path, labelled_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", 4)
    out = tmp_path / "out"
    run(photos, labelled_bundle, out)
    (out / "summary.json").unlink()
    first, second, third = sorted((out / "rows").iterdir())
    rows = pq.read_table(second).to_pylist()
    kept = [KeptRow(**row, position=i) for i, row in enumerate(rows)][2:]
    write_part(kept, KeptRow, out / "rows" / "kept-00001.parquet")
    second.unlink()
    third.unlink()
    figures, page = report_of(out)
    assert not figures["finished"]
    assert (figures["rows"], figures["finished_shards"], figures["shards"]) == (6, 1, 3)
    assert "6 of 10 inputs (60.0 %) are done, 4 are still to do; 1 of 3 parts are complete" in page.text
    assert "known once a call has ended" in page.text
    for row in kept:
        assert row.path in page.text
    assert page.pictures() == ["before", "after", "change ×8"] * 6  # found by their positions
    first.unlink()
    (out / "rows" / "kept-00001.parquet").unlink()
    assert "Nothing finished yet: 10 inputs in 3 parts" in report_of(out)[1].text


def test_rows_that_are_committed_while_they_are_read_are_counted_once(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    part = out / "rows" / "part-00000.parquet"
    away = part.rename(out / "away.parquet")
    really = pq.ParquetFile

    def opened(file: Path) -> pq.ParquetFile:
        if file.name.startswith("kept"):  # it was there a moment ago
            away.rename(part)
        return really(file)

    monkeypatch.setattr(pq, "ParquetFile", lambda file: really(file) if file.name == "plan.parquet" else opened(file))
    assert write_report(out)["rows"] == 10


@pytest.mark.slow
def test_a_run_without_labels_images_or_classifier_says_so(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(photos, tiny_bundle, tmp_path / "a", RunOptions(image_format=None))
    figures, page = report_of(tmp_path / "a")
    assert figures["top1"] == {}
    assert figures["mean_change"]["p50"] > 0
    assert "No input has a true class" in page.text
    assert "The run wrote no images." in page.text
    assert page.pictures() == ["before"] * 10
    run(photos, tiny_bundle, tmp_path / "b", RunOptions(classify=False))
    page = report_of(tmp_path / "b")[1]
    assert "Accuracy" not in page.text
    assert "classify" not in page.text.split("How it was made")[0]
    for image in photos.rglob("*.jpg"):
        image.unlink()
    assert "The input: It cannot be read: No such file or directory." in report_of(tmp_path / "b")[1].text


@pytest.mark.slow
def test_calls_that_share_a_run_are_reported_together(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", 4)
    out = tmp_path / "out"
    run(photos, tiny_bundle, out, RunOptions(shard=(0, 2)))
    figures, page = report_of(out)
    assert (figures["rows"], figures["finished"]) == (6, False)
    run(photos, tiny_bundle, out, RunOptions(shard=(1, 2)))
    figures, page = report_of(out)
    assert (figures["rows"], figures["finished"]) == (10, True)
    assert "summaries/0-of-2.json" in page.text
    assert "summaries/1-of-2.json" in page.text


def test_images_in_archives_are_shown(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "archives"
    source.mkdir()
    with tarfile.open(source / "one.tar", "w") as archive:
        archive.add(photos, ".")
    run(source, tiny_bundle, tmp_path / "out")
    assert report_of(tmp_path / "out")[1].pictures() == ["before", "after", "change ×8"] * 10


def test_a_folder_that_holds_no_run_or_a_damaged_one_is_refused(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(photos)
    assert not (photos / "report.html").exists()
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(out, tmp_path / "nowhere" / "report.html")
    next((out / "rows").iterdir()).write_bytes(b"no Parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_report(out)
    (out / "plan.parquet").unlink()
    with pytest.raises(ConfigError, match="without a plan"):
        write_report(out)


@pytest.mark.slow
def test_the_command_prints_json_and_writes_where_it_is_asked_to(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", tmp_path / "page.html"
    run(photos, tiny_bundle, out)
    figures = json.loads(purifyctl("report", out, "--out", file, "--json").stdout)
    assert figures["report"] == str(file)
    assert figures["rows"] == 10
    assert_harmless(Page(file))
    assert not (out / "report.html").exists()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "page.html", "photos"]


@pytest.mark.slow
def test_another_run_in_the_same_folder_takes_the_old_report_away(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    write_report(out)
    run(photos, tiny_bundle, out, RunOptions(on_existing="overwrite"))
    assert not (out / "report.html").exists()
