import json
import os
import re
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from packaging.requirements import Requirement

from purifyctl import console
from purifyctl.config import EngineConfig
from purifyctl.doctor import Check
from purifyctl.doctor.libraries import module_of
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.manifest import MANIFEST
from purifyctl.machine import installed
from purifyctl.report.doctor import show_checks
from tests import tiny
from tests.commands import purifyctl, purifyctl_anew

ROOT = Path(__file__).parents[1]
Command = Callable[..., CompletedProcess[str]]


def run_doctor(*words: object, command: Command = purifyctl, **environment: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, checks by id, stderr."""
    done = command("doctor", "--json", *words, **environment)
    assert "Traceback" not in done.stderr
    for line in done.stderr.splitlines():
        json.loads(line)
    document = json.loads(done.stdout)
    assert document["works"] == (done.returncode == 0)
    checks = {check["id"]: check for check in document["checks"]}
    assert len(checks) == len(document["checks"])
    return done.returncode, checks, done.stderr


def broken_packages(folder: Path, *names: str) -> Path:
    """A folder for PYTHONPATH whose packages fail to import, as if their native libraries were missing."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(
            f"raise ImportError('lib{name}.so.1: cannot open shared object file')"
        )
    return folder


def metadata_that_asks_for(folder: Path, *requirements: str) -> Path:
    """A folder for PYTHONPATH in which purifyctl is installed with other requirements."""
    lines = ["Metadata-Version: 2.4", "Name: purifyctl", "Version: 0", "Requires-Python: >=3.11"]
    lines += ["Provides-Extra: moon", *(f"Requires-Dist: {requirement}" for requirement in requirements)]
    file = folder / "purifyctl-0.dist-info" / "METADATA"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_a_machine_on_which_the_tests_run_is_one_on_which_run_works(tmp_path: Path) -> None:
    code, checks, _ = run_doctor("--out", tmp_path / "not" / "yet", PURIFYCTL_CACHE=str(tmp_path / "cache"))
    assert code == 0, [check for check in checks.values() if check["status"] == "failed"]
    assert checks["libraries.needed.torch"]["detail"] == f"torch {installed('torch')}"
    for name in ("memory.available", "processor.precision", "decoding.cpu.webp", "weights.classifier"):
        assert checks[name]["status"] == "ok"
    for check in checks.values():
        assert check["status"] == "ok" or check["fix"], check
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_library_that_does_not_import_fails_alone_and_the_other_checks_continue(tmp_path: Path) -> None:
    broken = broken_packages(tmp_path / "path", "openvino", "torch")
    code, checks, errors = run_doctor("--out", tmp_path, command=purifyctl_anew, PYTHONPATH=str(broken))
    assert code == 1
    assert checks["libraries.needed.openvino"]["status"] == "failed"
    assert "libopenvino.so.1: cannot open" in checks["libraries.needed.openvino"]["detail"]
    assert checks["libraries.needed.torch"]["fix"].startswith("pip install --force-reinstall 'torch>=")
    assert checks["gpu"]["fix"] == checks["weights.purifier"]["fix"] == "repair what is wrong under libraries"
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    has = flags[1].split() if flags else []
    said = checks["processor.instructions"]["detail"].split(", ")
    for flag, instructions in (("avx2", "AVX2"), ("avx512_vnni", "AVX-512 VNNI"), ("avx_vnni", "AVX-VNNI")):
        assert (instructions if flag in has else f"no {instructions}") in said
    for name in ("memory.available", "processor.model", "decoding.cpu.jpeg", "disk.out"):
        assert checks[name]["status"] == "ok"
    assert "libtorch.so.1" in errors


@pytest.mark.slow
def test_requirements_come_from_the_metadata_and_only_those_outside_extras_are_needed(tmp_path: Path) -> None:
    asked = ("rich>=999", "numpy", "no-such-sun", "no-such-moon>=2; extra == 'moon'", "typer; extra == 'moon'")
    elsewhere = ("no-such-os; sys_platform == 'plan9'", "no-such-ship; sys_platform == 'plan9' and extra == 'moon'")
    path = metadata_that_asks_for(tmp_path / "path", *asked, *elsewhere)
    code, checks, _ = run_doctor("--out", tmp_path, PYTHONPATH=str(path))
    found = {name: (c["status"], c["fix"]) for name, c in checks.items() if name.startswith("libraries.")}
    assert found == {
        "libraries.needed.python": ("ok", ""),
        "libraries.needed.rich": ("failed", "pip install 'rich>=999'"),
        "libraries.needed.numpy": ("ok", ""),
        "libraries.needed.no-such-sun": ("failed", "pip install no-such-sun"),
        "libraries.moon.no-such-moon": ("missing", "pip install 'purifyctl[moon]'"),
        "libraries.moon.typer": ("ok", ""),
    }
    assert code == 1


def test_every_requirement_that_is_installed_is_known_by_the_name_it_is_imported_by() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra, asked in project["optional-dependencies"].items() if extra != "dev" for text in asked]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if installed(requirement.name):
            assert find_spec(module_of(requirement.name)), requirement


@pytest.fixture(scope="module")
def few_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which few libraries are checked."""
    return {"PYTHONPATH": str(metadata_that_asks_for(tmp_path_factory.mktemp("few"), "numpy"))}


@pytest.mark.slow
def test_a_bundle_that_runs_here_is_enough_without_what_ships(
    tiny_bundle: Bundle, tmp_path: Path, few_libraries: dict[str, str]
) -> None:
    timm = broken_packages(tmp_path / "path", "timm")
    path = os.pathsep.join((str(timm), few_libraries["PYTHONPATH"]))
    words = ("--engine", tiny_bundle.path, "--out", tmp_path)
    code, checks, _ = run_doctor(*words, command=purifyctl_anew, PYTHONPATH=path)
    assert code == 0
    assert checks["weights.classifier"]["status"] == "missing"
    assert "pip install" in checks["weights.classifier"]["fix"]
    assert checks["engine.runs.purifier"]["status"] == checks["engine.runs.classifier"]["status"] == "ok"


@pytest.mark.slow
def test_a_damaged_bundle_and_a_folder_that_cannot_be_written_to_fail_with_what_repairs_them(
    tiny_bundle: Bundle, tmp_path: Path, few_libraries: dict[str, str]
) -> None:
    damaged = tmp_path / "bundle"
    damaged.mkdir()
    for file in tiny_bundle.path.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes() + b" " * (file.name != MANIFEST))
    a_file = tmp_path / "file"
    a_file.touch()
    code, checks, _ = run_doctor("--engine", damaged, "--out", a_file / "out", **few_libraries)
    assert code == 1
    assert {name for name, check in checks.items() if check["status"] == "failed"} == {"engine.bundle", "disk.out"}
    assert "its SHA-256 differs" in checks["engine.bundle"]["detail"]
    assert checks["engine.bundle"]["fix"] == tiny_bundle.manifest.rebuild
    assert "Not a directory" in checks["disk.out"]["detail"]


@pytest.mark.slow
@pytest.mark.skipif(not installed("tensorrt-rtx-cu13"), reason="TensorRT for RTX is not installed")
def test_a_bundle_for_a_gpu_that_is_not_here_fails(tmp_path: Path, few_libraries: dict[str, str]) -> None:
    config = EngineConfig(
        backend="tensorrt-rtx", precision="fp16", targets=("SM75",), image_size=tiny.SIZE, batch_size=2
    )
    bundle = build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle")
    code, checks, _ = run_doctor("--engine", bundle.path, "--out", tmp_path, CUDA_VISIBLE_DEVICES="", **few_libraries)
    assert code == 1
    assert "plans for SM75" in checks["engine.bundle"]["detail"]
    assert checks["engine.runs.purifier"]["status"] == "failed"
    assert "need an NVIDIA GPU" in checks["engine.runs.purifier"]["detail"]


@pytest.mark.slow
def test_a_driver_that_does_not_answer_is_reported_and_is_not_a_failure(
    tmp_path: Path, few_libraries: dict[str, str]
) -> None:
    tool = tmp_path / "nvidia-smi"  # what it says after the driver's files were updated under a running kernel
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    tool.chmod(0o755)
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    code, checks, _ = run_doctor("--out", tmp_path, PATH=path, CUDA_VISIBLE_DEVICES="", **few_libraries)
    assert code == 0
    assert checks["gpu.driver"]["status"] == "missing"
    assert "version mismatch" in checks["gpu.driver"]["detail"]
    assert checks["gpu.driver"]["fix"]


def test_checks_that_ended_alike_share_a_row_and_failures_are_repeated_in_whole_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_settings", console._Settings())
    monkeypatch.setenv("COLUMNS", "80")
    rebuild = (
        "purifyctl build-engine --backend tensorrt-rtx --target SM75 --target SM86 --target SM89 --out engines/rtx"
    )
    show_checks(
        [
            Check("decoding.cpu.jpeg", "ok", "JPEG"),
            Check("decoding.cpu.png", "ok", "PNG"),
            Check("libraries.moon.a", "missing", "no a", "pip install 'purifyctl[moon]'"),
            Check("libraries.moon.b", "missing", "no b", "pip install 'purifyctl[moon]'"),
            Check("engine.runs.purifier", "failed", "The GPU is SM90.", rebuild),
            Check("engine.runs.classifier", "failed", "The GPU is SM90.", rebuild),
        ]
    )
    said = capsys.readouterr()
    assert all(len(line) <= 80 for line in said.out.splitlines())
    assert "JPEG, PNG" in said.out
    assert "no a, no b" in said.out
    assert "pip install 'purifyctl[moon]'" in said.out
    assert said.err == f"error: engine runs: The GPU is SM90.\n  -> {rebuild}\n"
