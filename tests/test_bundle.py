"""Bundles that are not what was built: each is refused, with the reason and the next step, and none is ever loaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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
from purifyctl.files import file_sha256
from purifyctl.report.table import show_bundle
from tests import tiny

ROOT = Path(__file__).parents[1]
Damage = Callable[[Path], object]


def flip(name: str, where: float) -> Damage:
    """Turn one bit, so far into the file."""

    def damage(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[int(where * (len(data) - 1))] ^= 1
        (bundle / name).write_bytes(data)

    return damage


def cut(name: str, left: float) -> Damage:
    def damage(bundle: Path) -> None:
        data = (bundle / name).read_bytes()
        (bundle / name).write_bytes(data[: int(left * (len(data) - 1))])

    return damage


def write(name: str, data: bytes) -> Damage:
    def damage(bundle: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(data)

    return damage


def edit(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the manifest as a program would."""

    def damage(bundle: Path) -> None:
        data = json.loads((bundle / "manifest.json").read_text())
        change(data)
        (bundle / "manifest.json").write_text(json.dumps(data, indent=1) + "\n")

    return damage


def swap(bundle: Path) -> None:
    one, two = bundle / "purifier.onnx", bundle / "classifier.onnx"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def link(bundle: Path) -> None:
    real = bundle.parent / "elsewhere.onnx"
    (bundle / "purifier.onnx").rename(real)
    (bundle / "purifier.onnx").symlink_to(real)


def folder_in_place(bundle: Path) -> None:
    (bundle / "purifier.onnx").unlink()
    (bundle / "purifier.onnx").mkdir()


DAMAGE: dict[str, tuple[Damage, str]] = {
    "a bit at a graph's start": (flip("purifier.onnx", 0), "SHA-256 differs"),
    "a bit in its middle": (flip("purifier.onnx", 0.5), "SHA-256 differs"),
    "a bit at its end": (flip("purifier.onnx", 1), "SHA-256 differs"),
    "a bit of the classifier": (flip("classifier.onnx", 0.3), "SHA-256 differs"),
    "a bit of the fused graph": (flip("fused.onnx", 0.7), "SHA-256 differs"),
    "a byte short": (cut("purifier.onnx", 1), "SHA-256 differs"),
    "cut in half": (cut("classifier.onnx", 0.5), "SHA-256 differs"),
    "emptied": (cut("purifier.onnx", 0), "SHA-256 differs"),
    "a byte more": (
        lambda b: (b / "purifier.onnx").write_bytes((b / "purifier.onnx").read_bytes() + b"\0"),
        "SHA-256 differs",
    ),
    "swapped files": (swap, "SHA-256 differs"),
    "another bundle's graph": (
        lambda b: shutil.copyfile(b / "purifier.onnx", b / "fused.onnx"),
        "SHA-256 differs",
    ),
    "missing graph": (lambda b: (b / "classifier.onnx").unlink(), "lacks its file"),
    "missing fused graph": (lambda b: (b / "fused.onnx").unlink(), "lacks its file"),
    "a folder in a file's place": (folder_in_place, "lacks its file"),
    "a link in a file's place": (link, "is a link"),
    "added file": (write("purifier.onnx.data", b""), "does not know"),
    "added hidden file": (write(".hidden", b"x"), "does not know"),
    "added plan": (write("plans/local.plan", b"x"), "does not know"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), r"no manifest\.json"),
    "empty manifest": (write("manifest.json", b""), "damaged"),
    "manifest cut short": (cut("manifest.json", 0.6), "damaged"),
    "manifest of garbage": (write("manifest.json", bytes(range(256))), "damaged"),
    "manifest that is a list": (write("manifest.json", b"[]"), "damaged"),
    "manifest that is null": (write("manifest.json", b"null"), "damaged"),
    "manifest nested without end": (write("manifest.json", b"[" * 100_000), "damaged"),
    "future schema": (edit(lambda m: m.update(schema=99)), "schema 99"),
    "earlier schema": (edit(lambda m: m.update(schema=1)), "schema 1"),
    "no schema": (edit(lambda m: m.pop("schema")), "damaged"),
    "schema that is text": (edit(lambda m: m.update(schema="2")), "schema 2"),
    "missing key": (edit(lambda m: m.pop("precision")), "precision is missing"),
    "unknown key": (edit(lambda m: m.update(extra=1)), "unknown key"),
    "unknown backend": (edit(lambda m: m.update(backend="abacus")), "backend"),
    "unknown precision": (edit(lambda m: m.update(precision="int4")), "precision"),
    "list of files as a list": (edit(lambda m: m.update(files=[])), "damaged"),
    "hash that is a number": (edit(lambda m: m["files"].update({"purifier.onnx": 7})), "damaged"),
    "wrong hash": (edit(lambda m: m["files"].update({"purifier.onnx": "0" * 64})), "SHA-256 differs"),
    "no hashes": (edit(lambda m: m["files"].clear()), "does not know"),
    "unhashed graph": (edit(lambda m: m["networks"]["purifier"].update(onnx="other.onnx")), r"no hash for other\.onnx"),
    "graph outside": (
        edit(lambda m: m["networks"]["purifier"].update(onnx="../elsewhere.onnx")),
        "no hash for",
    ),
    "unhashed plan": (edit(lambda m: m["networks"]["purifier"]["plans"].update(SM86="x.plan")), "no hash for"),
    "path outside": (edit(lambda m: m["files"].update({"../../etc/passwd": "0"})), "lacks its file"),
    "absolute path": (edit(lambda m: m["files"].update({"/etc/passwd": "0"})), "lacks its file"),
    "no purifier": (edit(lambda m: m["networks"].pop("purifier")), "names no purifier"),
    "no networks": (edit(lambda m: m["networks"].clear()), "names no purifier"),
    "no image size": (edit(lambda m: m.update(image_size=0)), "at least 1"),
    # whoever changes the manifest so that all fits together has made another bundle, which nobody trusts yet
    "graphs exchanged in the manifest": (
        edit(lambda m: m["networks"].update(purifier=m["networks"]["classifier"])),
        "not built here",
    ),
    "another precision": (edit(lambda m: m.update(precision="bf16")), "not built here"),
    "another size": (edit(lambda m: m.update(image_size=128)), "not built here"),
    "other class names": (edit(lambda m: m.update(class_names=["cat"])), "not built here"),
    "better parity": (edit(lambda m: m["parity"].update(covers="everything")), "not built here"),
    "parity of another form": (edit(lambda m: m["parity"].update(chains=["fine"])), "damaged"),
    "no parity": (edit(lambda m: m.pop("parity")), "parity is missing"),
    "a space in the manifest": (
        lambda b: (b / "manifest.json").write_bytes((b / "manifest.json").read_bytes() + b" "),
        "not built here",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("whole")
    config = EngineConfig(image_size=tiny.SIZE, batch_size=2, classifier="tests.tiny:classifier", fused=True)
    return build_engine(config, tiny.checkpoint(folder / "run"), folder / "bundle")


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bundle_that_is_not_what_was_built_is_refused_with_the_reason_and_the_next_step(
    kind: str, whole: Bundle, tmp_path: Path
) -> None:
    damage, words = DAMAGE[kind]
    bundle = tmp_path / "bundle"
    shutil.copytree(whole.path, bundle)
    damage(bundle)
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(bundle).open("purifier")
    assert "purifyctl build-engine" in caught.value.hint


def test_a_copy_of_what_was_built_here_is_as_good(whole: Bundle, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "copy")
    with load_bundle(tmp_path / "copy").open("fused") as runner:
        assert runner.concurrency >= 1


def test_a_file_that_changes_after_the_bundle_was_read_is_not_loaded(whole: Bundle, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "copy")
    bundle = load_bundle(tmp_path / "copy")
    flip("purifier.onnx", 0.5)(bundle.path)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundle.open("purifier")


def test_a_next_step_never_comes_from_a_bundle_that_nobody_trusts(whole: Bundle, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(whole.path, bundle)
    edit(lambda m: m.update(rebuild="rm -rf /"))(bundle)
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle).open("purifier")
    assert "rm -rf" not in caught.value.hint


def test_a_bundle_of_another_schema_that_was_built_here_says_how_to_build_it_again(
    whole: Bundle, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(whole.path, bundle)
    edit(lambda m: m.update(schema=2))(bundle)
    trust.remember(file_sha256(bundle / "manifest.json"), bundle)  # as the purifyctl that built it did
    with pytest.raises(BundleError, match="schema 2") as caught:
        load_bundle(bundle)
    assert caught.value.hint == whole.manifest.rebuild


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


def changed(bundle: Bundle, folder: Path, damage: Damage) -> Path:
    """A copy of a bundle that something happened to."""
    shutil.copytree(bundle.path, folder)
    damage(folder)
    return folder


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


def test_a_gpu_that_a_bundle_has_no_plan_for_is_told_with_those_that_it_has(
    rtx: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "_gpu", lambda: ("NVIDIA RTX 6000", "SM120"))  # there may be none here
    with pytest.raises(BundleError, match="plans for SM75, SM86, and this machine's GPU is SM120") as caught:
        rtx.open("purifier")
    assert caught.value.hint == rtx.manifest.rebuild
    monkeypatch.setattr(bundle_module, "_gpu", lambda: ("NVIDIA A10", "SM86"))
    assert rtx._file(rtx.manifest.networks["purifier"]) == "plans/SM86/purifier.plan"


def test_plans_that_were_timed_on_another_gpu_are_refused_though_it_is_of_the_same_generation(
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
    words = [sys.executable, "-m", "purifyctl", "inspect", str(whole.path)]
    environment = {**os.environ, "PURIFYCTL_STATE": str(tmp_path / "another user")}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert whole.sha256 in done.stdout
    assert "run it with --trust" in done.stdout
    done = subprocess.run([*words, "--json"], cwd=ROOT, capture_output=True, text=True)
    facts = json.loads(done.stdout)
    assert facts["trusted"]
    assert facts["manifest"]["networks"]["fused"]["onnx"] == "fused.onnx"


def test_run_takes_a_bundle_from_elsewhere_only_with_trust(whole: Bundle, photos: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PURIFYCTL_STATE": str(tmp_path / "another user")}
    words = [sys.executable, "-m", "purifyctl", "run", str(photos), "--engine", str(whole.path), "--out"]
    for out, more, code in (("one", [], 1), ("two", ["--trust"], 0), ("three", [], 0)):
        done = subprocess.run(
            [*words, str(tmp_path / out), *more], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == code, done.stderr
    assert not (tmp_path / "one").exists()
