"""docs/own-data.md shows what to type with pictures and a classifier of one's own. The test types it, line by line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from purifyctl.run.rows import read_rows
from tests import tiny
from tests.own_networks import Net, export
from tests.test_documented_commands import ROOT, steps

PAGE = "docs/own-data.md"
NOT_EXECUTED = {"pip install 'purifyctl[onnx-classifier]'": "the test environment has the extra"}
_SMALL = "--image-size 64"
APPENDED = {  # what makes a command quicker
    "build-engine": f"{_SMALL} --batch-size 4",
    "attack": _SMALL,
    "evaluate": f"{_SMALL} --limit 2",
    "train": "--max-steps 1",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page's reader owns."""
    tiny.photographs(tmp_path / "photos", 6)
    export(Net().eval(), tmp_path / "my.onnx", batch=1)
    torch.save({"model": torchvision.models.mobilenet_v3_small(num_classes=10).state_dict()}, tmp_path / "my.pth")
    (tmp_path / "labels.txt").write_text("".join(f"thing {i}\n" for i in range(10)))
    (tmp_path / "truth.csv").write_text("file,label\n" + "".join(f"{i}.jpg,thing {i % 10}\n" for i in range(6)))
    (source,) = (text for language, text in steps(PAGE) if language == "python")
    (tmp_path / "mynet.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_in(line: str) -> tuple[int, str]:
    """Type a command. Returns its exit code and what it said."""
    words = [sys.executable, "-m", *shlex.split(line)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_report_is_at_most_three_commands_away() -> None:
    first = re.search(r"```bash\n(.*?)```", (ROOT / PAGE).read_text(), re.S)
    assert first is not None
    lines = first[1].strip().splitlines()
    assert len(lines) <= 3
    assert (lines[0].split()[0], lines[-1].split()[:2]) == ("pip", ["purifyctl", "report"])


@pytest.mark.slow
def test_every_line_of_the_page_works_in_order(own: Path) -> None:
    typed = [text for language, text in steps(PAGE) if language == "bash" and text not in NOT_EXECUTED]
    said = ""
    for line in typed:
        code, words = type_in(f"{line} {APPENDED.get(shlex.split(line)[1], '')}")
        assert code == 0, f"{line}\n{words}"
        said += words
    assert "6 with a true label, from truth.csv" in said
    assert "thing 0, thing 1, thing 2" in said
    assert (own / "clean" / "report.html").is_file()
    summary = json.loads((own / "clean" / "summary.json").read_text())
    assert summary["truth"] == {"from": "truth.csv", "labelled": 6, "inputs": 6}
    (part,) = (own / "clean" / "rows").glob("part-*.parquet")
    assert [row["true_label"] for row in read_rows(part)] == [f"thing {i}" for i in range(6)]
    for made in re.findall(r"--out (\S+)", "\n".join(typed)):
        assert any((own / made).iterdir()), made


@pytest.mark.slow
def test_other_labels_or_another_truth_are_another_run(own: Path) -> None:
    run = "purifyctl run photos --out clean --classifier my.onnx --truth truth.csv --format none --labels "
    assert type_in(run + "labels.txt")[0] == 0
    (own / "truth.csv").write_text((own / "truth.csv").read_text().replace("0.jpg,thing 0", "0.jpg,thing 1"))
    code, said = type_in(run + "labels.txt")
    assert code == 2
    assert "options.truth was" in said
