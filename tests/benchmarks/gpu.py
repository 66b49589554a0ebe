"""What only a machine with an NVIDIA GPU can show: tests marked `gpu`, engines, parity, throughput from end to end.

    make test-gpu                                  the tests, and what could not be checked
    make bench-gpu PHOTOS=DIR                      that, and a dated table in docs/benchmarks.md

For each flavour of TensorRT: the shipped purifier and its classifier in FP16, two graphs and fused, built for the GPU
here, compared with torch FP32, and measured against torch on the same GPU and against the plain loop. What cannot be
had here (a flavour that is not installed, a GPU that it does not build for) stands in the table with the reason.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from purifyctl.backends import backend_version, tensorrt
from purifyctl.bench import BenchOptions, bench
from purifyctl.checkpoint import shipped_checkpoint
from purifyctl.config import Backend, EngineConfig
from purifyctl.default_engine import CLASSIFIER, WEIGHTS
from purifyctl.engine import build_engine
from purifyctl.errors import BackendError, ConfigError, MissingDependencyError

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "benchmarks.md"
HEADING = "## On NVIDIA GPUs\n"
COLUMNS = (
    "engine",
    "alone, images/s",
    "`run`, images/s",
    "of ceiling",
    "limited by",
    "times torch (FP32, eager)",
    "times the loop (the same)",
    "top-1 as torch",
)
NOT_MEASURED = "not measured"
FLAVOURS: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")


def run_tests() -> int:
    """The tests marked `gpu`; reasons of the skipped ones are printed. Returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-q"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def measure(flavour: Backend, fused: bool, photos: Path | None, folder: Path) -> dict[str, Any]:
    """Build for the GPU here, check parity (outside tolerance it raises), and measure."""
    config = EngineConfig(
        backend=flavour,
        precision="fp16",
        batch_size=64,
        targets=(tensorrt.capability(),) if flavour == "tensorrt-rtx" else (),
        classifier=CLASSIFIER,
        weights=WEIGHTS,
        fused=fused,
    )
    bundle = build_engine(config, shipped_checkpoint(), folder / f"{flavour}-{fused}", parity_photos=photos)
    figures = bench(bundle, BenchOptions(photos=photos, against=("torch", "loop"), batch_sizes=(64,)))
    return {**figures, "chains": bundle.manifest.parity.chains}


def table(photos: Path | None) -> Iterator[str]:
    """Markdown: one row per flavour and form, or the reason why there is none."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * len(COLUMNS)}"
    with tempfile.TemporaryDirectory() as folder:
        for flavour in FLAVOURS:
            for fused in (False, True):
                form = "fused" if fused else "two graphs"
                try:
                    found = measure(flavour, fused, photos, Path(folder))
                except (BackendError, MissingDependencyError, ConfigError) as error:  # ParityError ends it
                    yield f"| {flavour}, {form} | {NOT_MEASURED}: {' '.join(str(error).split())} | | | | | | |"
                    continue
                stages, against = found["stages"], found["against"]
                chain = found["chains"]["fused" if fused else "purifier, classifier"]
                cells = (
                    f"{flavour} {backend_version(flavour)} FP16, {form}",
                    f"{found['engine']['by_batch'][64]['images_per_s']:.0f}",
                    f"{stages['images_per_s']['run']:.0f}",
                    f"{stages['of_ceiling']:.0%}",
                    stages["limited_by"],
                    f"{against['torch']['times_faster']:.1f}",
                    f"{against['loop']['times_faster']:.1f}",
                    f"{chain['top1_agreement']:.1%} of {chain['images']:.0f}",
                )
                yield f"| {' | '.join(cells)} |"


def write(lines: list[str], command: str) -> None:
    """Put a dated section first under the heading; earlier ones stay."""
    about = torch.cuda.get_device_properties(0)
    title = f"### {about.name}, {tensorrt.capability()}, {datetime.now(UTC):%d %B %Y}"
    text = TABLE.read_text()
    if HEADING not in text:
        text += f"\n{HEADING}"
    lines = [title, "", f"torch {torch.__version__}, batch 64, 256x256, PNG out.", "", f"    {command}", "", *lines]
    section = "\n".join(lines)
    TABLE.write_text(text.replace(HEADING, f"{HEADING}\n{section}\n", 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="photographs to run over; default: those inside packages")
    parser.add_argument("--tests-only", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no NVIDIA GPU here (or torch cannot use it): nothing was checked. Try: purifyctl doctor")
        return 1
    failed = run_tests()
    missing = [flavour for flavour in FLAVOURS if not _imports(flavour)]
    for flavour in missing:
        print(f"NOT CHECKED: {flavour} is not installed.")
    if arguments.tests_only or failed:
        return failed or int(len(missing) == len(FLAVOURS))
    lines = list(table(arguments.photos))
    write(lines, f"make bench-gpu{' PHOTOS=DIR' if arguments.photos else ''}")
    print("\n".join(lines))
    return int(all(NOT_MEASURED in line for line in lines[2:]))


def _imports(flavour: str) -> bool:
    try:
        tensorrt.library(flavour)
    except MissingDependencyError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
