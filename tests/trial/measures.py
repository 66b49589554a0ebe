"""What the steps of a trial measure. Each writes its figures as it finds them; see `report.py`.

python -m tests.trial.measures STEP --device cuda --out gpu-trial
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance

from purifyctl.bench.engine import matrix_product, on_device
from purifyctl.bench.peers import networks_of, peer
from purifyctl.bench.stages import ceiling, stages
from purifyctl.bench.timing import in_turns, per_second
from purifyctl.config import BACKENDS, BackendName, EngineConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.backends import implementation, to_host
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.chain import open_chain
from purifyctl.errors import PurifyctlError
from purifyctl.images import Decoder, GpuJpegEncoder
from purifyctl.machine import gpu_capability, machine
from purifyctl.samples import copy_samples
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images, read_file
from tests.trial.report import Figures

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS, ENGINES = "photographs", "engines"  # folders of the trial
NUMBER = {"cuda": 3000, "cpu": 96}  # photographs that are made
BATCH = {"cuda": 64, "cpu": 16}
COPIES = {"cuda": (1, 2, 3), "cpu": (1, 2)}  # of one engine, at once
ROUNDS = {"cuda": 2, "cpu": 1}
GPU_TESTS = ("needs_gpu", "tiny.GPU")  # what the files say that hold tests of GPUs
NOT_RUN = "not run"


def measure_machine(figures: Figures, device: str, out: Path) -> None:
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
        figures.add("driver, PCIe generation and lanes", said.stdout.strip() or said.stderr.strip() or NOT_RUN)
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
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", f"--junitxml={found}", "-p", "no:cacheprovider"]
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


def measure_engines(figures: Figures, device: str, out: Path) -> None:
    """The shipped purifier and its classifier for each backend of this device. A build compares itself with torch FP32
    on the CPU, and leaves no bundle if it differs.
    """
    built = 0
    for backend, record in BACKENDS.items():
        if record.device != device:
            continue
        began = time.perf_counter()
        try:
            config = _config(backend, device)
            bundle = build_engine(config, shipped_checkpoint(), out / ENGINES / backend, overwrite=True)
        except PurifyctlError as error:
            figures.add(backend, "not built", "", str(error))
            continue
        built += 1
        chain = bundle.manifest.parity.chains["purifier, classifier"]
        figures.add(backend, time.perf_counter() - began, "s to build", config.precision.upper())
        figures.add(f"{backend}, top-1 as torch", f"{chain['top1_agreement']:.1%}", f"of {chain['images']:.0f}")
    if not built:
        raise SystemExit("No engine was built.")


def _config(backend: BackendName, device: str) -> EngineConfig:
    return EngineConfig(
        backend=backend,
        precision=implementation(backend).best_precision(),
        batch_size=BATCH[device],
        targets=(gpu_capability(),) if BACKENDS[backend].plans == "ahead" else (),
        classifier=CLASSIFIER,
        weights=WEIGHTS,
    )


def bundles(out: Path) -> dict[str, Bundle]:
    """The engines that were built, by backend."""
    found = {
        folder.name: load_bundle(folder) for folder in sorted((out / ENGINES).glob("*")) if folder.name in BACKENDS
    }
    if not found:
        raise SystemExit("There is no engine to measure.")
    return found


def measure_decoding(figures: Figures, device: str, out: Path) -> None:
    """DALI by itself, on a GPU also beside the CPU; and the encoder of JPEG files."""
    files = [read_file(image) for image in list_images(out / PHOTOGRAPHS)]
    places: list[int | None] = [torch.cuda.current_device(), None] if device == "cuda" else [None]
    first: dict[int | None, Any] = {}
    for place in places:
        name = "CPU" if place is None else "GPU (DALI mixed)"
        cores = len(os.sched_getaffinity(0))
        with Decoder(size=256, batch_size=BATCH[device], threads=cores, device_id=place) as decoder:
            first[place] = to_host(decoder.decode(files[: BATCH[device]]).images)
            began = time.perf_counter()
            for i in range(0, len(files), BATCH[device]):
                decoder.decode(files[i : i + BATCH[device]])
            figures.add(f"decoding, {name}", len(files) / (time.perf_counter() - began), "images/s")
    if device == "cuda":
        gpu, cpu = (first[place].astype(int) for place in places)
        figures.add(
            "pixels, GPU beside CPU", float(abs(gpu - cpu).mean()), "grey levels", f"largest {abs(gpu - cpu).max()}"
        )
    encoder = GpuJpegEncoder(places[0])
    squares = on_device(first[places[0]], "cuda" if device == "cuda" else "cpu")
    if None in encoder.encode(squares):
        raise SystemExit("A square could not be encoded.")
    figures.add("JPEG encoding, nvImageCodec", per_second(lambda: encoder.encode(squares)) * len(squares), "images/s")
    with Image.open(io.BytesIO(encoder.encode(squares[:1])[0] or b"")) as image:
        figures.add("its first file", f"{image.format} {image.size[0]}x{image.size[1]}")


def measure_alone(figures: Figures, device: str, out: Path) -> None:
    images = _squares(out, device)
    for backend, bundle in bundles(out).items():
        with open_chain(bundle) as chain:
            batch = on_device(images, bundle.device)
            call = partial(chain.run, batch)
            rate = per_second(call, chain.concurrency) * len(images)
            figures.add(backend, rate, "images/s", bundle.manifest.precision.upper())
            figures.add(f"{backend}, one batch", 1e3 / per_second(call), "ms", f"of {len(images)}, one after another")
            adds = sum(bundle.manifest.networks[name].multiply_adds for name in bundle.chain())
            product, peak = matrix_product(bundle)
            share = 2 * adds * rate / peak
            figures.add(f"{backend}, of a matrix product", f"{share:.1%}", "", f"{product}: {peak / 1e12:.1f} TFLOP/s")


def measure_side(figures: Figures, device: str, out: Path) -> None:
    """All engines and torch in turns, over one batch; then several copies of the fastest at once."""
    images, opened = _squares(out, device), bundles(out)
    n = len(images)
    with ExitStack() as stack:
        calls: dict[str, Callable[[], float]] = {}
        for backend, bundle in opened.items():
            chain = stack.enter_context(open_chain(bundle))
            call = partial(chain.run, on_device(images, bundle.device))
            calls[backend] = lambda call=call, chain=chain: per_second(call, chain.concurrency) * n  # type: ignore[misc]
        networks = networks_of(next(iter(opened.values())), None)
        eager = stack.enter_context(peer("torch", networks, images, "cuda" if device == "cuda" else "cpu"))
        calls["torch, eager, FP32"] = lambda: per_second(eager) * n
        rates = in_turns(calls, ROUNDS[device])
    for name, each in rates.items():
        figures.add(name, statistics.median(each), "images/s", "in turns")
    best = max(opened, key=lambda backend: statistics.median(rates[backend]))
    for copies in COPIES[device]:
        with ExitStack() as stack, ThreadPoolExecutor(copies) as pool:
            chains = [stack.enter_context(open_chain(opened[best])) for _ in range(copies)]
            batch = on_device(images, opened[best].device)
            calls_per_s = pool.map(
                lambda chain, batch=batch: per_second(partial(chain.run, batch), chain.concurrency), chains
            )
            figures.add(f"{best}, {copies} at once", sum(calls_per_s) * n, "images/s")
    (out / "best").write_text(best)


def measure_run(figures: Figures, device: str, out: Path) -> None:
    """`run` from end to end with the fastest engine: the ceiling, and the stage that sets it."""
    best = (out / "best").read_text() if (out / "best").exists() else next(iter(bundles(out)))
    bundle = bundles(out)[best]
    for image_format in ("png", "jpeg"):
        with stages(bundle, out / PHOTOGRAPHS, image_format) as calls:
            found = ceiling(bundle, in_turns(calls, ROUNDS[device]))
        for name, rate in found["images_per_s"].items():
            figures.add(f"{image_format}: {name}", rate, "images/s", "end to end" if name == "run" else "alone")
        figures.add(f"{image_format}: ceiling", found["ceiling_images_per_s"], "images/s", f"with {best}")
        figures.add(f"{image_format}: run, of the ceiling", f"{found['of_ceiling']:.0%}")
        figures.add(f"{image_format}: slowest stage", found["limited_by"])


def _squares(out: Path, device: str) -> Any:
    """One batch as an engine sees it, in host memory."""
    files = [read_file(image) for image in list_images(out / PHOTOGRAPHS)[: BATCH[device]]]
    with Decoder(size=256, batch_size=BATCH[device], threads=len(os.sched_getaffinity(0))) as decoder:
        return decoder.decode(files).images


STEPS = {
    "machine": measure_machine,
    "photographs": measure_photographs,
    "tests": measure_tests,
    "engines": measure_engines,
    "decoding": measure_decoding,
    "alone": measure_alone,
    "side": measure_side,
    "run": measure_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    STEPS[given.step](Figures(given.out, given.step), given.device, given.out)


if __name__ == "__main__":
    main()
