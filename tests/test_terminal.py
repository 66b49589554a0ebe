"""Nothing that stands in a file, a manifest or a message of a library moves the terminal, or a spreadsheet."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl import console
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError, ImageError
from purifyctl.parquet import write_part
from purifyctl.report.answers import show_summary
from purifyctl.run.rows import Row, write_text
from purifyctl.visible import visible, visible_cell
from purifyctl.waiting import progress
from tests import strange, tiny
from tests.commands import Call, purifyctl
from tests.kills import faulty

N = 500
EACH = 50  # for each command line that is wrong: 850 in all


@given(st.text(st.characters()))
@settings(max_examples=N)
def test_a_visible_text_is_one_line_that_can_be_printed_and_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    strange.check(shown.encode())
    assert "\n" not in shown
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


def test_what_can_be_seen_is_shown_unchanged_and_the_rest_by_its_code() -> None:
    assert visible("日本\u3000né [x].jpg") == "日本\u3000né [x].jpg"
    assert visible("a\x1b]0;b\x07\n\u202egpj\udce9") == "a\\x1b]0;b\\x07\\n\\u202egpj\\xe9"


def test_our_own_errors_hold_one_visible_line_for_tracebacks_too() -> None:
    for text in strange.texts(N):
        for error in (ConfigError(text, hint=text), ImageError("unreadable", text)):
            strange.check(str(error).encode())
            assert str(error).count("\n") == bool(error.hint)


def _say_all(text: str) -> None:
    for say in (console.note, console.warn, console.error, console.line, console.answer, console.trace):
        say(text)
    console.note(text, text)
    console.error(text, text)
    console.raw(f"{text}\n" if sys.stdout.isatty() else "")
    console.event(text, text=text)
    console.result({text: text})
    console.table(text, ("a", "b"), [(text, text)])
    console.table(text, ("a",), [(text,)], right=False)
    console.sections(("a", "b"), [(text, [text, text])])
    console.facts(text, [(text, text)])
    print(text)  # as a library does
    print(text, file=sys.stderr)
    with progress(3, text) as bar:
        bar.advance(1, text=text)


@pytest.mark.parametrize("as_json", [False, True])
def test_whatever_is_printed_by_us_or_by_libraries_moves_nothing(
    as_json: bool, call: Call, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    console.configure(json=as_json)
    monkeypatch.setattr("purifyctl.waiting.PLAIN_PROGRESS_S", 0.0)
    for text in strange.texts(N):
        _say_all(text)
    out, err = capfdbinary.readouterr()
    strange.check(out)
    strange.check(err)
    if as_json:
        assert {json.loads(line)["event"] for line in err.splitlines() if b'"output"' in line} == {"output"}


def test_a_run_says_at_its_end_what_moves_nothing(call: Call, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.configure()
    for text in strange.texts(N):
        guess = {"path": text, "before": text, "after": text, "true": text}
        show_summary(
            {
                "rows": 2,
                "inputs": 2,
                "finished": True,
                "accuracy": None,
                "handled": {"purified": 2},
                "changed": {
                    "n": 2,
                    "of": 2,
                    "labelled": 0,
                    "first": [{**guess, "before_probability": 0.5, "after_probability": 0.5}],
                },
                "failed": {"n": 1, "first": [{"path": text, "status": "crashed", "error": text}]},
                "truth": {"from": text},
                "options": {},
                "pictures": {},
                "engine": {"image_size": 64, "backend": text, "precision": text},
            },
            Path(text),
        )
    strange.check(b"".join(capfdbinary.readouterr()))


MISTAKES = (
    ("run", "NAME", "--out", "OUT", "--engine", "BUNDLE"),
    ("run", "PHOTOS", "--out", "OUT", "--engine", "NAME"),
    ("run", "PHOTOS", "--out", "OUT", "--engine", "BUNDLE", "--files-from", "NAME"),
    ("run", "PHOTOS", "--out", "OUT", "--format", "NAME"),
    ("run", "PHOTOS", "NAME"),
    ("NAME",),
    ("inspect", "NAME"),
    ("report", "NAME"),
    ("merge", "NAME"),
    ("bench", "NAME"),
    ("doctor", "--NAME"),
    ("train", "NAME", "--photos", "PHOTOS"),
    ("train-gate", "NAME"),
    ("build-engine", "NAME", "--out", "OUT"),
    ("attack", "NAME", "--out", "OUT"),
    ("evaluate", "--photos", "NAME", "--out", "OUT"),
    ("demo", "--out", "FILE/NAME"),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_strange_name_on_the_command_line_moves_nothing(
    words: tuple[str, ...], call: Call, photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    places = {b"PHOTOS": photos, b"OUT": tmp_path / "out", b"BUNDLE": tiny_bundle.path, b"FILE": tmp_path / "file"}
    for name in strange.names(EACH, seed=MISTAKES.index(words)):
        given_words = [word.encode().replace(b"NAME", name) for word in words]
        for short, place in places.items():
            given_words = [word.replace(short, os.fsencode(place)) for word in given_words]
        printed = call(*given_words)
        assert printed
        strange.check(printed)


@pytest.mark.slow
def test_names_in_a_folder_move_nothing_in_a_dry_run(call: Call, tiny_bundle: Bundle, tmp_path: Path) -> None:
    picture = tiny.encoded(tiny.photograph(), "JPEG")
    for i, name in enumerate(strange.names(N)):
        folder = tmp_path / f"{i}{os.fsdecode(name)}"
        folder.mkdir()
        (folder / os.fsdecode(name)).write_bytes(picture)
        printed = call("run", folder, "--out", tmp_path / "out", "--engine", tiny_bundle.path, "--dry-run")
        assert b"such as" in printed
        strange.check(printed)


def _with_text(manifest: dict[str, Any], text: str) -> dict[str, Any]:
    """A manifest in which this text stands wherever a text may stand."""
    network = manifest["networks"]["purifier"] | {"name": text, "source": text, "sha256": text}
    return manifest | {
        **dict.fromkeys(("created", "purifyctl", "backend_version", "gpu", "rebuild", "varies"), text),
        "networks": manifest["networks"] | {"purifier": network},
        "class_names": [text] * len(manifest["class_names"]),
        "fitted_to": {text: text},
        "parity": manifest["parity"] | {"measured_with": text, "covers": text},
    }


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_a_manifest_moves_nothing_when_it_is_inspected(
    as_json: bool, call: Call, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle", copy_function=os.link)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    (tmp_path / "bundle" / "manifest.json").unlink()
    shown = 0
    for text in strange.texts(N):
        (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(_with_text(manifest, text)))
        printed = call("inspect", tmp_path / "bundle", *(["--json"] if as_json else []))
        strange.check(printed)
        shown += b"trusted" in printed
    assert 100 < shown < N  # half characters are refused, and the message says so


def test_a_manifest_cannot_say_that_it_is_trusted(call: Call, tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    file = tmp_path / "bundle" / "manifest.json"
    lie = "x\x1b[1A\x1b[2Ktrusted here  yes\ntrusted here  yes\n"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rebuild": lie}))
    printed = strange.OUR_COLOURS.sub(b"", call("inspect", tmp_path / "bundle")).decode()
    (said,) = [line for line in printed.splitlines() if line.startswith("trusted here")]
    assert "no: run it with --trust" in said
    assert "\\x1b[1A" in printed


@pytest.mark.slow
def test_names_move_nothing_when_files_fail_or_kill_the_worker(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in strange.names(N):
        (tmp_path / "photos" / f"{os.fsdecode(name)}.jpg").write_bytes(tiny.encoded(tiny.photograph(), "JPEG")[:300])
    words = ("run", tmp_path / "photos", "--engine", tiny_bundle.path, "--out")
    done = purifyctl(*words, tmp_path / "out", "--csv", "--jsonl")
    assert done.returncode == 3
    strange.check(done.stdout.encode())
    strange.check(done.stderr.encode())
    strange.check((tmp_path / "out" / "rows.csv").read_bytes().replace(b"\r\n", b"\n"))
    strange.check((tmp_path / "out" / "rows.jsonl").read_bytes())
    script = (
        "import ast, sys; from pathlib import Path; from purifyctl.engine.bundle import load_bundle; "
        "from purifyctl.run import run\n"
        "run(Path(sys.argv[1]), load_bundle(Path(sys.argv[2])), Path(sys.argv[3]), "
        "worker=ast.literal_eval(sys.argv[4]))"
    )
    (tmp_path / "few").mkdir()
    for name in strange.names(4):
        (tmp_path / "few" / f"{os.fsdecode(name)}.jpg").write_bytes(tiny.encoded(tiny.photograph(), "JPEG"))
    given_words = [tmp_path / "few", tiny_bundle.path, tmp_path / "killed", repr(faulty("segfault=*1.jpg"))]
    killed = subprocess.run([sys.executable, "-c", script, *given_words], capture_output=True, check=True)
    assert b"died" in killed.stderr
    strange.check(killed.stderr)


def _python(code: str) -> tuple[bytes, bytes, int]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.stdout, done.stderr, done.returncode


def test_what_native_code_says_is_made_visible_and_nothing_of_it_is_lost() -> None:
    code = (
        "import os; from purifyctl import console; console.configure(verbose=True); os.write(2, b'\\x1b[2Jhi\\n' * 99)"
    )
    assert _python(code) == (b"", b"\\x1b[2Jhi\n" * 99, 0)


def test_a_bug_keeps_its_traceback_and_moves_nothing() -> None:
    code = (
        "import sys; from purifyctl import doctor; from purifyctl.cli import main; sys.argv = ['', 'doctor']\n"
        "def fail(*_): raise RuntimeError('\\x1b[2J\\x07')\n"
        "doctor.examine = fail; main()"
    )
    out, err, code_of_exit = _python(code)
    assert (out, code_of_exit) == (b"", 1)
    assert b"Traceback" in err
    assert b"RuntimeError: \\x1b[2J\\x07" in err
    strange.check(err)


@pytest.mark.parametrize("begin", "=+-@＝＋－＠")
def test_a_spreadsheet_takes_no_name_for_a_formula(begin: str, tmp_path: Path) -> None:
    rows = [Row(f"{begin}cmd|' /C calc'!A0\n.jpg", "unreadable", f"{begin}1", mean_change=-0.5)]
    write_part(rows, Row, tmp_path / "part.parquet")
    write_text([tmp_path / "part.parquet"], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert row["path"] == f"'{begin}cmd|' /C calc'!A0\\n.jpg"
    assert row["error"] == f"'{begin}1"
    assert row["mean_change"] == "-0.5"


def test_other_cells_are_what_they_are() -> None:
    assert [visible_cell(value) for value in ("a=b", -1.5, None, True)] == ["a=b", -1.5, None, True]
