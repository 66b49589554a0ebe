"""The gate: which images are purified, and what becomes of the others."""

import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from purifyctl.config import EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.report.table import show_dry_run
from purifyctl.run import RunOptions, dry_run, merge, plan, run
from purifyctl.run.rows import read_rows
from tests import tiny
from tests.kills import PART_SIZE

GATED_RUN = RunOptions(gated=True)


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for part in sorted((out / "rows").glob("*.parquet")) for row in read_rows(part)}


@pytest.mark.slow
def test_flagged_images_are_purified_as_without_a_gate_and_the_others_come_through_bit_for_bit(
    thirty: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(thirty, tiny_bundle, tmp_path / "gated", GATED_RUN)
    run(thirty, tiny_bundle, tmp_path / "all", RunOptions())
    gated, purified = rows_of(tmp_path / "gated"), rows_of(tmp_path / "all")
    threshold = tiny_bundle.manifest.gate_thresholds["0.01"]
    counts = {"purified": 0, "copied": 0}
    for path, row in gated.items():
        counts[row["handled"]] += 1
        assert row["flagged"] == (row["gate_score"] >= threshold) == (row["handled"] == "purified")
        output = (tmp_path / "gated" / row["output"]).read_bytes()
        if row["flagged"]:
            assert output == (tmp_path / "all" / purified[path]["output"]).read_bytes()
            assert row["top_probability"] == pytest.approx(purified[path]["top_probability"], abs=1e-6)
        else:
            assert row["output"] == f"images/{path}"
            assert output == (thirty / path).read_bytes()
            assert row["mean_change"] is row["purify_ms"] is None
    assert min(counts.values()) > 3
    assert result.summary["handled"] == dict(sorted(counts.items(), key=lambda pair: -pair[1]))
    assert result.summary["gate"]["flagged"] == counts["purified"]
    assert result.summary["gate"]["spared_s"] > 0


@pytest.mark.parametrize("unflagged", ["link", "leave"])
def test_files_that_are_not_flagged_are_linked_or_left_where_they_are(
    unflagged: str, thirty: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(thirty, tiny_bundle, tmp_path / "out", RunOptions(gated=True, unflagged=unflagged))  # type: ignore[arg-type]
    others = [row for row in rows_of(tmp_path / "out").values() if not row["flagged"]]
    assert others
    for row in others:
        if unflagged == "link":
            assert (tmp_path / "out" / row["output"]).samefile(thirty / row["path"])
        else:
            assert row["output"] is None
        assert row["handled"] == {"link": "linked", "leave": "left"}[unflagged]
        assert row["top_index"]
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.parametrize("unflagged", ["copy", "leave"])
def test_a_dry_run_names_both_places_where_a_file_may_end(
    unflagged: str, thirty: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions(gated=True, unflagged=unflagged)  # type: ignore[arg-type]
    would = dry_run(thirty, tiny_bundle, tmp_path / "out", options)
    show_dry_run(would, tmp_path / "out")
    said = "".join(capsys.readouterr().out.split())
    run(thirty, tiny_bundle, tmp_path / "out", options)
    found = rows_of(tmp_path / "out")
    for path, purified in would["first"].items():
        assert found[path]["output"] == (purified if found[path]["flagged"] else would["first_unflagged"][path])
        assert f"{purified}ifflagged,else" in said
    assert {found[path]["flagged"] for path in would["first"]} == {True, False}
    assert "first_unflagged" not in dry_run(thirty, tiny_bundle, tmp_path / "other", RunOptions())


@pytest.mark.slow
def test_rows_have_both_predictions_where_both_images_are_classified(
    thirty: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(thirty, tiny_bundle, tmp_path / "gated", RunOptions(gated=True, compare=True))
    run(thirty, tiny_bundle, tmp_path / "all", RunOptions(compare=True))
    gated, everything = rows_of(tmp_path / "gated"), rows_of(tmp_path / "all")
    for path, row in gated.items():
        assert row["unpurified_top_index"] == everything[path]["unpurified_top_index"]
        assert everything[path]["divergence"] > 0
        if row["flagged"]:
            assert row["divergence"] == pytest.approx(everything[path]["divergence"], abs=1e-6)
        else:
            assert row["divergence"] is None
            assert row["top_index"] == row["unpurified_top_index"]


@pytest.mark.slow
def test_a_gated_run_that_is_stopped_is_resumed_and_ends_as_if_it_had_not_been_stopped(
    thirty: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (thirty / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    whole = run(thirty, tiny_bundle, tmp_path / "whole", GATED_RUN)
    stopped = run(thirty, tiny_bundle, tmp_path / "out", RunOptions(gated=True, max_errors=0))
    assert stopped.exit_code == 1
    assert run(thirty, tiny_bundle, tmp_path / "out", GATED_RUN).exit_code == whole.exit_code == 3
    whole, found = rows_of(tmp_path / "whole"), rows_of(tmp_path / "out")
    assert found.keys() == whole.keys()
    for path, row in found.items():
        for column in ("status", "handled", "output", "top_index"):
            assert row[column] == whole[path][column]
    with pytest.raises(ConfigError, match="another"):
        run(thirty, tiny_bundle, tmp_path / "out", RunOptions())


@pytest.mark.slow
def test_two_shards_of_a_gated_run_are_together_what_one_run_is(
    thirty: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", PART_SIZE)
    whole = run(thirty, tiny_bundle, tmp_path / "whole", GATED_RUN)
    folders = [tmp_path / "one", tmp_path / "two"]
    for i, out in enumerate(folders):
        assert run(thirty, tiny_bundle, out, replace(GATED_RUN, shard=(i, 2))).summary["inputs"] < 30
    merged = merge(folders)
    assert merged["finished"]
    assert merged["handled"] == whole.summary["handled"]
    assert merged["gate"]["flagged"] == whole.summary["gate"]["flagged"] == merged["handled"]["purified"]
    whole, found = rows_of(tmp_path / "whole"), {out: rows_of(out) for out in folders}
    assert not found[folders[0]].keys() & found[folders[1]].keys()
    assert {path for rows in found.values() for path in rows} == whole.keys()
    for out, rows in found.items():
        assert len({row["handled"] for row in rows.values()}) == 2
        for path, row in rows.items():
            for column in ("status", "handled", "output", "top_index", "gate_score"):
                assert row[column] == whole[path][column]
            assert (out / row["output"]).read_bytes() == (tmp_path / "whole" / row["output"]).read_bytes()


@pytest.mark.parametrize("unflagged", ["copy", "link"])
def test_members_of_an_archive_that_are_not_flagged_are_copied_out_of_it(
    unflagged: str, thirty: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source = tmp_path / "shards"
    source.mkdir()
    with tarfile.open(source / "part.tar", "w") as shard:
        for folder in ("cats", "dogs"):
            shard.add(thirty / folder, folder)
    run(source, tiny_bundle, tmp_path / "out", RunOptions(gated=True, unflagged=unflagged))  # type: ignore[arg-type]
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 30
    assert {row["handled"] for row in rows.values()} == {"purified", "copied"}  # nothing links to a part of a file
    for path, row in rows.items():
        inside = path.removeprefix("part.tar/")
        if row["flagged"]:
            assert row["output"] == f"images/part.tar/{PurePosixPath(inside).with_suffix('.png')}"
        else:
            assert row["output"] == f"images/part.tar/{inside}"
            assert (tmp_path / "out" / row["output"]).read_bytes() == (thirty / inside).read_bytes()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system than the temporary folder")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_links_from_one_file_system_to_another_are_refused_before_anything_is_written(
    thirty: Path, tiny_bundle: Bundle, elsewhere: Path, tmp_path: Path
) -> None:
    linking = RunOptions(gated=True, unflagged="link", limit=4)
    out = elsewhere / "not" / "yet"
    for call in (run, dry_run):
        with pytest.raises(ConfigError, match="different file systems") as caught:
            call(thirty, tiny_bundle, out, linking)
        assert "--unflagged copy" in caught.value.hint
    assert list(elsewhere.iterdir()) == []
    assert run(thirty, tiny_bundle, out, replace(linking, unflagged="copy")).exit_code == 0
    assert run(thirty, tiny_bundle, tmp_path / "not" / "yet", linking).exit_code == 0


def test_options_that_cannot_work_together_are_refused_before_anything_is_written(
    thirty: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="Archives hold only purified images"):
        RunOptions(gated=True, packed=True)
    with pytest.raises(ConfigError, match="linked into an object store"):
        RunOptions(gated=True, unflagged="link", images_to="s3://bucket/x")
    with pytest.raises(ConfigError, match=r"no threshold for a false-positive rate of 0\.3"):
        run(thirty, tiny_bundle, tmp_path / "out", RunOptions(gated=True, gate_fpr=0.3))
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4, gate="none")
    without = build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle")
    with pytest.raises(ConfigError, match="has no gate"):
        run(thirty, without, tmp_path / "out", GATED_RUN)
    assert not (tmp_path / "out").exists()
