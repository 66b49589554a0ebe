import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from purifyctl.config import EngineConfig, NetworkConfig, read_recipe
from purifyctl.engine import parity
from purifyctl.engine.backends import open_runner
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.parity import Tolerance, gate_scores
from purifyctl.engine.staging import one_at_a_time
from purifyctl.errors import BackendError, ConfigError, ParityError, WeightsError
from purifyctl.gate import load_gate
from purifyctl.images.synthetic import natural_images
from purifyctl.shipped import shipped_checkpoint
from tests import tiny

ROOT = Path(__file__).parents[1]


def config(**changes: object) -> EngineConfig:
    return EngineConfig(**{"image_size": tiny.SIZE, "batch_size": 2, **changes})


def test_a_bundle_says_what_it_is_and_how_well_it_agrees_with_torch(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert manifest.backend == "openvino"
    assert manifest.networks["purifier"].name == "residual"
    assert set(manifest.files) == {"purifier.onnx", "classifier.onnx", "gate.onnx"}
    assert manifest.parity.networks["purifier"]["batch_4"]["mean_grey"] <= 0.02
    assert manifest.parity.networks["classifier"]["batch_1"]["top1_agreement"] == 1
    assert "--classifier tests.tiny:classifier" in manifest.rebuild
    assert load_bundle(tiny_bundle.path) == tiny_bundle


def test_a_bundle_names_the_rewrites_of_its_networks(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.manifest.networks["purifier"].rewrites == ("fold_norms",)
    assert tiny_bundle.manifest.networks["classifier"].rewrites == ()


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "fp16")])
def test_the_reference_backend_builds_in_both_its_precisions(backend: str, precision: str, tmp_path: Path) -> None:
    bundle = build_engine(config(backend=backend, precision=precision), tiny.checkpoint(tmp_path), tmp_path / "b")
    assert bundle.open("purifier").concurrency == 1
    assert set(bundle.manifest.networks) == {"purifier", "gate"}


@pytest.mark.slow
def test_an_rtx_bundle_holds_a_plan_per_card_and_says_what_parity_covers(tmp_path: Path) -> None:
    rtx = config(backend="tensorrt-rtx", precision="fp16", targets=("SM86", "SM120"))
    bundle = build_engine(rtx, tiny.checkpoint(tmp_path), tmp_path / "bundle")
    for name in ("purifier", "gate"):
        plans = bundle.manifest.networks[name].plans
        assert plans == {card: f"plans/{card}/{name}.plan" for card in ("SM86", "SM120")}
        assert all((bundle.path / plan).stat().st_size > 1000 for plan in plans.values())
    assert "graph only" in bundle.manifest.parity.covers
    assert bundle.manifest.varies == ""
    with pytest.raises(BackendError, match="NVIDIA GPU"):
        bundle.open("purifier")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_gate_of_a_bundle_gives_the_scores_that_torch_gives(backend: str, tmp_path: Path) -> None:
    images = natural_images(6, tiny.SIZE)
    images[3:] = images[3:] // 32 * 32  # with steps that a blur takes out
    gate = tiny.gate(tmp_path / "gate.safetensors", images)
    checkpoint = tiny.checkpoint(tmp_path / "run")
    bundle = build_engine(config(backend=backend, batch_size=4, gate=str(gate)), checkpoint, tmp_path / "bundle")
    reference = gate_scores(load_gate(gate).net, images)
    assert np.ptp(reference) > 0.01
    with bundle.open("gate") as runner:
        found = np.concatenate([runner.infer(part)[0] for part in (images[:4], images[4:])])
    assert found.shape == (6,)
    assert found == pytest.approx(reference, abs=1e-4)


@pytest.mark.slow
def test_explain_says_of_each_network_where_it_begins_to_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = config(backend="onnxruntime", precision="fp16")
    build_engine(half, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle", explain=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "against FP32" in line]
    assert [line.split(" against")[0] for line in said] == [f"{n}, onnxruntime fp16" for n in ("purifier", "gate")]
    for line in said:
        assert re.search(r"(none of|the first of) \d+ layers .*; most: \S+ \(\w+\), \S+ of its largest value\.$", line)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cpu", "int8", "rtx"])
def test_the_engine_recipes_build_unchanged(recipe: str, tmp_path: Path) -> None:
    recipe_file = ROOT / "engines" / f"{recipe}.toml"
    bundle = build_engine(read_recipe(recipe_file, EngineConfig), shipped_checkpoint(), tmp_path / "bundle")
    assert tuple(bundle.manifest.networks["purifier"].plans) == (
        ("SM75", "SM80", "SM86", "SM89", "SM120") if recipe == "rtx" else ()
    )


@pytest.mark.slow
def test_an_engine_that_does_not_agree_with_torch_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCES, "fp32", Tolerance(mean_grey=-1, max_grey=0, probability=0, agreement=1))
    with pytest.raises(ParityError, match="does not agree with torch"):
        build_engine(config(), tiny.checkpoint(tmp_path / "run"), tmp_path / "bundles" / "b")
    assert list((tmp_path / "bundles").iterdir()) == []


@pytest.mark.slow
def test_only_a_bundle_is_ever_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    checkpoint = tiny.checkpoint(tmp_path / "run")
    for target in (mine, mine / "thesis.txt"):
        with pytest.raises(ConfigError, match="no engine bundle"):
            build_engine(config(), checkpoint, target, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    build_engine(config(), checkpoint, tmp_path / "bundle")
    with pytest.raises(ConfigError, match="--overwrite"):
        build_engine(config(), checkpoint, tmp_path / "bundle")
    build_engine(config(), checkpoint, tmp_path / "bundle", overwrite=True)


@pytest.mark.slow
def test_a_killed_build_leaves_the_bundle_that_was_there_or_none(tiny_bundle: Bundle, tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "run")
    for out in (tmp_path / "new", tmp_path / "old"):
        if out.name == "old":
            shutil.copytree(tiny_bundle.path, out)
        words = ["build-engine", "--checkpoint", checkpoint, "--classifier", "none", "--out", out, "--overwrite"]
        words += ["--image-size", tiny.SIZE]
        build = subprocess.Popen([sys.executable, "-m", "purifyctl", *map(str, words)], cwd=ROOT)
        while not any(tmp_path.glob(f".{out.name}.*.part/*.onnx")):  # it has begun to write
            assert build.poll() is None
            time.sleep(0.01)
        build.kill()
        assert build.wait() == -signal.SIGKILL
    assert not (tmp_path / "new").exists()
    assert load_bundle(tmp_path / "old").manifest == tiny_bundle.manifest
    (left,) = tmp_path.glob(".new.*.part")
    running, of_another, mine = (
        tmp_path / n for n in (".new.running0.part", ".newer.abcdefgh.part", ".new.notes.part")
    )
    for folder in (running, of_another, mine):
        folder.mkdir()
        (folder / "purifier.onnx").touch()
    lock = os.open(running, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as a running build holds it
    build_engine(config(gate="none"), checkpoint, tmp_path / "new")
    os.close(lock)
    assert not left.exists()
    assert running.is_dir()
    assert of_another.is_dir()
    assert mine.is_dir()
    assert list(tmp_path.glob(".old.*.part"))  # of another bundle


def test_two_that_want_the_same_engine_build_it_once(tmp_path: Path) -> None:
    built = tmp_path / "cache" / "engine"

    def want(_: int) -> str:
        with one_at_a_time(built):
            if built.exists():
                return "found"
            time.sleep(0.1)
            built.touch()
            return "built"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(want, range(4))) == ["built", "found", "found", "found"]


def test_a_size_that_does_not_suit_the_network_is_refused(tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path, NetworkConfig(kind="unet", width=2, depth=6))
    with pytest.raises(ConfigError, match="multiples of 64"):
        build_engine(config(image_size=96), checkpoint, tmp_path / "bundle")


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.safetensors"
    file.write_bytes(b"x" * 100)
    with pytest.raises(WeightsError, match="damaged"):
        build_engine(config(), file, tmp_path / "bundle")
    with pytest.raises(WeightsError, match="no checkpoint"):
        build_engine(config(), tmp_path / "missing", tmp_path / "bundle")


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no backend abacus"):
        open_runner("abacus", tmp_path, precision="fp32", image_size=64, batch_size=1)


def test_ctrl_c_still_works_when_engines_have_come_and_gone(tiny_bundle: Bundle) -> None:
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from purifyctl.engine.bundle import load_bundle\n"
        "bundle = load_bundle(Path(sys.argv[1]))\n"
        "earlier, later = bundle.open('purifier'), bundle.open('classifier')\n"
        "del earlier\n"
        "del later\n"
        "signal.signal(signal.SIGINT, lambda *_: print('draining'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_bundle.path], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "draining\n"), done.stderr
