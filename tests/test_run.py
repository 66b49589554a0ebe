import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from purifyctl.classifiers import load_classifier
from purifyctl.config import EngineConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.graphs import classifier_graph, purifier_graph
from purifyctl.errors import ConfigError
from purifyctl.run import RunOptions, plan, run
from purifyctl.run.rows import COLUMNS, Row
from purifyctl.run.summary import Accuracy, Busy
from purifyctl.run.worker import stages
from purifyctl.run.worker.work import BatchInFlight, Resources
from purifyctl.run.worker.writing import mean_change, mean_changes
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


def test_rows_say_by_how_many_grey_levels_each_image_was_changed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i in range(5):  # as large as the engine takes them: nothing is resized
        tiny.photograph((tiny.SIZE, tiny.SIZE), seed=i).save(source / f"{i}.png")
    (source / "bad.png").touch()
    result = run(source, tiny_bundle, tmp_path / "out")
    run(source, tiny_bundle, tmp_path / "rows", RunOptions(image_format=None))
    changes = []
    for row, other in zip(rows_of(tmp_path / "out"), rows_of(tmp_path / "rows"), strict=True):
        assert row["mean_change"] == other["mean_change"]
        if row["status"] != "ok":
            assert row["mean_change"] is None
            continue
        with Image.open(source / row["path"]) as before, Image.open(tmp_path / "out" / row["output"]) as after:
            change = np.abs(np.asarray(after).astype(int) - np.asarray(before).astype(int)).mean()
        assert row["mean_change"] == pytest.approx(change)
        changes.append(change)
    assert min(changes) > 0
    assert result.summary["mean_change"]["p50"] == pytest.approx(np.median(changes), abs=1e-3)


def test_batches_on_a_device_are_compared_as_those_in_host_memory_are() -> None:
    before, after = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    expected = np.abs(after.astype(int) - before.astype(int)).mean(axis=(1, 2, 3))
    assert [mean_change(a, b) for a, b in zip(after, before, strict=True)] == pytest.approx(expected)
    on_device = mean_changes(torch.from_numpy(after), torch.from_numpy(before))
    assert on_device == pytest.approx(expected)


def test_rows_only_of_a_batch_on_a_device_need_no_image_in_host_memory() -> None:
    class Device:
        def infer(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (images + 2,)

    settings = dict.fromkeys(field.name for field in dataclasses.fields(Resources))
    job = Resources(**{**settings, "purifier": Device(), "entered": lambda *_: None})
    work = BatchInFlight(0, [], [Row("a"), Row("b")], [], [0, 1], torch.zeros(2, 4, 4, 3, dtype=torch.uint8))
    decoded = Future[BatchInFlight]()
    decoded.set_result(work)
    done, written = stages.infer(job, decoded, ThreadPoolExecutor(1))
    assert written == []
    assert [row.mean_change for row in done.rows] == [2, 2]


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
    result = run(source, tiny_bundle, tmp_path / "out")
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert {path: row["status"] for path, row in rows.items()} == expected
    assert result.exit_code == 3
    for row in rows.values():
        assert (row["error"] is None) == (row["status"] == "ok") == (row["output"] is not None)


def test_names_that_are_no_text_are_read_and_listed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = tiny.hostile_files()["photo.jpg"][0]
    for name in (b"caf\xe9.jpg", b"line\nbreak.jpg", b"-rf *.jpg", b"x" * 251 + b".jpg"):
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(data)
    result = run(source, tiny_bundle, tmp_path / "out", RunOptions(csv=True, jsonl=True))
    rows = rows_of(tmp_path / "out")
    # the longest has no room for the ending that is added, and says so
    assert sorted(row["status"] for row in rows) == ["ok", "ok", "ok", "write_failed"]
    assert "caf\\xe9.jpg" in {row["path"] for row in rows}
    assert result.exit_code == 3


def test_csv_and_json_lines_say_what_parquet_says(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out, RunOptions(csv=True, jsonl=True))
    rows = rows_of(out)
    assert [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()] == rows
    with (out / "rows.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert tuple(read[0]) == COLUMNS
    assert [r["path"] for r in read] == [r["path"] for r in rows]
    assert [json.loads(r["top_index"]) for r in read] == [r["top_index"] for r in rows]


def test_two_runs_make_the_same_bytes(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(photos, tiny_bundle, tmp_path / name)
    one, two = (
        {str(f.relative_to(tmp_path / n)): f.read_bytes() for f in sorted((tmp_path / n / "images").rglob("*.*"))}
        for n in ("one", "two")
    )
    assert one == two
    assert len(one) == 10


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


def test_rows_are_committed_in_parts(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", 4)
    run(photos, tiny_bundle, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "rows").iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    assert len(rows_of(tmp_path / "out")) == 10


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


def test_accuracy_of_a_hand_made_table() -> None:
    summed = Accuracy()
    summed.add(
        {
            "status": ["ok", "ok", "ok", "empty"],
            "true_index": [1, 2, None, 3],
            "top_index": [[1, 5], [7, 2], [4, 3], []],
            "top_probability": [[0.9, 0.1], [0.6, 0.3], [0.3, 0.2], []],
            "true_probability": [0.9, 0.3, None, None],
            "unpurified_top_index": [[1, 5], [2, 7], [5, 4], []],
            "unpurified_top_probability": [[0.8, 0.1], [0.6, 0.3], [0.4, 0.2], []],
            "unpurified_true_probability": [0.8, 0.6, None, None],
        }
    )
    assert summed.figures() == {
        "classified": 3,
        "labelled": 2,
        "top1": 0.5,
        "unpurified_top1": 1.0,
        "top1_confidence": 0.6,
        "true_confidence": 0.6,
        "unpurified_top1_confidence": 0.6,
        "misclassification_rate": pytest.approx(0.6667),
    }


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


@pytest.mark.slow
def test_run_classifies_imagenet_photographs_as_torch_does_on_the_same_files(imagenet: Path, tmp_path: Path) -> None:
    """At most a point of top-1 between the whole pipeline and plain Pillow + torchvision + torch.

    PURIFYCTL_LIMIT: how many photographs; the figure in docs/benchmarks.md is from all of them.
    """
    from torchvision.transforms import v2

    from purifyctl.checkpoint import load_purifier, shipped_checkpoint

    bundle = build_engine(
        EngineConfig(classifier=CLASSIFIER, weights=WEIGHTS), shipped_checkpoint(), tmp_path / "bundle"
    )
    limit = int(os.environ.get("PURIFYCTL_LIMIT", "200"))
    result = run(imagenet / "imagenet-samples", bundle, tmp_path / "out", RunOptions(image_format=None, limit=limit))
    rows = rows_of(tmp_path / "out")
    assert result.summary["statuses"] == {"ok": len(rows)}
    purify = purifier_graph(load_purifier(shipped_checkpoint()).net)
    classify = classifier_graph(load_classifier(CLASSIFIER, WEIGHTS))
    transform = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(256)])
    hits = 0
    for row in rows:
        file = imagenet / "imagenet-samples" / row["path"]
        with Image.open(file) as opened:
            upright = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        image = transform(torch.from_numpy(upright).permute(2, 0, 1))
        with torch.inference_mode():
            hits += int(classify(purify(image.permute(1, 2, 0)[None])).argmax()) == row["true_index"]
    print(
        f"top-1 on {len(rows)} photographs: run {result.summary['accuracy']['top1']:.4f}, torch {hits / len(rows):.4f}"
    )
    assert abs(result.summary["accuracy"]["top1"] - hits / len(rows)) <= 0.01


def test_the_stage_whose_threads_are_busy_is_what_limits_a_run() -> None:
    batch = [Row(str(i), decode_ms=50, purify_ms=300, classify_ms=150, encode_ms=50) for i in (1, 2)]
    broken = Row("broken", status="decode_failed", read_ms=200)
    busy = Busy()
    busy.add([broken, *batch])
    threads = {"read": 4, "decode": 1, "infer": 1, "write": 2}
    shares = {"read": 0.05, "decode": 0.1, "infer": 0.9, "write": 0.05}
    assert busy.figures(1.0, threads) == {"busy": shares, "limited_by": "infer"}
    assert busy.figures(2.0, threads)["limited_by"] is None
