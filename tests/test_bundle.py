"""Damaged bundles: each is refused with the reason and the next step, and never loaded."""

import os
import shutil
from pathlib import Path

import pytest

from purifyctl.engine import trust
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.errors import BundleError
from purifyctl.files import file_sha256
from tests import tiny
from tests.damage import Damage, cut, edit, flip, whole, write

__all__ = ["whole"]  # a fixture

PURIFIER, CLASSIFIER, FUSED = (f"{network}.{tiny.ENDING}" for network in ("purifier", "classifier", "fused"))


def swap(bundle: Path) -> None:
    one, two = bundle / PURIFIER, bundle / CLASSIFIER
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def link(bundle: Path) -> None:
    real = bundle.parent / "elsewhere.onnx"
    (bundle / PURIFIER).rename(real)
    (bundle / PURIFIER).symlink_to(real)


def folder_in_place(bundle: Path) -> None:
    (bundle / PURIFIER).unlink()
    (bundle / PURIFIER).mkdir()


def pipe(name: str) -> Damage:
    def damage(bundle: Path) -> None:
        (bundle / name).unlink()
        os.mkfifo(bundle / name)

    return damage


def replaced(old: bytes, new: bytes) -> Damage:
    def damage(bundle: Path) -> None:
        text = (bundle / "manifest.json").read_bytes()
        assert text.count(old) == 1
        (bundle / "manifest.json").write_bytes(text.replace(old, new))

    return damage


def recoded(encoding: str) -> Damage:
    def damage(bundle: Path) -> None:
        (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text(), encoding)

    return damage


DAMAGE: dict[str, tuple[Damage, str]] = {
    "a bit at a graph's start": (flip(PURIFIER, 0), "SHA-256 differs"),
    "a bit in its middle": (flip(PURIFIER, 0.5), "SHA-256 differs"),
    "a bit at its end": (flip(PURIFIER, 1), "SHA-256 differs"),
    "a bit of the classifier": (flip(CLASSIFIER, 0.3), "SHA-256 differs"),
    "a bit of the fused graph": (flip(FUSED, 0.7), "SHA-256 differs"),
    "a byte short": (cut(PURIFIER, 1), "SHA-256 differs"),
    "cut in half": (cut(CLASSIFIER, 0.5), "SHA-256 differs"),
    "emptied": (cut(PURIFIER, 0), "SHA-256 differs"),
    "a byte more": (
        lambda b: (b / PURIFIER).write_bytes((b / PURIFIER).read_bytes() + b"\0"),
        "SHA-256 differs",
    ),
    "swapped files": (swap, "SHA-256 differs"),
    "another bundle's graph": (
        lambda b: shutil.copyfile(b / PURIFIER, b / FUSED),
        "SHA-256 differs",
    ),
    "missing graph": (lambda b: (b / CLASSIFIER).unlink(), "lacks its file"),
    "missing fused graph": (lambda b: (b / FUSED).unlink(), "lacks its file"),
    "a folder in a file's place": (folder_in_place, "lacks its file"),
    "a link in a file's place": (link, "is a link"),
    "added file": (write(f"{PURIFIER}.data", b""), "does not know"),
    "added hidden file": (write(".hidden", b"x"), "does not know"),
    "added plan": (write("plans/local.plan", b"x"), "does not know"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), r"no manifest\.json"),
    "empty manifest": (write("manifest.json", b""), "damaged"),
    "manifest cut short": (cut("manifest.json", 0.6), "damaged"),
    "manifest of garbage": (write("manifest.json", bytes(range(256))), "damaged"),
    "manifest that is a list": (write("manifest.json", b"[]"), "damaged"),
    "manifest that is null": (write("manifest.json", b"null"), "damaged"),
    "manifest nested without end": (write("manifest.json", b"[" * 100_000), "damaged"),
    "manifest nested more deeply than any": (write("manifest.json", b"[" * 90 + b"]" * 90), "nested too deeply"),
    "manifest that is a pipe": (pipe("manifest.json"), "pipe|no manifest"),
    "manifest in UTF-16": (recoded("utf-16"), "not in UTF-8"),
    "a pipe among the files": (pipe(PURIFIER), "a pipe, a socket or a device"),
    "a key that stands twice": (replaced(b'"schema": 3', b'"schema": 3, "schema": 3'), "stands twice"),
    "a number of 21 digits": (replaced(b'"image_size": ', b'"image_size": 1' + b"0" * 20), "is too large"),
    "a number of 5,000 digits": (replaced(b'"image_size": ', b'"image_size": ' + b"1" * 5000), "is too large"),
    "NaN": (replaced(b'"build_s": ', b'"build_s": NaN, "x": '), "NaN is no number"),
    "minus infinity": (replaced(b'"build_s": ', b'"build_s": -Infinity, "x": '), "Infinity is no number"),
    "a float beyond all floats": (replaced(b'"build_s": ', b'"build_s": 1e999, "x": '), "is too large"),
    "half a character in a name": (edit(lambda m: m["files"].update({"\ud800": "0"})), "half a character"),
    "half a character in a text": (edit(lambda m: m.update(rebuild="\udfff")), "half a character"),
    "a size of a million": (edit(lambda m: m.update(image_size=1_000_000)), "at most 65,536"),
    "future schema": (edit(lambda m: m.update(schema=99)), "schema 99"),
    "earlier schema": (edit(lambda m: m.update(schema=1)), "schema 1"),
    "no schema": (edit(lambda m: m.pop("schema")), "damaged"),
    "schema that is text": (edit(lambda m: m.update(schema="2")), "damaged"),
    "missing key": (edit(lambda m: m.pop("precision")), "precision is missing"),
    "unknown key": (edit(lambda m: m.update(extra=1)), "unknown key"),
    "unknown backend": (edit(lambda m: m.update(backend="abacus")), "backend"),
    "unknown precision": (edit(lambda m: m.update(precision="int4")), "precision"),
    "list of files as a list": (edit(lambda m: m.update(files=[])), "damaged"),
    "hash that is a number": (edit(lambda m: m["files"].update({PURIFIER: 7})), "damaged"),
    "wrong hash": (edit(lambda m: m["files"].update({PURIFIER: "0" * 64})), "SHA-256 differs"),
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
    # with a changed manifest that is consistent, it is another bundle, which nobody trusts yet
    "graphs exchanged in the manifest": (
        edit(lambda m: m["networks"].update(purifier=m["networks"]["classifier"])),
        "not built here",
    ),
    "another precision": (edit(lambda m: m.update(precision="bf16")), "not built here"),
    "another size": (edit(lambda m: m.update(image_size=128)), "tiles are not as large"),
    "other class names": (edit(lambda m: m.update(class_names=["cat"])), "not built here"),
    "better parity": (edit(lambda m: m["parity"].update(covers="everything")), "not built here"),
    "parity of another form": (edit(lambda m: m["parity"].update(chains=["fine"])), "damaged"),
    "no parity": (edit(lambda m: m.pop("parity")), "parity is missing"),
    "a space in the manifest": (
        lambda b: (b / "manifest.json").write_bytes((b / "manifest.json").read_bytes() + b" "),
        "not built here",
    ),
}


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
    flip(PURIFIER, 0.5)(bundle.path)
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
