"""Calls that resume a run, share one, or are refused: each ends where an undisturbed run does."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from purifyctl.config import EngineConfig, parse_shard
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, BusyError, ConfigError
from purifyctl.parquet import write_part
from purifyctl.run import RunOptions, dry_run, merge, run
from purifyctl.run.rows import KeptRow, read_rows, write_text
from tests import tiny
from tests.kills import ROOT, assert_same, faulty, rows_of

pytestmark = pytest.mark.usefixtures("small_parts")


def test_a_part_whose_rows_are_all_kept_is_committed_by_the_next_call(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    part = out / "rows" / "part-00002.parquet"
    kept = [KeptRow(**row, position=i) for i, row in enumerate(pq.read_table(part).to_pylist())]
    write_part(kept, KeptRow, out / "rows" / "kept-00002.parquet")
    part.unlink()
    (out / "summary.json").unlink()
    assert run(many, tiny_bundle, out).exit_code == 0
    assert_same(out, undisturbed)
    assert json.loads((out / "summary.json").read_text())["finished"]


@pytest.mark.slow
def test_what_failed_is_tried_again_in_parts_that_are_not_finished_too(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(many, source)
    for name in ("01.jpg", "05.jpg", "09.jpg", "13.jpg"):
        (source / name).write_bytes(b"")
    with pytest.raises(BackendError):
        run(source, tiny_bundle, out, worker=faulty("engine-fails=4"))
    (kept,) = (out / "rows").glob("kept-*")
    write_text([kept], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == [row["status"] for row in read_rows(kept)]
    shutil.copytree(many, source, dirs_exist_ok=True)
    assert run(source, tiny_bundle, out, RunOptions(retry_failed=True)).summary["statuses"] == {"ok": 30}
    assert_same(out, undisturbed)


def test_an_overwrite_that_is_killed_leaves_nothing_that_looks_finished(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    remove = shutil.rmtree

    def killed(path: Path, **options: bool) -> None:
        remove(path, **options)
        if path.name == "images":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run(many, tiny_bundle, out, RunOptions(on_existing="overwrite"))
    assert not (out / "images").exists()
    assert run(many, tiny_bundle, out).exit_code == 0
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_what_a_call_left_that_was_killed_between_two_steps_is_cleaned_up(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(BackendError):
        run(many, tiny_bundle, out, worker=faulty("engine-fails=4"))
    (kept,) = (out / "rows").glob("kept-*")
    # committed, but not removed
    shutil.copytree(undisturbed / "images", out / "images", dirs_exist_ok=True)
    shutil.copy(undisturbed / "rows" / kept.name.replace("kept", "part"), out / "rows")
    (out / "images" / ".0-of-1.partial").mkdir()
    (out / "images" / ".0-of-1.partial" / ".1-2.part").write_bytes(b"half an image")
    for half_written in (f"rows/.{kept.name}.123.part", "rows/.part-00000.parquet.123.part", ".plan.parquet.123.part"):
        (out / half_written).write_bytes(b"half of some rows")
    assert run(many, tiny_bundle, out).exit_code == 0
    assert_same(out, undisturbed)
    assert not list(out.glob(".*.part"))


@pytest.mark.slow
def test_a_later_call_may_be_given_in_another_folder(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(many)
    assert run(Path(), tiny_bundle, tmp_path / "out", RunOptions(shard=(0, 2))).exit_code == 0
    monkeypatch.chdir(ROOT)
    assert run(many, tiny_bundle, tmp_path / "out").exit_code == 0
    assert_same(tmp_path / "out", undisturbed)


def test_a_finished_run_is_not_touched_by_another_call(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*") if f.is_file()}
    result = run(many, tiny_bundle, tmp_path / "out", worker=("no worker is needed",))
    assert (result.exit_code, result.summary["this_call"]["rows"]) == (0, 0)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*") if f.is_file() and f.suffix != ".lock"} == {
        f: t for f, t in before.items() if f.suffix != ".lock"
    }


@pytest.mark.slow
def test_another_engine_source_or_option_is_refused_and_the_difference_is_spelled_out(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match=r"options\.top was 5, is 3"):
        run(many, tiny_bundle, undisturbed, RunOptions(top=3))
    with pytest.raises(ConfigError, match="source was"):
        run(tmp_path / "other", tiny_bundle, undisturbed)
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4)
    another = build_engine(config, tiny.checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle")
    with pytest.raises(ConfigError, match=r"engine\.files_sha256 was"):
        run(many, another, undisturbed)


@pytest.mark.slow
def test_calls_that_share_a_run_do_it_together(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run(many, tiny_bundle, out, RunOptions(shard=(0, 3)))
    assert first.summary["inputs"] == 14  # parts 0 and 3
    assert first.summary["finished"]
    for i in (1, 2):
        assert run(many, tiny_bundle, out, RunOptions(shard=(i, 3))).summary["inputs"] == 8
    assert_same(out, undisturbed)
    assert sorted(p.name for p in (out / "summaries").iterdir()) == [f"{i}-of-3.json" for i in range(3)]
    merged = merge([out])
    assert (merged["inputs"], merged["rows"], merged["finished"]) == (30, 30, True)
    assert merged["accuracy"] == json.loads((undisturbed / "summary.json").read_text())["accuracy"]
    assert run(many, tiny_bundle, out).summary["this_call"]["rows"] == 0
    with pytest.raises(ConfigError, match="overwrite each other"):
        run(many, tiny_bundle, out, RunOptions(shard=(0, 3), on_existing="overwrite"))


@pytest.mark.slow
def test_parts_in_several_folders_are_merged_if_they_are_one_run(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]
    for i, out in enumerate(halves):
        run(many, tiny_bundle, out, RunOptions(shard=(i, 2), image_format=None))
    assert merge(halves[:1])["missing_shards"] == [1, 3]
    assert merge(halves)["statuses"] == {"ok": 30}
    assert json.loads((halves[0] / "summary.json").read_text())["finished"]
    with pytest.raises(ConfigError, match="holds too"):
        merge([halves[0], halves[0]])
    run(many, tiny_bundle, tmp_path / "c", RunOptions(limit=9, image_format=None))
    with pytest.raises(ConfigError, match="another run"):
        merge([halves[0], tmp_path / "c"])
    with pytest.raises(ConfigError, match="holds no run"):
        merge([many])


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    would = dry_run(many, tiny_bundle, tmp_path / "out", RunOptions())
    assert (would["inputs"], would["shards"], would["finished_shards"]) == (30, 4, 0)
    assert would["first"]["00.jpg"] == "images/00.png"
    assert not (tmp_path / "out").exists()
    assert dry_run(many, tiny_bundle, undisturbed, RunOptions(shard=(1, 2)))["finished_shards"] == 2
    with pytest.raises(ConfigError, match=r"options\.top was 5, is 3"):
        dry_run(many, tiny_bundle, undisturbed, RunOptions(top=3))


def test_two_calls_do_not_work_on_the_same_parts(many: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for shard in ((0, 1), (0, 2)):
            with pytest.raises(BusyError, match="Another call is at work"):
                run(many, tiny_bundle, tmp_path / "out", RunOptions(shard=shard))
        lock.write("3")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_SH)  # as one of three does
        with pytest.raises(BusyError, match="among 3 are at work"):
            run(many, tiny_bundle, tmp_path / "out", RunOptions(shard=(0, 2)))
        assert run(many, tiny_bundle, tmp_path / "out", RunOptions(shard=(0, 3))).exit_code == 0


def test_what_was_never_begun_leaves_no_trace(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, why in (("empty", "holds no pictures"), ("missing", "no folder or file")):
        with pytest.raises(ConfigError, match=why):
            run(tmp_path / source, tiny_bundle, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine" / "rows").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no run of purifyctl made it"):
        run(tmp_path / "empty", tiny_bundle, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["rows"]


@pytest.mark.parametrize("text", ["4/4", "x/4", "1", "-1/2", "0/0"])
def test_a_shard_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="There is no shard"):
        RunOptions(shard=parse_shard(text))


def test_a_limit_takes_a_sample_from_everywhere_and_a_larger_one_holds_it(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    paths = {}
    for n in (5, 12):
        result = run(many, tiny_bundle, tmp_path / str(n), RunOptions(limit=n, image_format=None))
        assert result.summary["inputs"] == n
        paths[n] = [row["path"] for row in rows_of(tmp_path / str(n))]
    assert len(set(paths[5])) == 5
    assert set(paths[5]) < set(paths[12])
    assert paths[12] == sorted(paths[12])
    assert max(paths[12]) > "19.jpg"  # not the first ones by name
    assert json.loads((tmp_path / "5" / "run.json").read_text())["options"]["limit"] == 5
