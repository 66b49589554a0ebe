"""What comes before the measuring: the machine, the tests for GPUs, photographs.

python -m tests.trial.before STEP --device cuda --out gpu-trial
"""

import argparse
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from purifyctl.config import BACKENDS
from purifyctl.errors import PurifyctlError
from purifyctl.machine import machine
from purifyctl.samples import copy_samples
from tests.trial.report import Figures

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = "photographs"  # a folder of the trial
NUMBER = {"cuda": 3000, "cpu": 96}  # of photographs that are made
GPU_TESTS = ("needs_gpu", "tiny.GPU")  # what the files say that hold tests for GPUs

Perform = Callable[[Figures, str, Path], None]  # a step's function: its figures, the device, the trial's folder


def measure_machine(figures: Figures, device: str, out: Path) -> None:
    import torch

    from purifyctl.engine.backends import implementation
    from purifyctl.machine import gpu_capability

    here = machine()
    if device == "cuda":
        figures.add("device", torch.cuda.get_device_name(), "", gpu_capability())
        figures.add("memory of the GPU", torch.cuda.mem_get_info()[1] / 2**30, "GiB")
        asked = [
            "nvidia-smi",
            "--query-gpu=driver_version,pcie.link.gen.max,pcie.link.width.max",
            "--format=csv,noheader",
        ]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        figures.add("driver, PCIe generation and lanes", said.stdout.strip() or said.stderr.strip())
    else:
        figures.add("device", f"CPU: {here['processor']}")
    figures.add("cores", here["cores"], "", here["processor"])
    figures.add("Python, torch", f"{here['python']}, {torch.__version__}", "", f"CUDA {torch.version.cuda}")
    for backend in BACKENDS:
        try:
            figures.add(backend, implementation(backend).version())
        except PurifyctlError as error:
            figures.add(backend, "not installed", "", str(error))


def measure_photographs(figures: Figures, device: str, out: Path) -> None:
    """Crops of the photographs inside packages, in folders of their classes: as many bytes as real ones have."""
    samples, made, n = out / "samples", out / PHOTOGRAPHS, NUMBER[device]
    copy_samples(samples, labelled_only=True)
    originals = sorted(samples.rglob("*.jpg"))
    began = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        sizes = list(
            pool.map(partial(_crop, made), (originals[i % len(originals)] for i in range(n)), range(n), chunksize=32)
        )
    figures.add("photographs", n, "JPEG, 500x375 pixels", f"{time.perf_counter() - began:.1f} s")
    figures.add("size of a file", statistics.mean(sizes) / 1000, "kB", "mean")


def _crop(folder: Path, original: Path, number: int) -> int:
    """Write one crop of a photograph, in other colours. Returns its size in bytes."""
    rng = np.random.default_rng(number)
    with Image.open(original) as image:
        width, height = image.size
        share = rng.uniform(0.7, 1.0)
        left, top = (rng.uniform(0, side * (1 - share)) for side in (width, height))
        part = image.convert("RGB").resize(
            (500, 375), Image.Resampling.BICUBIC, (left, top, left + width * share, top + height * share)
        )
    part = ImageEnhance.Color(ImageEnhance.Brightness(part).enhance(rng.uniform(0.8, 1.2))).enhance(
        rng.uniform(0.7, 1.3)
    )
    grain = rng.normal(0, 6, (375, 500, 1))  # enlarged photographs are too smooth
    pixels = np.clip(np.asarray(part) + grain, 0, 255).astype(np.uint8)
    file = folder / original.parent.name / f"{number:05}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.stat().st_size


def measure_tests(figures: Figures, device: str, out: Path) -> None:
    """Without a GPU every test is skipped: that shows that they can be collected."""
    files = [
        file for file in sorted((ROOT / "tests").glob("test_*.py")) if any(w in file.read_text() for w in GPU_TESTS)
    ]
    found = out / "tests.xml"
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rs", f"--junitxml={found}", "-p", "no:cacheprovider"]
    code = subprocess.run([*words, *map(str, files)], cwd=ROOT, check=False).returncode
    suite = ET.parse(found).getroot().find("testsuite")
    assert suite is not None
    total, failed, skipped = (int(suite.get(key, "0")) for key in ("tests", "failures", "skipped"))
    failed += int(suite.get("errors", "0"))
    figures.add("tests", total, "", f"in {len(files)} files")
    figures.add("passed", total - failed - skipped)
    figures.add("failed", failed, "", "; ".join(_reasons(suite, "failure", "error")))
    figures.add("skipped", skipped, "", "; ".join(_reasons(suite, "skipped")))
    if code or not total or (device == "cuda" and total == skipped):
        raise SystemExit(1)


def _reasons(suite: ET.Element, *kinds: str) -> list[str]:
    """Why tests failed or were skipped, each reason once."""
    found = {str(each.get("message", ""))[:160] for kind in kinds for each in suite.iter(kind)}
    return sorted(found)


def perform_step(steps: Mapping[str, Perform]) -> None:
    """Perform the step that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=steps)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    steps[given.step](Figures(given.out, given.step), given.device, given.out)


STEPS = {"machine": measure_machine, "tests": measure_tests, "photographs": measure_photographs}


if __name__ == "__main__":
    perform_step(STEPS)
