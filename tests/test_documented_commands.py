"""README and tutorial show a newcomer what to type. The tests type it, line by line.

The tests bring what the reader owns: three photographs in `photos`, twenty with labels in `DIR`, the tutorial's own
mynet.py, and in `runs/mine` a tiny checkpoint instead of one that takes hours to train.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.commands import launcher, python

ROOT = Path(__file__).parents[1]
README, TUTORIAL = "README.md", "docs/tutorial.md"

# Lines that are not executed, and why not.
NOT_EXECUTED = {
    (README, "make demo"): "installs several GB; tests/test_cli.py runs what it calls, purifyctl demo",
    (README, "make test"): "runs this test",
    (README, ". .venv/bin/activate"): "the tests have an environment already",
    (README, "pip install '.[gpu]'"): "the test environment has the extra",
    (README, "purifyctl run photos --out fast --device cuda"): "needs an NVIDIA GPU",
    (README, "purifyctl train smoke"): "the tutorial has it",
    (README, "purifyctl attack photos --out attacked"): "the tutorial has it",
    (
        README,
        "purifyctl bench --against torch,onnxruntime",
    ): "measures for minutes; tests/test_bench.py runs what it calls",
    (
        README,
        "purifyctl train fit --classifier mobilenet_v2 --photos DIR --out runs/fit",
    ): "half an hour, and downloads weights; tests/test_fit.py runs what it calls",
    (README, "purifyctl train shipped --photos DIR --out runs/mine"): "hours, and downloads weights",
    (README, "purifyctl train-gate gate --photos DIR --out runs/gate"): "about 18 minutes, and downloads weights",
    (TUTORIAL, "make demo"): "as in the README",
    (TUTORIAL, ". .venv/bin/activate"): "as in the README",
    (TUTORIAL, "purifyctl doctor"): "the README has it",
}

# Lines that are executed with something appended, and why.
_SMALL = "--image-size 64"
APPENDED = {
    (README, "purifyctl build-engine --classifier mynet:classifier --out engines/mynet"): (
        _SMALL,
        "quicker to compare",
    ),
    (README, "purifyctl build-engine cpu --checkpoint runs/mine --out engines/own"): (
        f"--classifier mynet:classifier {_SMALL}",
        "quicker to build and compare",
    ),
    (
        README,
        "purifyctl evaluate --photos DIR --out quick --limit 64"
        " --rungs gray-box,adaptive --attack fgsm --attack pgd-10",
    ): (f"--limit 1 --eps 4/255 {_SMALL}", "minutes"),
    (
        TUTORIAL,
        "purifyctl evaluate --photos photos --out quick --truth predicted --rungs gray-box,adaptive --attack pgd-10"
        " --eps 4/255",
    ): (f"--limit 1 {_SMALL}", "a minute"),
    (TUTORIAL, "purifyctl train smoke"): ("--max-steps 1", "two minutes"),
    (TUTORIAL, "purifyctl build-engine --checkpoint runs/smoke --classifier mynet:classifier --out engines/own"): (
        _SMALL,
        "quicker to compare",
    ),
}

# Lines whose exit code is not 0: the text says that one input is broken.
EXIT_CODES = {(TUTORIAL, "purifyctl run photos --out clean"): 3}

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.M | re.S)


def steps(file: str) -> list[tuple[str, str]]:
    """What a page asks the reader to type, in order: ("bash", a line without its comment) or ("python", a block)."""
    found = []
    for language, text in BLOCK.findall((ROOT / file).read_text()):
        lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines() if language == "bash" else [text]
        found += [(language, re.sub(r"\s+#.*", "", line) if language == "bash" else line) for line in lines]
    return found


def test_the_tables_above_name_only_lines_that_are_in_the_pages() -> None:
    there = {(file, line) for file in (README, TUTORIAL) for _, line in steps(file)}
    assert {*NOT_EXECUTED, *APPENDED, *EXIT_CODES} <= there
    assert not set(NOT_EXECUTED) & {*APPENDED, *EXIT_CODES}


@pytest.fixture
def clone(tmp_path: Path, samples: Path) -> Path:
    """A folder with the recipes of a clone and with what its owner brings."""
    for name in ("train", "engines"):
        (tmp_path / name).mkdir()
        for recipe in (ROOT / name).glob("*.toml"):
            shutil.copy(recipe, tmp_path / name)
    shutil.copytree(samples, tmp_path / "DIR")
    (tmp_path / "photos").mkdir()
    for photograph in sorted(samples.rglob("*.jpg"))[:3]:
        shutil.copy(photograph, tmp_path / "photos")
    tiny.checkpoint(tmp_path / "runs" / "mine")
    (source,) = (text for language, text in steps(TUTORIAL) if language == "python" and "def classifier" in text)
    (tmp_path / "mynet.py").write_text(source)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("file", [README, TUTORIAL])
def test_every_line_that_a_page_asks_to_type_works_in_order(file: str, clone: Path, tmp_path: Path) -> None:
    path = f"{launcher(tmp_path / 'bin')}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    for language, text in steps(file):
        if (file, text) in NOT_EXECUTED:
            continue
        extra = APPENDED.get((file, text), ("", ""))[0]
        if language == "python":
            done = python("-c", text, cwd=clone)
        else:
            words = ["bash", "-c", f"{text} {extra}"]
            done = subprocess.run(
                words, cwd=clone, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
        assert done.returncode == EXIT_CODES.get((file, text), 0), f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
    for made in re.findall(r"--out (\S+)", "\n".join(t for _, t in steps(file) if (file, t) not in NOT_EXECUTED)):
        assert any((clone / made).iterdir()), made
