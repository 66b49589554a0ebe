"""A run from end to end: what comes in, what comes out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from purifyctl.config import EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.graphs import classifier_graph
from purifyctl.errors import ConfigError
from purifyctl.run import RunOptions, run
from tests import tiny

AS_ROOT = os.geteuid() == 0


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "rows").to_pylist()


def test_every_input_becomes_one_row_and_one_image_in_the_mirrored_tree(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(photos, tiny_bundle, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert result.exit_code == 0
    assert sorted(row["path"] for row in rows) == sorted(str(p.relative_to(photos)) for p in photos.rglob("*.jpg"))
    for row in rows:
        assert row["status"] == "ok"
        assert (row["height"], row["width"]) == (60, 90)
        assert row["bundle"] == tiny_bundle.sha256
        with Image.open(tmp_path / "out" / row["output"]) as image:
            assert image.size == (tiny.SIZE, tiny.SIZE)
    assert result.summary["statuses"] == {"ok": 10}
    assert result.summary["finished"]
    assert set(result.summary["this_call"]["busy"]) == {"read", "decode", "infer", "write"}
    assert set(result.summary["stage_ms"]) == {"read", "decode", "purify", "classify", "encode", "write"}


@pytest.mark.slow
def test_one_graph_for_both_networks_gives_the_rows_and_images_of_two(photos: Path, tmp_path: Path) -> None:
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4, classifier="tests.tiny:classifier", fused=True)
    fused = build_engine(config, tiny.checkpoint(tmp_path), tmp_path / "fused")
    for name, compare in (("together", False), ("apart", True)):  # who compares needs the classifier alone
        run(photos, fused, tmp_path / name, RunOptions(compare=compare))
    together, apart = (rows_of(tmp_path / name) for name in ("together", "apart"))
    for one, two in zip(together, apart, strict=True):
        assert one["top_index"] == two["top_index"]
        assert one["top_probability"] == pytest.approx(two["top_probability"], abs=1e-5)
        pixels = [np.asarray(Image.open(tmp_path / run / one["output"])).astype(int) for run in ("together", "apart")]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1
        assert one["classify_ms"] is None
    run(photos, fused, tmp_path / "purified", RunOptions(classify=False))
    assert not any(row["top_index"] for row in rows_of(tmp_path / "purified"))


def test_what_is_saved_is_what_was_classified(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(photos, tiny_bundle, tmp_path / "out")
    graph = classifier_graph(tiny.classifier())
    for row in rows_of(tmp_path / "out"):
        with Image.open(tmp_path / "out" / row["output"]) as image:
            saved = torch.from_numpy(np.array(image))[None]
        with torch.inference_mode():
            probabilities = graph(saved)[0]
        assert row["top_index"][0] == int(probabilities.argmax())
        assert row["top_probability"][0] == pytest.approx(float(probabilities.max()), abs=1e-4)


@pytest.mark.slow
def test_hostile_files_become_rows_with_a_named_error_and_exit_code_3(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = {}
    for name, (data, status) in tiny.hostile_files().items():
        (source / name).write_bytes(data)
        expected[name] = status
    os.mkfifo(source / "pipe.jpg")
    (source / "dangling.jpg").symlink_to("nowhere")
    expected |= {"pipe.jpg": "unreadable", "dangling.jpg": "unreadable"}
    result = run(source, tiny_bundle, tmp_path / "out", RunOptions(strict=True))
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert {path: row["status"] for path, row in rows.items()} == expected
    assert result.exit_code == 3
    for row in rows.values():
        assert (row["error"] is None) == (row["status"] == "ok") == (row["output"] is not None)


@pytest.mark.slow
def test_names_that_are_no_text_are_read_and_listed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = tiny.hostile_files()["photo.jpg"][0]
    for name in (b"caf\xe9.jpg", b"line\nbreak.jpg", b"-rf *.jpg", b"x" * 255):
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(data)
    result = run(source, tiny_bundle, tmp_path / "out", RunOptions(csv=True, jsonl=True))
    rows = rows_of(tmp_path / "out")
    # the longest has no room for the ending that is added, and says so
    assert sorted(row["status"] for row in rows) == ["ok", "ok", "ok", "write_failed"]
    assert "caf\\xe9.jpg" in {row["path"] for row in rows}
    assert result.exit_code == 3


@pytest.mark.slow
def test_two_runs_make_the_same_bytes(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(photos, tiny_bundle, tmp_path / name)
    one, two = (
        {str(f.relative_to(tmp_path / n)): f.read_bytes() for f in sorted((tmp_path / n / "images").rglob("*.*"))}
        for n in ("one", "two")
    )
    assert one == two
    assert len(one) == 10


@pytest.mark.slow
def test_the_tree_can_be_purified_without_classifying_and_rows_written_without_images(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(photos, tiny_bundle, tmp_path / "a", RunOptions(classify=False))
    assert all(row["top_index"] == [] and row["classify_ms"] is None for row in rows_of(tmp_path / "a"))
    run(photos, tiny_bundle, tmp_path / "b", RunOptions(image_format=None))
    assert not (tmp_path / "b" / "images").exists()
    assert all(row["output"] is None and row["top_index"] for row in rows_of(tmp_path / "b"))


def test_globs_choose_what_is_read(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(photos, tiny_bundle, tmp_path / "out", RunOptions(include=("cats/*",), exclude=("*/3.jpg",)))
    assert [row["path"] for row in rows_of(tmp_path / "out")] == [
        "cats/1.jpg",
        "cats/5.jpg",
        "cats/7.jpg",
        "cats/9.jpg",
    ]


@pytest.mark.slow
def test_an_output_inside_the_source_is_not_read_back(photos: Path, tiny_bundle: Bundle) -> None:
    for _ in range(2):
        result = run(photos, tiny_bundle, photos / "out", RunOptions(on_existing="overwrite"))
        assert result.summary["inputs"] == 10


def test_inputs_are_never_overwritten(photos: Path, tiny_bundle: Bundle) -> None:
    before = {f: f.read_bytes() for f in photos.rglob("*.jpg")}
    images = photos.parent / "images"
    photos.rename(images)
    for source, out in ((images, images), (images, images.parent), (images / "cats", images.parent)):
        with pytest.raises(ConfigError, match="would overwrite the input"):
            run(source, tiny_bundle, out, RunOptions(on_existing="overwrite", image_format="jpeg"))
    images.rename(photos)
    assert {f: f.read_bytes() for f in photos.rglob("*.jpg")} == before


@pytest.mark.slow
def test_only_an_earlier_runs_results_are_replaced_and_only_when_asked(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    with pytest.raises(ConfigError, match="earlier run"):
        run(photos, tiny_bundle, out, RunOptions(on_existing="error"))
    run(photos / "cats", tiny_bundle, out, RunOptions(on_existing="overwrite"))
    assert len(list((out / "images").rglob("*.png"))) == len(rows_of(out)) == 5
    foreign = tmp_path / "foreign"
    (foreign / "rows").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no run of purifyctl made it"):
        run(photos, tiny_bundle, foreign, RunOptions(on_existing="overwrite"))


def test_too_many_errors_stop_the_run(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i in range(80):
        (source / f"{i:02}.jpg").write_bytes(b"")
    result = run(source, tiny_bundle, tmp_path / "out", RunOptions(max_errors=3))
    assert result.exit_code == 1
    assert not result.summary["finished"]
    assert 3 < result.summary["rows"] < 80


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_is_refused(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        run(photos, tiny_bundle, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_ctrl_c_drains_and_commits_and_a_second_aborts(
    signals: tuple[int, ...], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = tiny.encoded(tiny.photograph((2000, 1500)), "JPEG")
    for i in range(600):
        (source / f"{i:03}.jpg").write_bytes(data)
    out = tmp_path / "out"
    words = [
        sys.executable,
        "-m",
        "purifyctl",
        "run",
        str(source),
        "--out",
        str(out),
        "--engine",
        str(tiny_bundle.path),
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while not any((out / "images").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)  # into the middle of the work
    for number in signals:
        process.send_signal(number)
        time.sleep(0.02)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    if len(signals) == 1:
        rows = rows_of(out)
        assert 0 < len(rows) < 600
        assert all(row["status"] == "ok" for row in rows)
        assert json.loads((out / "summary.json").read_text())["rows"] == len(rows)
