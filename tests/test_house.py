"""The house is in order: files are short, imports form no circle, and each word has one meaning."""

import functools
import graphlib
import re
import subprocess
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 300  # lines of a code file

# Words that are not used any more, as regular expressions, and what to say instead. docs/glossary.md may name them.
RETIRED = {
    # one word for one thing
    r"\btar[- ]shards?\b": "archive",
    r"(?<!struct\.)\bpacks?\b": "archive",
    r"\b(Open)?Shards?\b(?!\()": "part",
    r"\bSHARD\b": "PART",
    r"\bclass (Job|Task|Assignment|Work|Item|Batch)\b": "a name that says which work it is",
    r"\bas job\b|\bthe job's\b": "run",
    r"\bItem\b|(?<!-)\bitems?\b(?!\(|: \")": "input, field, value",
    r"\blooks?_|_looks?\b": "validate, score",
    r"\bdetections?\b|\bDETECTION|_detection\b|\bdetectors?\b": "gate",
    r"\bwanted\b": "expected, reference",
    r"\bpipeline/": "run/",
    r"\bcostly\b": "expensive",
    r"\btold_by\b": "recorded_as",
    # plain English
    r"\b[Bb]ut for\b": "except",
    r"\b(go|goes|going|gone|went) on\b": "continue, resume",
    r"\b(tell|tells|told)_|_(tell|tells|told)\b": "say, report, send",
    r"\btells? (\w+ ){1,3}apart\b": "distinguish",
    r"\bso many\b": "this many",
    r"\bas (it is|they are)(?= *[.,;)\"])": "unpurified, unchanged",
    r"\bfor ever\b": "forever",
    r"\bcannot be had\b": "cannot be loaded",
    r"\b([Ll]ikewise|[Ww]hoever|[Hh]ence|[Tt]hereof|[Ll]est|[Ss]hall|[Ss]uch as it is)\b": "a plain word",
    r"\bmend(s|ed|ing)?\b": "repair",
}

# Pages in which no retired word stands. Decisions (docs/adr) may name what was before.
PAGES = (
    "*.md",
    "docs/*.md",
    "docs/*.j2",
    "docs/notebook/*.md",
    "purifyctl/*/*.md",
    "purifyctl/*/*.j2",
    "train/*",
    "engines/*.*",
)


def code_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split() or [str(f.relative_to(ROOT)) for f in ROOT.rglob("*.py") if ".venv" not in f.parts]
    return [ROOT / name for name in names if (ROOT / name).exists()]


def test_no_code_file_is_longer_than_a_reader_takes_in_at_once() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in code_files()}
    assert len(lengths) > 100
    assert {file: length for file, length in lengths.items() if length > LONGEST} == {}


def test_imports_form_no_circle() -> None:
    graph = grimp.build_graph("purifyctl", exclude_type_checking_imports=True)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(below) > 100
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


def test_a_circle_would_be_found() -> None:
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


@functools.cache
def texts() -> dict[Path, str]:
    """What stands in code and pages, without this file."""
    pages = [page for place in PAGES for page in ROOT.glob(place)]
    files = [*code_files(), *(page for page in pages if page.name not in ("glossary.md", "THIRD_PARTY_NOTICES.md"))]
    return {file: file.read_text() for file in files if file.resolve() != Path(__file__).resolve()}


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_stands_nowhere(word: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file, text in texts().items()
        if re.search(word, text)  # quick; most files end here
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(word, line) and not line.endswith("# pytest's word")
    ]
    assert not found, f"say {RETIRED[word]}:\n" + "\n".join(found)
