import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from purifyctl.attacking import AttackOptions, attack_folder, batch
from purifyctl.attacks import make
from purifyctl.classifiers import Classifier
from purifyctl.cli import app
from purifyctl.errors import ConfigError, MissingDependencyError
from purifyctl.labels import Labels
from purifyctl.photographs import read_all
from purifyctl.sources import list_images
from tests import tiny

OPTIONS = AttackOptions(steps=2, classifier="tests.tiny:classifier", image_size=tiny.SIZE, batch_size=4)


def named_classifier() -> Classifier:
    """The tiny classifier with names for its classes, and a normalisation."""
    names = ("cats", "dogs", *(f"class {i}" for i in range(2, 10)))
    return Classifier(tiny.classifier(), name="named", labels=Labels(names), mean=(0.5,) * 3, std=(0.5,) * 3)


def other_classifier() -> torch.nn.Module:
    net = tiny.classifier()
    torch.manual_seed(2)
    torch.nn.init.normal_(net[-1].weight, 0, 0.2)
    return net


def two_classes() -> torch.nn.Module:
    return torch.nn.Sequential(tiny.classifier(), torch.nn.Linear(10, 2))


NAMED = replace(OPTIONS, classifier="tests.test_attacking:named_classifier")


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_tree_is_mirrored_and_the_manifest_is_true(photos: Path, tmp_path: Path) -> None:
    before, out = contents(photos), tmp_path / "out"
    result = attack_folder(photos, out, OPTIONS)
    assert result.exit_code == 0
    assert contents(photos) == before
    assert json.loads((out / "manifest.json").read_text()) == json.loads(json.dumps(result.manifest))
    assert set(contents(out / "images")) == {str(Path(name).with_suffix(".png")) for name in before}

    clean, files = read_all(list_images(photos), tiny.SIZE)
    net = tiny.classifier()
    worst = flipped = 0
    for x, file, row in zip(clean, files, rows(out), strict=True):
        assert row["path"] == str(file.path)
        with Image.open(out / row["output"]) as image:
            x_adv = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        moved = round(float((x_adv - x).abs().max() * 255))
        predictions = [int(net(image[None]).argmax()) for image in (x, x_adv)]
        assert predictions == [row["clean_prediction"], row["attacked_prediction"]]
        assert moved == row["max_delta_255"] <= 8
        assert row["label"] == predictions[0]
        assert row["success"] == (predictions[0] != predictions[1])
        worst, flipped = max(worst, moved), flipped + row["success"]
    assert result.manifest["max_delta_255"] == worst
    assert (result.manifest["flipped"], result.manifest["correct_when_clean"]) == (flipped, 10)
    assert result.manifest["attack_success_rate"] == flipped / 10
    assert result.manifest["attack"]["name"] == "PGD-2"
    assert (result.manifest["eps_255"], result.manifest["threat_model"]) == ("8/255", "gray_box")


@pytest.mark.slow
def test_every_input_gets_its_row_whatever_is_in_it(tmp_path: Path) -> None:
    source, out = tmp_path / "hostile", tmp_path / "out"
    source.mkdir()
    hostile = tiny.hostile_files()
    for name, (data, _) in hostile.items():
        (source / name).write_bytes(data)
    result = attack_folder(source, out, OPTIONS)
    assert result.exit_code == 3
    assert {row["path"]: row["status"] for row in rows(out)} == {
        name: status for name, (_, status) in hostile.items() if name != "notes.txt"
    }
    outputs = [row["output"] for row in rows(out) if row["status"] == "ok"]
    assert len(set(outputs)) == len(outputs) == len(contents(out / "images"))
    assert {"images/photo.jpg.png", "images/photo.png", "images/cmyk.png"} <= set(outputs)
    assert result.manifest["attacked"] == len(outputs)
    assert all(row["error"] for row in rows(out) if row["status"] != "ok")


def test_the_same_seed_makes_the_same_images_and_another_seed_others(photos: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        attack_folder(photos, tmp_path / name, replace(OPTIONS, seed=seed))
        made.append(contents(tmp_path / name / "images"))
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_an_interrupted_attack_keeps_its_finished_batches_and_says_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threading.current_thread() is threading.main_thread()
    real = batch.make_attack

    def interrupting(*words: Any, **options: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*words, **options)

    monkeypatch.setattr(batch, "make_attack", interrupting)
    result = attack_folder(photos, tmp_path / "out", OPTIONS)
    assert result.exit_code == 130
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["finished"], manifest["rows"], manifest["inputs"]) == (False, 4, 10)
    assert len(rows(tmp_path / "out")) == len(contents(tmp_path / "out" / "images")) == 4


def test_an_earlier_attack_is_replaced_only_when_asked(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    attack_folder(photos, out, OPTIONS)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="earlier run"):
        attack_folder(photos, out, OPTIONS)
    only = replace(OPTIONS, on_existing="overwrite", include=("cats/*",))
    attack_folder(photos, out, only)
    assert len(contents(out / "images")) == 5
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_that_holds_something_else_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("an engine's")
    with pytest.raises(ConfigError, match="no run of purifyctl made it"):
        attack_folder(photos, tmp_path, replace(OPTIONS, on_existing="overwrite"))
    with pytest.raises(ConfigError, match="overwrite the input"):
        attack_folder(photos, photos, OPTIONS)


def test_labels_come_from_the_folders_when_asked(photos: Path, tmp_path: Path) -> None:
    result = attack_folder(photos, tmp_path / "out", replace(NAMED, labels="folder"))
    for row in rows(tmp_path / "out"):
        assert row["label"] == (0 if row["path"].startswith("cats") else 1)
        assert (row["success"] is None) == (row["clean_prediction"] != row["label"])
    assert result.manifest["correct_when_clean"] == sum(row["success"] is not None for row in rows(tmp_path / "out"))
    (photos / "stray.jpg").write_bytes(tiny.encoded(tiny.photograph(), "JPEG"))
    with pytest.raises(ConfigError, match=r"no true class \(folder names\), such as stray\.jpg"):
        attack_folder(photos, tmp_path / "two", replace(NAMED, labels="folder"))
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("target", ["least-likely", "random", "3", "dogs"])
def test_targets_are_reached_for_and_counted(target: str, photos: Path, tmp_path: Path) -> None:
    result = attack_folder(photos, tmp_path / "out", replace(NAMED, steps=5, target=target, eps="64/255"))
    made = rows(tmp_path / "out")
    if target in ("3", "dogs"):
        assert {row["target"] for row in made} == {3 if target == "3" else 1}
    assert all(row["target"] != row["label"] for row in made)
    assert [row["success"] for row in made] == [row["attacked_prediction"] == row["target"] for row in made]
    assert result.manifest["reached_target"] == sum(row["success"] for row in made)
    assert result.manifest["off_target_when_clean"] == 10


def test_eps_is_converted_from_the_classifiers_units_and_cut_to_grey_levels(photos: Path, tmp_path: Path) -> None:
    options = replace(NAMED, eps="0.1", eps_space="mean-std", kind="fgsm", steps=0)
    result = attack_folder(photos, tmp_path / "out", options)
    assert (result.manifest["eps_255"], result.manifest["max_delta_255"]) == ("12/255", 12)  # 0.1 * 0.5 * 255 = 12.75
    assert result.manifest["eps_asked"] == {"eps": "0.1", "space": "mean-std"}


def test_an_attack_through_a_purifier_judges_what_the_purifier_lets_through(photos: Path, tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "run")
    result = attack_folder(photos, tmp_path / "out", replace(OPTIONS, through_purifier=checkpoint))
    assert result.manifest["threat_model"] == "adaptive"
    assert len(result.manifest["purifier"]["sha256"]) == 64
    purifier, net = tiny.purifier(), tiny.classifier()
    for row in rows(tmp_path / "out"):
        with Image.open(tmp_path / "out" / row["output"]) as image:
            x_adv = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
        purified = torch.round(purifier(x_adv) * 255) / 255
        assert int(net(purified).argmax()) == row["attacked_prediction"]
    square = replace(OPTIONS, through_purifier=checkpoint, kind="square", steps=3)
    assert attack_folder(photos, tmp_path / "two", square).manifest["threat_model"] == "black_box"
    with pytest.raises(ConfigError, match="multiples of 4"):
        attack_folder(photos, tmp_path / "three", replace(OPTIONS, through_purifier=checkpoint, image_size=62))


def test_a_surrogate_is_attacked_and_the_classifier_judged(photos: Path, tmp_path: Path) -> None:
    direct = attack_folder(photos, tmp_path / "direct", OPTIONS)
    surrogate = "tests.test_attacking:other_classifier"
    transfer = attack_folder(photos, tmp_path / "transfer", replace(OPTIONS, surrogate=surrogate))
    assert transfer.manifest["threat_model"] == "transfer"
    assert contents(tmp_path / "direct" / "images") != contents(tmp_path / "transfer" / "images")
    predictions = [[row["clean_prediction"] for row in rows(tmp_path / name)] for name in ("direct", "transfer")]
    assert predictions[0] == predictions[1]
    assert transfer.manifest["attack_success_rate"] <= direct.manifest["attack_success_rate"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": "0.5/255"}, "less than one grey level"),
        ({"eps": "0.1", "eps_space": "mean-std"}, "not known to normalise"),
        ({"surrogate": "tests.test_attacking:two_classes"}, "has 10 classes and the surrogate 2"),
        ({"target": "10"}, "'10' is no class"),
        ({"exclude": ("*",)}, "holds no pictures"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    change: dict[str, Any], words: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        attack_folder(photos, tmp_path / "out", replace(OPTIONS, **change))
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_reported_before_anything_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "installed", {}.get)
    with pytest.raises(MissingDependencyError, match=r"purifyctl\[attacks\]"):
        attack_folder(photos, tmp_path / "out", replace(OPTIONS, kind="cw"))
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_written_is_a_row_that_says_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: Path, _data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch, "write_into_tree", full)
    result = attack_folder(photos, tmp_path / "out", OPTIONS)
    assert result.exit_code == 3
    assert result.manifest["statuses"] == {"write_failed": 10}
    assert all("No space left" in row["error"] and row["output"] is None for row in rows(tmp_path / "out"))


def test_inputs_that_failed_are_named_even_if_it_is_quiet(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (photos / "text.jpg").write_text("no picture")
    words = ["attack", str(photos), "--out", str(tmp_path / "out"), "-q", "--classifier", "tests.tiny:classifier"]
    with pytest.raises(SystemExit) as ended:
        app([*words, "--steps", "1", "--size", str(tiny.SIZE)])
    assert ended.value.code == 3
    said = " ".join(capfd.readouterr().err.split())
    assert "inputs failed: text.jpg: not_an_image." in said
