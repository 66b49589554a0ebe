"""Runs in which every picture keeps its own size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from purifyctl.config import EngineConfig, NetworkConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.graphs import classifier_graph
from purifyctl.engine.tiles import Tiling
from purifyctl.errors import ConfigError
from purifyctl.images.geometry import fit
from purifyctl.photographs import to_pixels, to_tensor
from purifyctl.report.answers import show_summary
from purifyctl.report.run import write_report
from purifyctl.run import RunOptions, run
from purifyctl.run.rows import read_rows
from tests import tiny
from tests.kills import ROOT, assert_same, command, faulty, harass

WHOLE = RunOptions(size="original")
SIZES = ((1, 1), (64, 64), (64, 65), (90, 60), (150, 201), (300, 30), (33, 97), (224, 224))  # (width, height)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of many sizes, in files that keep every value."""
    folder = tmp_path / "pictures" / "dogs"
    folder.mkdir(parents=True)
    for i, size in enumerate(SIZES):
        tiny.photograph(size, seed=i).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted((out / "rows").glob("*.parquet")) for row in read_rows(part)]


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


def at_once(picture: np.ndarray, tiling: Tiling) -> np.ndarray:
    """The whole picture as torch purifies it, with its mirror image around it: int [height, width, 3]."""
    before = [tiling.overlap // 2] * 2
    if max(picture.shape) <= tiling.side:  # it fits into one tile
        before = [min(tiling.overlap // 2, (tiling.side - n) // 2) for n in picture.shape[:2]]
    around = [(n, n + -(length + 2 * n) % tiling.side) for n, length in zip(before, picture.shape[:2], strict=True)]
    with torch.inference_mode():
        purified = tiny.module().net(to_tensor(np.pad(picture, [*around, (0, 0)], mode="reflect")[None]))
    rows, columns = (slice(n, n + length) for n, length in zip(before, picture.shape[:2], strict=True))
    return to_pixels(purified)[0, rows, columns].astype(int)


def test_every_picture_keeps_its_size_and_is_purified_as_torch_does_it_at_once(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(pictures, tiny_bundle, tmp_path / "out", WHOLE)
    assert result.summary["statuses"] == {"ok": len(SIZES)}
    for row, (width, height) in zip(rows_of(tmp_path / "out"), SIZES, strict=True):
        assert (row["width"], row["height"]) == (row["purified_width"], row["purified_height"]) == (width, height)
        made, before = pixels_of(tmp_path / "out" / row["output"]), pixels_of(pictures / row["path"])
        assert row["mean_change"] == pytest.approx(np.abs(made.astype(int) - before).mean(), abs=1e-4)
        assert row["tiles"] >= height * width / 64**2
        differs = np.abs(at_once(before, tiny_bundle.tiling) - made).max(2)
        assert (differs > 1).mean() < 0.01


def test_what_is_classified_is_the_square_of_the_saved_picture(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(pictures, tiny_bundle, tmp_path / "out", RunOptions(size="original", compare=True))
    graph = classifier_graph(tiny.classifier())
    for row in rows_of(tmp_path / "out"):
        for file, top in (
            (tmp_path / "out" / row["output"], row["top_probability"]),
            (pictures / row["path"], row["unpurified_top_probability"]),
        ):
            with Image.open(file) as image, torch.inference_mode():
                seen = torch.from_numpy(np.array(fit(image, tiny.SIZE)))[None]
                assert top[0] == pytest.approx(float(graph(seen).max()), abs=1e-4)
        assert row["divergence"] is not None


@pytest.mark.slow
def test_flagged_pictures_keep_their_size_and_the_others_come_through_bit_for_bit(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(pictures, tiny_bundle, tmp_path / "all", WHOLE)
    run(pictures, tiny_bundle, tmp_path / "gated", RunOptions(size="original", gated=True, compare=True))
    every = {row["path"]: row for row in rows_of(tmp_path / "all")}
    handled = set()
    for row in rows_of(tmp_path / "gated"):
        handled.add(row["handled"])
        output = (tmp_path / "gated" / row["output"]).read_bytes()
        assert row["gate_score"] is not None
        assert row["top_index"]
        if row["flagged"]:
            assert output == (tmp_path / "all" / every[row["path"]]["output"]).read_bytes()
            assert row["top_probability"] == pytest.approx(every[row["path"]]["top_probability"], abs=1e-6)
        else:
            assert output == (pictures / row["path"]).read_bytes()
            assert row["purified_height"] is row["tiles"] is row["purify_ms"] is row["divergence"] is None
            assert row["top_probability"] == pytest.approx(row["unpurified_top_probability"], abs=1e-6)
    assert handled == {"purified", "copied"}


@pytest.mark.slow
def test_a_flat_grey_picture_and_a_smooth_gradient_show_no_seam_and_no_rim(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source, side = tmp_path / "flat", 400
    source.mkdir()
    ramp = np.linspace(40, 200, side)
    smooth = np.stack(np.broadcast_arrays(ramp, ramp[:, None], (ramp + ramp[:, None]) / 2), 2).round().astype(np.uint8)
    Image.fromarray(smooth).save(source / "gradient.png")
    Image.new("RGB", (side, side), (128, 128, 128)).save(source / "grey.png")
    run(source, tiny_bundle, tmp_path / "out", WHOLE)
    grey = pixels_of(tmp_path / "out" / "images" / "grey.png").astype(int)
    multiple = tiny.NETWORK.size_multiple
    for one, other in ((grey[multiple:], grey[:-multiple]), (grey[:, multiple:], grey[:, :-multiple])):
        assert np.abs(one - other).max() <= 1  # the same in every block of the network, whichever tile it came from
    differs = np.abs(pixels_of(tmp_path / "out" / "images" / "gradient.png") - at_once(smooth, tiny_bundle.tiling))
    assert differs.max() <= 1


def test_a_bad_file_among_them_is_one_row_and_the_others_are_purified(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    files = tiny.hostile_files()
    bad = {name: files[name] for name in ("zero.jpg", "truncated.png", "text.jpg", "huge.png")}
    for name, (data, _) in bad.items():
        (pictures / name).write_bytes(data)
    result = run(pictures, tiny_bundle, tmp_path / "out", WHOLE)
    assert result.exit_code == 3
    found = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert {name: found[name]["status"] for name in bad} == {name: status for name, (_, status) in bad.items()}
    assert result.summary["statuses"]["ok"] == len(SIZES)


@pytest.mark.slow
def test_pictures_too_large_for_the_room_are_purified_one_at_a_time(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(pictures, tiny_bundle, tmp_path / "usual", WHOLE)
    assert run(pictures, tiny_bundle, tmp_path / "small", WHOLE, worker=faulty("room=2000")).exit_code == 0
    assert_same(tmp_path / "small", tmp_path / "usual")


@pytest.mark.slow
def test_pictures_from_an_archive_into_archives_are_those_of_a_folder(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    import tarfile

    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(pictures, "")
    run(pictures, tiny_bundle, tmp_path / "folder", WHOLE)
    run(tmp_path / "pictures.tar", tiny_bundle, tmp_path / "tar", RunOptions(size="original", packed=True))
    made = {file.name: file.read_bytes() for file in (tmp_path / "folder" / "images").rglob("*.png")}
    (packed,) = (tmp_path / "tar" / "images").glob("*.tar")
    with tarfile.open(packed) as archive:
        assert {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()} == made  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("fault", "status"), [("segfault", "crashed"), ("hang", "timeout")])
def test_a_picture_that_kills_or_hangs_the_worker_gets_its_row(
    fault: str, status: str, many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = RunOptions(size="original", image_timeout=3)
    result = run(many, tiny_bundle, tmp_path / "out", options, worker=faulty(f"{fault}=05.jpg"))
    assert result.summary["statuses"] == {"ok": 29, status: 1}
    assert next(row for row in rows_of(tmp_path / "out") if row["path"] == "05.jpg")["status"] == status


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_runs_of_whole_pictures_that_are_killed_end_as_an_undisturbed_one(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    import subprocess

    more = ("--size", "original")
    subprocess.run(command(many, tiny_bundle, tmp_path / "undisturbed", *more), cwd=ROOT, check=True)
    done = harass(many, tiny_bundle, tmp_path, tmp_path / "undisturbed", *more, kills=4, seed=0)
    done.pop("runs")
    assert done.total() == 4


def test_another_size_is_refused_when_a_run_is_resumed(pictures: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(pictures, tiny_bundle, tmp_path / "out", WHOLE)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["size"] == "original"
    for other in (RunOptions(), RunOptions(size=64)):
        with pytest.raises(ConfigError, match="size"):
            run(pictures, tiny_bundle, tmp_path / "out", other)


def test_terminal_and_page_say_that_pictures_kept_their_size(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(pictures, tiny_bundle, tmp_path / "out", WHOLE)
    show_summary(result.summary, tmp_path / "out")
    assert "own size, in tiles of 64x64" in " ".join(capsys.readouterr().out.split())
    write_report(tmp_path / "out")
    assert "pictures at their own size, in tiles of 64×64" in (tmp_path / "out" / "report.html").read_text()


def test_a_number_is_the_engines_own_size_or_refused_with_the_command_that_builds_one(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(pictures, tiny_bundle, tmp_path / "out", RunOptions(size=64))
    assert run(pictures, tiny_bundle, tmp_path / "out").summary["finished"]  # the same run
    row = rows_of(tmp_path / "out")[3]
    assert (row["height"], row["purified_height"], row["tiles"]) == (60, 64, None)
    with pytest.raises(ConfigError, match="takes squares of 64 pixels") as refused:
        run(pictures, tiny_bundle, tmp_path / "other", RunOptions(size=128))
    assert "build-engine --image-size 128" in refused.value.hint


@pytest.mark.slow
def test_a_purifier_that_makes_one_drawing_of_a_picture_is_refused(pictures: Path, tmp_path: Path) -> None:
    network = NetworkConfig("redraw", width=8, depth=2, classes=10)
    config = EngineConfig(image_size=64, batch_size=4, gate="none")
    bundle = build_engine(config, tiny.checkpoint(tmp_path, network), tmp_path / "bundle")
    with pytest.raises(ConfigError, match="one drawing"):
        run(pictures, bundle, tmp_path / "out", WHOLE)
    assert not (tmp_path / "out").exists()
