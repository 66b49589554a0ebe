"""Attacks, evaluations and Python programs on pictures of any size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import purifyctl
from purifyctl.attacking import attack_folder
from purifyctl.config import AttackConfig, NetworkConfig
from purifyctl.config.attack import AttackOptions
from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import InputError
from purifyctl.evaluation import evaluate
from purifyctl.images.geometry import fit
from purifyctl.photographs import show_square, to_pixels, to_tensor
from purifyctl.report.evaluation import write_evaluation
from purifyctl.run import RunOptions, run
from purifyctl.run.rows import read_rows
from tests import tiny

SIZES = ((90, 60), (64, 64), (71, 130), (300, 240))  # (width, height)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, size in enumerate(SIZES):
        folder = tmp_path / "pictures" / ("dogs", "cats")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tiny.photograph(size, seed=i).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


@pytest.mark.parametrize("size", [(300, 200), (200, 513), (64, 64), (40, 30)])
def test_a_network_is_shown_the_square_that_an_engine_sees(size: tuple[int, int]) -> None:
    seen: list[torch.Tensor] = []
    net = torch.nn.Identity()
    show_square(net, 64)
    net.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    photo = tiny.photograph(size)
    x = to_tensor(np.asarray(photo)[None].copy()).requires_grad_()
    net(x).sum().backward()
    expected = np.asarray(fit(photo, 64)).astype(int)
    assert np.abs(to_pixels(seen[0])[0] - expected).mean() < 0.5
    assert x.grad is not None


@pytest.mark.parametrize("through", [False, True])
def test_attacked_pictures_keep_their_size_and_stay_within_the_budget(
    through: bool, pictures: Path, tmp_path: Path
) -> None:
    options = AttackOptions(
        steps=2,
        classifier="tests.tiny:classifier",
        image_size="original",
        through_purifier=tiny.checkpoint(tmp_path / "run") if through else None,
    )
    result = attack_folder(pictures, tmp_path / "out", options)
    assert result.manifest["image_size"] == "original"
    assert result.manifest["statuses"] == {"ok": len(SIZES)}
    for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        before, after = pixels_of(pictures / row["path"]).astype(int), pixels_of(tmp_path / "out" / row["output"])
        assert before.shape == after.shape
        assert 0 < np.abs(before - after).max() == row["max_delta_255"] <= 8


@pytest.mark.slow
def test_an_evaluation_takes_pictures_at_their_own_size(pictures: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(
        checkpoint=tiny.checkpoint(tmp_path / "run"),
        classifier="tests.tiny:animals",
        threat_models=("clean", "gray_box", "adaptive"),
        attacks=(AttackConfig("fgsm"),),
        eps=("8/255",),
        image_size="original",
        gate=Path("shipped"),
    )
    result = evaluate(pictures, tmp_path / "out", options)
    assert (result.exit_code, result.document["n"]) == (0, len(SIZES))
    write_evaluation(result, tmp_path / "out")
    assert "their own size" in (tmp_path / "out" / "evaluation.md").read_text()
    assert evaluate(pictures, tmp_path / "out", options).document["cells"] == result.document["cells"]


def test_an_opened_engine_purifies_a_whole_picture_as_a_run_does(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(pictures, tiny_bundle, tmp_path / "out", RunOptions(size="original"))
    rows = [row for part in (tmp_path / "out" / "rows").glob("*") for row in read_rows(part)]
    with purifyctl.Engine(tiny_bundle.path) as engine:
        for row in rows:
            with Image.open(pictures / row["path"]) as image:
                whole = engine.whole(image)
            assert np.array_equal(whole, pixels_of(tmp_path / "out" / row["output"]))
        with pytest.raises(InputError, match="height, width, 3"):
            engine.whole(np.zeros((4, 5), np.uint8))


@pytest.mark.parametrize("network", [tiny.NETWORK, NetworkConfig("redraw", width=8, depth=2, classes=5)])
def test_a_transform_purifies_large_pictures_in_tiles_where_tiles_agree(network: NetworkConfig) -> None:
    purifier = tiny.module(network)
    transform = purifyctl.PurifyTransform(purifier)
    photo = tiny.photograph((900, 530))
    with torch.inference_mode():
        whole = to_pixels(purifier(to_tensor(np.asarray(photo)[None].copy())))[0]
    made = np.asarray(transform(photo)).astype(int)
    differs = np.abs(made - whole).max(2)
    assert (differs > 1).mean() < 0.01
    as_tensor = transform(torch.from_numpy(np.array(photo)).permute(2, 0, 1))
    assert np.array_equal(as_tensor.permute(1, 2, 0).numpy(), made)
