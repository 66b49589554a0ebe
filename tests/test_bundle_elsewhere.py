"""Bundles for another machine, of another library version, or from somebody else."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from purifyctl.config import EngineConfig
from purifyctl.engine import bundle as bundle_module
from purifyctl.engine import trust
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.errors import BundleError
from purifyctl.report.table import show_bundle
from tests import tiny
from tests.commands import purifyctl
from tests.damage import changed, edit, flip, whole

__all__ = ["whole"]  # a fixture

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rtx(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Plans for two generations of GPUs. Read only."""
    folder = tmp_path_factory.mktemp("rtx")
    config = EngineConfig(
        backend="tensorrt-rtx",
        precision="fp16",
        targets=("SM75", "SM86"),
        image_size=tiny.SIZE,
        batch_size=2,
        gate="none",
    )
    return build_engine(config, tiny.checkpoint(folder / "run"), folder / "bundle")


def test_plans_of_another_library_version_are_refused_but_can_be_inspected(rtx: Bundle, tmp_path: Path) -> None:
    path = changed(rtx, tmp_path / "bundle", edit(lambda m: m.update(backend_version="0.1")))
    older = load_bundle(path, trusted=True)
    with pytest.raises(BundleError, match="plans do not carry over") as caught:
        older.open("purifier")
    assert caught.value.hint == rtx.manifest.rebuild


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_graphs_of_another_library_version_run_with_a_warning(
    backend: str, whole: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = edit(lambda m: m.update(backend=backend, backend_version=version(backend)))
    load_bundle(changed(whole, tmp_path / "here", here), trusted=True).open("purifier")
    assert "warning" not in capsys.readouterr().err
    older = edit(lambda m: m.update(backend=backend, backend_version="0.1"))
    with load_bundle(changed(whole, tmp_path / "older", older), trusted=True).open("purifier") as runner:
        assert runner.concurrency >= 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"built and checked with {backend} 0.1; here is {version(backend)}" in said


@pytest.mark.parametrize("target", ["SM75", "SM86"])
def test_a_damaged_plan_is_refused_whichever_gpu_it_is_for(target: str, rtx: Bundle, tmp_path: Path) -> None:
    path = changed(rtx, tmp_path / "bundle", flip(f"plans/{target}/purifier.plan", 0.5))
    with pytest.raises(BundleError, match=rf"plans/{target}/purifier\.plan is not the file that was built"):
        load_bundle(path)


def test_a_gpu_that_a_bundle_has_no_plan_for_is_named_with_those_that_it_has(
    rtx: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "_gpu", lambda: ("NVIDIA RTX 6000", "SM120"))  # there may be none here
    with pytest.raises(BundleError, match="plans for SM75, SM86, and this machine's GPU is SM120") as caught:
        rtx.open("purifier")
    assert caught.value.hint == rtx.manifest.rebuild
    monkeypatch.setattr(bundle_module, "_gpu", lambda: ("NVIDIA A10", "SM86"))
    assert rtx._file(rtx.manifest.networks["purifier"]) == "plans/SM86/purifier.plan"


def test_plans_that_were_timed_on_another_gpu_are_refused_although_it_is_of_the_same_generation(
    rtx: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(manifest: dict[str, Any]) -> None:
        purifier = manifest["networks"]["purifier"]
        purifier["plans"] = {"local": purifier["plans"]["SM86"]}
        manifest.update(backend="tensorrt", gpu="NVIDIA A10")

    bundle = load_bundle(changed(rtx, tmp_path / "bundle", edit(timed)), trusted=True)
    purifier = bundle.manifest.networks["purifier"]
    monkeypatch.setattr(bundle_module, "_gpu", lambda: ("NVIDIA A40", "SM86"))
    with pytest.raises(BundleError, match="was built on NVIDIA A10, and here is NVIDIA A40") as caught:
        bundle._file(purifier)
    assert caught.value.hint == rtx.manifest.rebuild
    monkeypatch.setattr(bundle_module, "_gpu", lambda: ("NVIDIA A10", "SM86"))
    assert bundle._file(purifier) == "plans/SM86/purifier.plan"


def test_a_bundle_that_comes_out_different_each_time_says_so_and_why(
    rtx: Bundle, whole: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "SM75" in rtx.manifest.varies
    assert load_bundle(rtx.path).manifest.varies == rtx.manifest.varies
    for bundle, words in ((rtx, rtx.manifest.varies), (whole, "has the same graphs and plans")):
        show_bundle(bundle)
        said = capsys.readouterr()
        assert words in " ".join((said.out + said.err).split())


def test_a_bundle_from_elsewhere_runs_once_it_is_trusted_and_not_before(
    whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PURIFYCTL_STATE", str(tmp_path / "another user"))
    with pytest.raises(BundleError, match="not built here") as caught:
        whole.open("purifier")
    assert whole.sha256 in caught.value.hint
    trust.remember(whole.sha256, whole.path)
    trust.remember(whole.sha256, whole.path)
    assert len((tmp_path / "another user" / "trusted-bundles").read_text().splitlines()) == 1
    with whole.open("purifier") as runner:
        assert runner.concurrency >= 1


def test_inspect_says_what_a_bundle_is_and_runs_nothing(whole: Bundle, tmp_path: Path) -> None:
    done = purifyctl("inspect", whole.path, PURIFYCTL_STATE=str(tmp_path / "another user"))
    assert done.returncode == 0, done.stderr
    assert whole.sha256 in done.stdout
    assert "run it with --trust" in done.stdout
    done = purifyctl("inspect", whole.path, "--json")
    facts = json.loads(done.stdout)
    assert facts["trusted"]
    assert facts["manifest"]["networks"]["fused"]["onnx"] == f"fused.{tiny.ENDING}"


@pytest.mark.slow
def test_run_takes_a_bundle_from_elsewhere_only_with_trust(whole: Bundle, photos: Path, tmp_path: Path) -> None:
    words = ["run", photos, "--engine", whole.path, "--out"]
    for out, more, code in (("one", [], 1), ("two", ["--trust"], 0), ("three", [], 0)):
        done = purifyctl(*words, tmp_path / out, *more, PURIFYCTL_STATE=str(tmp_path / "another user"))
        assert done.returncode == code, done.stderr
    assert not (tmp_path / "one").exists()
