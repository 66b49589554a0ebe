"""`make gpu-trial`: its steps, what it installs, and a whole trial on a CPU."""

import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.trial import __main__ as trial
from tests.trial import wheels
from tests.trial.report import Figures

ROOT = Path(__file__).parents[1]


def step(name: str, code: str, limit_s: int = 20) -> trial.Step:
    return trial.Step(name, f"runs {name}", ("-c", code), limit_s)


def perform(out: Path, monkeypatch: pytest.MonkeyPatch, *steps: trial.Step, seconds: float = 60) -> list[str]:
    monkeypatch.setattr(trial, "STEPS", steps)
    return [done.status for done in trial.trial("cuda", out, out / "wheels", seconds=seconds)]


def test_a_step_that_fails_does_not_stop_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = perform(tmp_path, monkeypatch, step("bad", "print('why'); raise SystemExit(7)"), step("good", ""))
    assert statuses == ["failed (7)", "ok"]
    page = (tmp_path / "trial.md").read_text()
    assert "1 of 2 steps are ok" in page
    assert "    why" in page
    assert [each["status"] for each in json.loads((tmp_path / "trial.json").read_text())["steps"]] == statuses


def test_a_step_ends_at_its_limit_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}, {str(tmp_path)!r}]).wait()"
    assert perform(tmp_path, monkeypatch, step("slow", child, 3), step("good", "")) == ["out of time", "ok"]
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and _state(pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists() or _state(pid) == "Z"


CHILD = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid())); time.sleep(60)"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_when_the_whole_time_is_over_the_other_steps_get_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = perform(tmp_path, monkeypatch, step("slow", SLEEP), step("late", SLEEP), seconds=1.5)
    assert statuses == ["out of time", "out of time"]


SLEEP = "import time; time.sleep(60)"


def test_figures_that_a_step_had_before_its_end_are_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"from pathlib import Path; from tests.trial.report import Figures; Figures(Path({str(tmp_path)!r}), 'half')"
    code += ".add('speed', 12345.6, 'images/s', 'of | a\\nfew'); raise SystemExit(1)"
    perform(tmp_path, monkeypatch, step("half", code))
    assert "| speed | 12,346 images/s | of / a few |" in (tmp_path / "trial.md").read_text()
    assert json.loads((tmp_path / "trial.json").read_text())["steps"][0]["figures"][0]["value"] == 12345.6


def test_limits_of_the_steps_fill_the_whole_time() -> None:
    assert sum(each.limit("cuda") for each in trial.STEPS) == trial.SECONDS["cuda"] == 8 * 60
    assert trial.SECONDS["cpu"] < 6 * 60


def test_files_that_were_cut_into_parts_are_joined_again(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.whl", "b.whl", "empty.txt")]
    for file, size in zip(files, (1000, 10, 0), strict=True):
        file.write_bytes(os.urandom(size))
    count = wheels.cut(files, tmp_path / "parts", 300)
    parts = sorted((tmp_path / "parts").iterdir())
    assert count == len(parts) == 4
    assert all(sum(f.stat().st_size for f in part.glob("*.????")) <= 300 for part in parts)
    wheels.join(parts, tmp_path / "joined")
    assert [(tmp_path / "joined" / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]


@pytest.mark.parametrize("damage", ["missing", "other bytes"])
def test_a_part_that_did_not_arrive_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a.whl"
    file.write_bytes(os.urandom(1000))
    wheels.cut([file], tmp_path / "parts", 300)
    piece = tmp_path / "parts" / "part-03" / "a.whl.0002"
    piece.unlink() if damage == "missing" else piece.write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"a\.whl"):
        wheels.join(sorted((tmp_path / "parts").iterdir()), tmp_path / "joined")
    assert not (tmp_path / "joined" / "a.whl").exists()


def test_only_what_is_missing_is_installed_and_beside_everything_else(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel("purifyctl-probe", "1.0", folder)
    (folder / wheels.REQUIREMENTS).write_text("purifyctl-probe==1.0\nnumpy==0.1\n")
    wheels.install(folder, tmp_path)
    assert (tmp_path / "site" / "purifyctl_probe.py").exists()
    assert not (tmp_path / "site" / "numpy").exists()


def wheel(name: str, version: str, folder: Path) -> None:
    """A wheel with one module."""
    module, about = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}.py", "")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", f"{module}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")


def test_a_version_that_is_too_old_counts_as_missing() -> None:
    asked_for = {"numpy": "numpy>=1000"}
    assert not wheels._is_here("numpy", asked_for)
    assert wheels._is_here("numpy", wheels._asked_for())
    assert not wheels._is_here("no-such-package", {})


def test_what_is_gathered_holds_dali_and_tensorrt_and_not_torch() -> None:
    gathered = wheels.needed() - set(wheels.with_torch())
    assert {"nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13", "tensorrt-rtx-cu13-libs", "isal", "pytest"} <= gathered
    assert not {name for name in gathered if name.startswith(("torch", "triton", "nvidia-cudnn", "nvidia-cublas"))}


def test_the_driver_needs_nothing_but_python(tmp_path: Path) -> None:
    """A machine that has nothing yet must be able to start it."""
    words = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tests.trial.__main__",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_whole_trial_on_a_cpu_is_green_within_six_minutes(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["-m", "tests.trial", "--device", "cpu", "--out", tmp_path, "--wheels", tmp_path, "--seconds", 1200]
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (tmp_path / "trial.md").read_text()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 6 * 60  # of processor time: other tests run at the same time
    found = json.loads((tmp_path / "trial.json").read_text())
    assert found["device"].startswith("CPU: ")
    assert [each["name"] for each in found["steps"]] == [each.name for each in trial.STEPS]
    figures = {each["name"]: {row["what"]: row["value"] for row in each["figures"]} for each in found["steps"]}
    assert figures["run"]["png: slowest stage"] in ("decode", "engine", "encode")
    assert figures["training"]["first call, interrupted"] == 130
    assert figures["training"]["training"] > 0


def test_figures_are_read_again(tmp_path: Path) -> None:
    figures = Figures(tmp_path, "one")
    figures.add("what", 1.5)
    assert json.loads((tmp_path / "results" / "one.json").read_text())[0]["value"] == 1.5
