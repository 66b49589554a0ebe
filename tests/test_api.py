"""What the package offers to Python programs, and its page of documentation."""

import contextlib
import importlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import purifyctl
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import (
    MissingDependencyError,
)

ROOT = Path(__file__).parents[1]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, purifyctl; dir(purifyctl); print({'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_package_lists_what_it_has_and_knows_nothing_else() -> None:
    assert {"Purifier", "Engine", "PurifyTransform"} <= set(dir(purifyctl))
    with pytest.raises(AttributeError, match="no attribute 'Purify'"):
        _ = purifyctl.Purify  # type: ignore[attr-defined]


def test_without_art_its_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("art", "art.defences.preprocessor.preprocessor"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python then raises is what it does for a missing package
    monkeypatch.delitem(sys.modules, "purifyctl.api.art", raising=False)
    with pytest.raises(MissingDependencyError, match="adversarial-robustness-toolbox") as caught:
        importlib.import_module("purifyctl.api.art")
    assert "purifyctl[attacks]" in caught.value.hint


@pytest.mark.slow
def test_the_code_in_the_docs_runs_unchanged(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.M | re.S)
    assert len(blocks) >= 5
    shutil.copytree(tiny_bundle.path, tmp_path / "engines" / "cpu")
    monkeypatch.chdir(tmp_path)  # with photos/ and engines/cpu
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, block in enumerate(blocks):
            exec(compile(block, f"docs/python.md, block {number + 1}", "exec"), names)
    assert printed.getvalue()
