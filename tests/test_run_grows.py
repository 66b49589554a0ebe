"""A source that has grown: the same command does what is new, and what was done stays."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from purifyctl import console
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, ConfigError
from purifyctl.run import RunOptions, RunResult, dry_run, merge, run
from purifyctl.run.run_folder import RunFolder
from tests import tiny
from tests.kills import assert_same, faulty, files_of, rows_of

pytestmark = [pytest.mark.usefixtures("small_parts"), pytest.mark.slow]

LATER = ("00a.jpg", "29.webp", "new/01.jpg")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What people are told."""
    told: list[str] = []
    for how in ("note", "warn"):
        monkeypatch.setattr(console, how, told.append)
    return told


@pytest.fixture
def source(many: Path, tmp_path: Path) -> Path:
    shutil.copytree(many, tmp_path / "source")
    return tmp_path / "source"


def grow(source: Path) -> None:
    """Three more, of which one has a name that collides."""
    for n, name in enumerate(LATER):
        (source / name).parent.mkdir(exist_ok=True)
        kind = "WEBP" if name.endswith("webp") else "JPEG"
        (source / name).write_bytes(tiny.encoded(tiny.photograph(seed=100 + n), kind))


def by_path(out: Path) -> dict[str, dict]:
    rows = rows_of(out)
    assert len({row["path"] for row in rows}) == len(rows)  # each once
    return {row["path"]: {k: v for k, v in row.items() if k != "batch"} for row in rows}


def this_call(result: RunResult, *names: str) -> tuple[int, ...]:
    return tuple(result.summary["this_call"][name] for name in names)


def test_the_same_command_does_what_is_new_and_nothing_else(
    source: Path, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    out = tmp_path / "out"
    assert this_call(run(source, tiny_bundle, out), "rows", "added") == (30, 30)
    before = {file: file.stat().st_mtime_ns for file in (out / "rows").iterdir()}
    (source / "29.jpg").rename(tmp_path / "29.jpg")  # only to see that rows stay
    grow(source)
    would = dry_run(source, tiny_bundle, out, RunOptions())
    assert (would["inputs"], would["added"], would["shards"], would["finished_shards"]) == (33, 3, 5, 4)
    result = run(source, tiny_bundle, out)
    assert result.exit_code == 0
    assert result.summary["finished"]
    assert (result.summary["inputs"], result.summary["rows"]) == (33, 33)
    assert this_call(result, "rows", "added", "changed", "gone") == (3, 3, 0, 1)
    assert before.items() <= {file: file.stat().st_mtime_ns for file in (out / "rows").iterdir()}.items()
    assert any("3 inputs are added" in text for text in said)
    assert any("1 input (29.jpg) is gone" in text for text in said)
    (tmp_path / "29.jpg").rename(source / "29.jpg")
    assert this_call(run(source, tiny_bundle, out), "rows", "added", "gone") == (0, 0, 0)
    run(source, tiny_bundle, tmp_path / "at once")
    together, rows = by_path(tmp_path / "at once"), by_path(out)
    assert rows["29.webp"].pop("output") == "images/29.webp.png"  # 29.png is taken
    assert together["29.jpg"].pop("output") == "images/29.jpg.png"
    assert (rows["29.jpg"].pop("output"), together["29.webp"].pop("output")) == ("images/29.png", "images/29.webp.png")
    assert rows == together
    batches = [row["batch"] for row in rows_of(out)]
    assert batches == sorted(batches)  # no two batches of a plan have one number
    assert (set(batches)) == set(range(9))


def test_a_run_over_a_source_that_grew_has_the_images_of_one_run_over_it_all(
    source: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    held_back = ["03.jpg", "17.jpg", "29.jpg"]
    for name in held_back:
        (source / name).rename(tmp_path / name)
    run(source, tiny_bundle, tmp_path / "out")
    for name in held_back:
        (tmp_path / name).rename(source / name)
    assert this_call(run(source, tiny_bundle, tmp_path / "out"), "rows") == (3,)
    run(source, tiny_bundle, tmp_path / "at once")
    assert by_path(tmp_path / "out") == by_path(tmp_path / "at once")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "at once")


def test_what_has_changed_is_told_and_stays(source: Path, tiny_bundle: Bundle, tmp_path: Path, said: list[str]) -> None:
    out = tmp_path / "out"
    run(source, tiny_bundle, out)
    (source / "05.jpg").write_bytes((source / "06.jpg").read_bytes())
    before = files_of(out)
    assert this_call(run(source, tiny_bundle, out), "rows", "changed") == (0, 1)
    assert files_of(out) == before
    assert any("1 input (05.jpg) has other content" in text for text in said)


def test_what_is_no_picture_is_counted_and_told_and_fails_only_if_that_is_asked_for(
    source: Path, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    (source / "Thumbs.db").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1"))
    (source / "labels.txt").write_text("cat")
    result = run(source, tiny_bundle, tmp_path / "out", RunOptions(image_format=None, limit=3))
    assert (result.exit_code, result.summary["skipped"]) == (0, 2)
    assert result.summary["left_out"]["no pictures"] == {"n": 2, "such_as": ["Thumbs.db", "labels.txt"]}
    assert any("no pictures: 2 (Thumbs.db, labels.txt). --strict" in text for text in said)
    again = run(source, tiny_bundle, tmp_path / "out", RunOptions(image_format=None, limit=3))
    assert (again.summary["skipped"], again.summary["this_call"]["rows"]) == (2, 0)
    strict = RunOptions(image_format=None, strict=True, include=("*.txt", "*.db", "01.jpg"))
    result = run(source, tiny_bundle, tmp_path / "strict", strict)
    assert (result.exit_code, result.summary["statuses"]) == (3, {"not_an_image": 2, "ok": 1})


def test_the_output_may_lie_in_the_source_and_no_run_takes_the_images_of_another(
    source: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        for rows in (30, 0):
            result = run(source, tiny_bundle, source / name)
            assert (result.exit_code, result.summary["rows"], this_call(result, "rows")) == (0, 30, (rows,))
    assert result.summary["left_out"]["folders of runs"]["such_as"] == ["a/", "b/"]


@pytest.mark.parametrize("options", [{}, {"packed": True}], ids=["tree", "archives"])
def test_a_call_that_is_killed_while_it_extends_the_plan_or_works_on_what_is_new_loses_nothing(
    source: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    out, chosen = tmp_path / "out", RunOptions(**options)
    run(source, tiny_bundle, out, chosen)
    grow(source)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(out, undisturbed)
    run(source, tiny_bundle, undisturbed, chosen)
    for step in ("os.link", "pathlib.Path.unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(step, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(source, tiny_bundle, out, chosen)
        assert not (out / "plan-00001.parquet").exists()
    with pytest.raises(BackendError):
        run(source, tiny_bundle, out, chosen, worker=faulty("engine-fails=0"))
    assert (out / "plan-00001.parquet").exists()
    assert not (out / "summary.json").exists()  # nothing says that everything is done
    assert this_call(run(source, tiny_bundle, out, chosen), "rows", "added") == (3, 0)
    assert_same(out, undisturbed)


def test_calls_that_share_a_run_extend_its_plan_once(source: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in range(2):
        run(source, tiny_bundle, out, RunOptions(shard=(i, 2)))
    grow(source)
    second = run(source, tiny_bundle, out, RunOptions(shard=(1, 2)))
    assert this_call(second, "rows", "added") == (0, 3)  # part 4 is that of shard 0
    assert merge([out])["missing_shards"] == [4]
    first = run(source, tiny_bundle, out, RunOptions(shard=(0, 2)))
    assert this_call(first, "rows", "added") == (3, 0)
    merged = merge([out])
    assert (merged["finished"], merged["rows"], merged["inputs"]) == (True, 33, 33)
    assert len(by_path(out)) == 33


def test_a_call_whose_plan_another_one_extends_meanwhile_says_that_it_is_not_finished(
    source: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, clean = tmp_path / "out", RunFolder.clean

    def meanwhile(self: RunFolder, parts: range) -> None:
        clean(self, parts)
        monkeypatch.setattr(RunFolder, "clean", clean)
        grow(source)
        run(source, tiny_bundle, out, RunOptions(shard=(1, 2)))

    monkeypatch.setattr(RunFolder, "clean", meanwhile)
    result = run(source, tiny_bundle, out, RunOptions(shard=(0, 2)))
    assert (result.exit_code, result.summary["finished"]) == (130, False)
    result = run(source, tiny_bundle, out, RunOptions(shard=(0, 2)))
    assert (result.exit_code, result.summary["finished"]) == (0, True)
    assert len(by_path(out)) == 33


def test_shards_in_folders_of_their_own_are_merged_after_both_have_grown(
    source: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]

    def run_half(i: int) -> None:
        run(source, tiny_bundle, halves[i], RunOptions(shard=(i, 2), image_format=None))

    for i in range(2):
        run_half(i)
    grow(source)
    run_half(0)
    with pytest.raises(ConfigError, match="do not have the same plan"):
        merge(halves)
    run_half(1)
    assert merge(halves)["rows"] == 33


def test_a_run_that_version_0_1_0_began_continues_and_grows(source: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BackendError):
        run(source, tiny_bundle, out, worker=faulty("engine-fails=0"))
    table = pq.read_table(out / "plan.parquet").drop_columns(["stamp"])  # as it wrote plans, with its names
    names = [path + b".png" for path in table["path"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("output"), "output", [names])
    pq.write_table(table, out / "plan.parquet", row_group_size=8)
    grow(source)
    result = run(source, tiny_bundle, out)
    assert this_call(result, "rows", "added", "changed", "gone") == (33, 3, 0, 0)
    outputs = {path: row["output"] for path, row in by_path(out).items()}
    assert (outputs["00.jpg"], outputs["29.webp"]) == ("images/00.jpg.png", "images/29.png")
    assert json.loads((out / "summary.json").read_text())["finished"]


def test_images_can_keep_the_names_and_formats_of_their_inputs(
    tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for name, kind in (("a.JPG", "JPEG"), ("b.webp", "WEBP"), ("c.png", "PNG"), ("d.bmp", "BMP")):
        (photos / name).write_bytes(tiny.encoded(tiny.photograph(), kind))
    assert run(photos, tiny_bundle, tmp_path / "out", RunOptions(keep_names=True)).exit_code == 0
    made = {}
    for file in (tmp_path / "out" / "images").iterdir():
        with Image.open(file) as image:
            made[file.name] = image.format
    assert made == {"a.JPG": "JPEG", "b.webp": "WEBP", "c.png": "PNG", "d.png": "PNG"}
    assert any("Written as PNG, because their own formats cannot be written: .bmp 1" in text for text in said)


def test_with_a_gate_what_comes_later_overwrites_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    photos, options = tmp_path / "photos", RunOptions(gated=True)
    photos.mkdir()
    for i in range(8):
        (photos / f"{i}.jpg").write_bytes(tiny.encoded(tiny.photograph((64, 64), seed=i), "JPEG"))
    run(photos, tiny_bundle, tmp_path / "out", options)
    before = files_of(tmp_path / "out")
    for i in range(8):
        (photos / f"{i}.png").write_bytes(tiny.encoded(tiny.photograph((64, 64), seed=7 - i), "PNG"))
    result = run(photos, tiny_bundle, tmp_path / "out", options)
    assert set(result.summary["handled"]) == {"copied", "purified"}
    after = files_of(tmp_path / "out")
    assert len(after) == 16
    assert before.items() <= after.items()
