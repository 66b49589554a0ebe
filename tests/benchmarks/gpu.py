"""What only a machine with an NVIDIA GPU can show: tests marked `gpu`, engines, parity, throughput from end to end.

    make test-gpu                                  the tests, and what could not be checked
    make bench-gpu PHOTOS=DIR                      that, and a dated table in docs/benchmarks.md
    python -m tests.benchmarks.gpu --backend openvino    the table's lines alone, to try this script without a GPU

For each backend for GPUs it takes the shipped purifier and the paper's U-Net at width 64 (untrained, because only
its speed counts), each with the default classifier, in FP16, as two graphs and fused. It builds them for the GPU here,
compares them with torch FP32, and measures them beside torch on the same GPU and beside the plain loop. If something is
not possible here (a flavour is not installed, or does not build for this GPU, or an engine does not agree), the table
gives the reason.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from purifyctl.bench import BenchOptions, bench
from purifyctl.checkpoint import save_purifier
from purifyctl.config import BACKENDS, BackendName, EngineConfig, NetworkConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.backends import implementation, library
from purifyctl.engine.build import build_engine
from purifyctl.errors import BackendError, ConfigError, MissingDependencyError, ParityError
from purifyctl.machine import gpu_capability
from purifyctl.nn import build_purifier
from purifyctl.shipped import shipped_checkpoint

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "benchmarks.md"
HEADING = "## On NVIDIA GPUs\n"
COLUMNS = (
    "engine",
    "alone, images/s",
    "TFLOP/s, of a matrix product's",
    "`run`, images/s",
    "of ceiling",
    "limited by",
    "times torch (FP32, eager)",
    "times the loop (the same)",
    "top-1 as torch",
)
NOT_MEASURED = "not measured"
FLAVOURS = tuple(backend.name for backend in BACKENDS.values() if backend.device == "cuda")


def run_tests() -> int:
    """The tests marked `gpu`; reasons of the skipped ones are printed. Returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-q"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def purifiers(folder: Path) -> dict[str, Path]:
    """Checkpoints to measure, by name."""
    torch.manual_seed(0)
    network = NetworkConfig(kind="unet", width=64)
    file = folder / "unet.safetensors"
    save_purifier(file, build_purifier(network).eval(), network, {"made": "untrained"})
    return {"shipped": shipped_checkpoint(), "U-Net-64": file}


def measure(flavour: BackendName, checkpoint: Path, fused: bool, photos: Path | None, folder: Path) -> dict[str, Any]:
    """Build for the device here, check parity (outside tolerance it raises), and measure."""
    on_gpu = flavour in FLAVOURS
    batch = 64 if on_gpu else 16
    config = EngineConfig(
        backend=flavour,
        precision="fp16" if on_gpu else "fp32",
        batch_size=batch,
        targets=(gpu_capability(),) if BACKENDS[flavour].plans == "ahead" else (),
        classifier=CLASSIFIER,
        weights=WEIGHTS,
        fused=fused,
    )
    bundle = build_engine(config, checkpoint, folder / "bundle", parity_photos=photos, overwrite=True)
    options = BenchOptions(photos=photos, against=("torch", "loop"), checkpoint=checkpoint, batch_sizes=(batch,))
    return {**bench(bundle, options), "chains": bundle.manifest.parity.chains, "config": config}


def table(photos: Path | None, flavours: Sequence[BackendName] = FLAVOURS) -> Iterator[str]:
    """Markdown: one row per flavour, purifier and form, or the reason why there is none."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * len(COLUMNS)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = itertools.product(flavours, purifiers(folder).items(), (False, True))
        for flavour, (purifier, checkpoint), fused in cases:
            form = f"{purifier}, {'fused' if fused else 'two graphs'}"
            try:
                found = measure(flavour, checkpoint, fused, photos, folder)
            except (BackendError, MissingDependencyError, ConfigError, ParityError) as error:
                reason = f"{NOT_MEASURED}: {' '.join(str(error).split())}"
                yield f"| {flavour}, {form} | {reason} {'| ' * (len(COLUMNS) - 2)}|"
                continue
            stages, against, engine = found["stages"], found["against"], found["engine"]
            chain = found["chains"]["fused" if fused else "purifier, classifier"]
            cells = (
                f"{flavour} {implementation(flavour).version()} {found['config'].precision.upper()}, {form}",
                f"{engine['by_batch'][found['config'].batch_size]['images_per_s']:.0f}",
                f"{engine['flop_per_s'] / 1e12:.2f}, {engine['of_matrix_product']:.0%}",
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
    title = f"### {about.name}, {gpu_capability()}, {datetime.now(UTC):%d %B %Y}"
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
    parser.add_argument(
        "--backend", choices=get_args(BackendName), help="print the table's lines for this one alone; writes nothing"
    )
    arguments = parser.parse_args()
    if arguments.backend:
        for line in table(arguments.photos, (arguments.backend,)):
            print(line, flush=True)
        return 0
    if not torch.cuda.is_available():
        print("There is no NVIDIA GPU here (or torch cannot use it; try purifyctl doctor). NOT CHECKED:", flush=True)
        listing = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q"]
        subprocess.run(listing, cwd=ROOT, check=False)
        print(f"and for {' and '.join(FLAVOURS)}: parity, zero-copy, engines alone, throughput from end to end.")
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


def _imports(flavour: BackendName) -> bool:
    try:
        library(flavour)
    except MissingDependencyError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
