"""What a run's rows and its summary say."""

import csv
import dataclasses
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from purifyctl.classifiers import load_classifier
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.chain import Chain
from purifyctl.engine.default import default_engine
from purifyctl.engine.graphs import classifier_graph, purifier_graph
from purifyctl.run import RunOptions, plan, run
from purifyctl.run.messages import Setup
from purifyctl.run.plan import Input
from purifyctl.run.rows import COLUMNS, Row
from purifyctl.run.summary import Accuracy, Busy
from purifyctl.run.worker import stages
from purifyctl.run.worker.in_flight import BatchInFlight, ImageInFlight
from purifyctl.run.worker.resources import Resources
from purifyctl.run.worker.writing import mean_change, mean_changes
from tests import tiny


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "rows").to_pylist()


@pytest.mark.slow
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

    setup = Setup(None, ("purifier",), None, Path(), Path(), False, Path(), RunOptions(image_format=None))
    settings = dict.fromkeys(field.name for field in dataclasses.fields(Resources))
    resources = Resources(
        **{**settings, "setup": setup, "chain": Chain({"purifier": Device()}), "entered": lambda *_: None}
    )
    images = [ImageInFlight(Input(None, None, None), Row(name)) for name in "ab"]
    decoded = Future[BatchInFlight]()
    decoded.set_result(BatchInFlight(0, images, images, torch.zeros(2, 4, 4, 3, dtype=torch.uint8)))
    done = stages.infer(resources, decoded, ThreadPoolExecutor(1))
    assert [image.written for image in done.images] == [None, None]
    assert [row.mean_change for row in done.rows()] == [2, 2]


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


def test_rows_are_committed_in_parts(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", 4)
    run(photos, tiny_bundle, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "rows").iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    assert len(rows_of(tmp_path / "out")) == 10


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


@pytest.mark.slow
def test_run_classifies_imagenet_photographs_as_torch_does_on_the_same_files(imagenet: Path, tmp_path: Path) -> None:
    """At most a point of top-1 between the whole pipeline and plain Pillow + torchvision + torch.

    PURIFYCTL_LIMIT: how many photographs; the figure in docs/benchmarks.md is from all of them.
    """
    from torchvision.transforms import v2

    from purifyctl.checkpoint import load_purifier
    from purifyctl.shipped import shipped_checkpoint

    bundle = default_engine()  # which other tests use, too
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
