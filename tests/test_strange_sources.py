"""500 names as strangers make them, in real folders, archives, listings, bundles, labels and tables, through every
command that prints some of them: nothing moves the terminal, whether the command succeeds or fails.

Wrong command lines, and each message of a run's end, are tested in `test_terminal.py`.
"""

import csv
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from purifyctl.engine.bundle import Bundle
from tests import strange, tiny
from tests.commands import Call, purifyctl
from tests.hostile_archives import END, member, pax
from tests.web_server import serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
N = 500
FOLDERS = 10
CLASSIFIER = ("--classifier", "tests.tiny:classifier", "--image-size", "64")
WHOLE = [text.encode(errors="ignore").decode() for text in strange.texts(N)]  # without half characters
TRAINING = """
resize = 48
image_size = 32
batch_size = 2
epochs = 1
[network]
kind = "unet"
width = 4
depth = 5
[objective]
l1 = 1.0
[[classifiers]]
name = "tests.tiny:classifier"
[[attacks]]
kind = "fgsm"
eps = [0.03, 0.03]
"""
GATE = """
width = 6
image_size = 32
largest = 48
resize = 48
batch_size = 6
epochs = 1
held_out = 0.4
validation_sizes = [48]
[[classifiers]]
name = "tests.tiny:classifier"
[[attacks]]
kind = "fgsm"
eps = [0.1, 0.2]
"""


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 files in ten folders, all with strange names: photographs, every tenth damaged, every tenth no picture."""
    root = tmp_path_factory.mktemp("strangers")
    good = [tiny.encoded(tiny.photograph(seed=seed), "JPEG") for seed in range(30)]
    folders = strange.names(FOLDERS, seed=1)
    for i, name in enumerate(strange.names(N)):
        folder = os.fsencode(root) + b"/" + folders[i % FOLDERS]
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 (a name in bytes)
        kind = i // FOLDERS % 10
        data = good[i % 30][:300] if kind == 0 else b"no picture" if kind == 1 else good[i % 30]
        with open(folder + b"/" + name + (b".txt" if kind == 1 else b".jpg"), "wb") as file:  # noqa: PTH123 (bytes)
            file.write(data)
    return root


@pytest.fixture(scope="module")
def few(strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth of them, for commands that cost more: each string stands in a name, ten in each."""
    root = tmp_path_factory.mktemp("few")
    photos = [tiny.encoded(tiny.photograph(seed=seed), "JPEG") for seed in range(30)]
    names = strange.names(N)
    for i in range(0, N, FOLDERS):
        name = b"".join(name[:20] for name in names[i : i + FOLDERS])[:200]
        with open(os.fsencode(root) + b"/" + name + b".jpg", "wb") as file:  # noqa: PTH123 (bytes)
            file.write(photos[0][:300] if i == 0 else photos[i // FOLDERS % 30])
    return root


@pytest.fixture
def strange_bundle(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that nobody trusts. Its manifest says all 500 strings where a text may stand; a class is 50 of them."""
    monkeypatch.setenv("PURIFYCTL_STATE", str(tmp_path / "state"))
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    everything = "".join(WHOLE)
    count = len(manifest["class_names"]) or FOLDERS
    manifest |= dict.fromkeys(("created", "purifyctl", "rebuild", "varies"), everything)
    manifest |= {
        "networks": {
            key: network | {"name": everything, "source": everything} for key, network in manifest["networks"].items()
        },
        "class_names": ["".join(WHOLE[i::count]) for i in range(count)],
        "fitted_to": {everything: everything},
        "parity": manifest["parity"] | {"measured_with": everything, "covers": everything},
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def test_a_run_over_strange_names_and_what_is_made_of_it(
    strangers: Path, tiny_bundle: Bundle, call: Call, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("run", strangers, "--engine", tiny_bundle.path, "--out", out, "--csv", "--jsonl", "--verbose")
    again = (*words, "--retry-failed")
    for code, command in ((3, words), (3, words), (0, ("report", out)), (3, ("merge", out)), (3, again)):
        strange.check(call(*command, code=code))
    failed = call("run", strangers, "--engine", tiny_bundle.path, "--out", tmp_path / "other", "--strict", code=3)
    assert b"100 of 500 inputs failed" in strange.OUR_COLOURS.sub(b"", failed)
    strange.check(failed)
    strange.check((out / "rows.csv").read_bytes().replace(b"\r\n", b"\n"))
    strange.check((out / "report.html").read_bytes())


def test_a_run_over_an_archive_of_strange_names(
    strangers: Path, tiny_bundle: Bundle, call: Call, tmp_path: Path
) -> None:
    sound, lying = tmp_path / "sound.tar", tmp_path / "lying.tar"
    with tarfile.open(sound, "w") as archive:
        archive.add(strangers, "all")
    parts = [
        pax((b"path", name + b".jpg"), (b"size", name), (name.replace(b"=", b"") or b"x", name)) + member(name)
        for name in strange.names(N)
    ]
    lying.write_bytes(b"".join(parts) + END)
    for n, archive_file in enumerate((sound, lying)):
        words = ("run", archive_file, "--engine", tiny_bundle.path, "--out", tmp_path / f"out{n}", "--verbose")
        printed = call(*words, code=3)
        assert b"failed" in printed
        strange.check(printed)
        strange.check(call(*words, "--dry-run", code=0))


def test_a_list_of_strange_names_and_a_table_of_strange_classes(
    strangers: Path, tiny_bundle: Bundle, call: Call, tmp_path: Path
) -> None:
    names = sorted(os.fsencode(file.relative_to(strangers)) for file in strangers.rglob("*.jpg"))
    lists = tmp_path / "list.txt"
    lists.write_bytes(b"\0".join(names) + b"\0")
    words = ("run", strangers, "--engine", tiny_bundle.path, "--out")
    strange.check(call(*words, tmp_path / "listed", "--files-from", lists, code=3))
    for i, text in enumerate(strange.texts(N)):
        lists.write_bytes(text.encode(errors="surrogatepass") + b"\n")  # nothing is called so
        strange.check(call(*words, tmp_path / "none", "--files-from", lists, "--dry-run"))
        table = tmp_path / "truth.csv"
        with table.open("w", newline="", errors="surrogatepass") as stream:
            writer = csv.writer(stream)
            writer.writerow(("file", "label"))
            writer.writerow((text, "1") if i % 2 else ("a.jpg", text))
        printed = call(*words, tmp_path / "none", "--truth", table, "--dry-run")
        assert printed
        strange.check(printed)


def test_labels_files_of_strange_classes(few: Path, call: Call, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    words = (
        "attack",
        next(few.iterdir()),
        *CLASSIFIER,
        "--labels",
        labels,
        "--attack",
        "fgsm",
        "--on-existing",
        "overwrite",
    )
    for texts in (strange.texts(N), WHOLE):  # half characters are refused
        for i in range(0, N, 10):
            lines = texts[i : i + 10 - i // 10 % 5 // 4]  # ten classes: every fifth file has too few
            labels.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
            printed = call(*words, "--target", lines[0] if i % 20 else "nothing", "--out", tmp_path / "out")
            assert printed
            strange.check(printed)


def test_an_attack_an_evaluation_and_trainings_on_strange_names(
    strangers: Path, few: Path, tiny_bundle: Bundle, call: Call, tmp_path: Path
) -> None:
    for name, text in (("train.toml", TRAINING), ("gate.toml", GATE)):
        (tmp_path / name).write_text(text)
    attack, evaluated = tmp_path / "attack", tmp_path / "evaluated"
    checkpoint = tiny.checkpoint(tmp_path / "purifier")
    evaluate = ("evaluate", "--photos", few, *CLASSIFIER, "--truth", "predicted", "--rungs", "gray-box")
    evaluate = (*evaluate, "--attack", "fgsm")
    train = ("train", tmp_path / "train.toml", "--photos", few, "--verbose")
    commands: tuple[tuple[int, tuple[str | Path, ...]], ...] = (
        (3, ("attack", strangers, *CLASSIFIER, "--attack", "fgsm", "--out", attack, "--verbose")),
        (3, ("attack", strangers, *CLASSIFIER, "--attack", "fgsm", "--out", tmp_path / "quiet", "--quiet")),
        (0, ("report", attack)),
        (0, ("run", attack / "images", "--engine", tiny_bundle.path, "--dry-run", "--out", tmp_path / "none")),
        (3, (*evaluate, "--checkpoint", checkpoint, "--out", evaluated, "--verbose")),
        (0, ("report", evaluated)),
        (0, (*train, "--out", tmp_path / "trained", "--max-steps", "2")),
        (0, ("report", tmp_path / "trained")),
        (0, ("train-gate", tmp_path / "gate.toml", "--photos", few, "--out", tmp_path / "gate", "--verbose")),
        (0, ("report", tmp_path / "gate")),
    )
    for code, command in commands:
        strange.check(call(*command, code=code))


def test_a_bundle_whose_manifest_says_it_all(few: Path, strange_bundle: Path, tmp_path: Path) -> None:
    words = ("run", few, "--engine", strange_bundle, "--out", tmp_path / "out")
    bench = ("bench", strange_bundle, "--photos", few, "--rounds", 1, "--batch-size", 2)
    commands: tuple[tuple[int, tuple[object, ...]], ...] = (
        (0, ("inspect", strange_bundle)),
        (0, ("inspect", strange_bundle, "--json")),
        (1, words),
        (3, (*words, "--trust", "--verbose")),
        (0, ("report", tmp_path / "out")),
        (0, ("run", max(few.iterdir()), "--engine", strange_bundle, "--out", tmp_path / "one")),
        (0, (*bench, "--out", tmp_path / "bench")),
        (0, ("doctor", "--engine", strange_bundle, "--out", tmp_path / "doctor")),
        (2, ("build-engine", "--out", strange_bundle)),
    )
    for code, command in commands:
        done = purifyctl(*command)
        assert done.returncode == code, done.stderr
        strange.check((done.stdout + done.stderr).encode())


@pytest.fixture
def served(strangers: Path) -> Iterator[str]:
    with serving(strangers) as server:
        yield server.url


def test_a_web_server_that_lists_strange_names(served: str, tiny_bundle: Bundle, call: Call, tmp_path: Path) -> None:
    printed = call("run", served, "--engine", tiny_bundle.path, "--out", tmp_path / "out", "--verbose", code=3)
    assert b"failed" in printed
    strange.check(printed)
