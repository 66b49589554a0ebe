"""What the steps of a trial measure. Each writes its figures as it finds them; see `report.py`.

python -m tests.trial.measures STEP --device cuda --out gpu-trial
"""

import io
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from purifyctl.bench.engine import matrix_product, on_device
from purifyctl.bench.networks import networks_of
from purifyctl.bench.peers import peer
from purifyctl.bench.stages import ceiling, stages
from purifyctl.bench.timing import in_turns
from purifyctl.config import BACKENDS, BackendName, EngineConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.backends import implementation, to_host
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.chain import open_chain
from purifyctl.engine.parity import LEAST
from purifyctl.engine.rate import per_second
from purifyctl.errors import PurifyctlError
from purifyctl.images import Decoder, GpuJpegEncoder
from purifyctl.machine import gpu_capability
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images, read_file
from tests.trial.before import PHOTOGRAPHS, perform_step
from tests.trial.report import Figures

ENGINES = "engines"  # a folder of the trial
LEFT_OUT = ("onnxruntime",)  # on a CPU two engines are enough to try the script
BATCH = {"cuda": 64, "cpu": 16}
COPIES = {"cuda": (1, 2, 3), "cpu": (1, 2)}  # of one engine, at once
ROUNDS = {"cuda": 2, "cpu": 1}  # of the engines side by side


def measure_engines(figures: Figures, device: str, out: Path) -> None:
    """The shipped purifier and its classifier for each backend of this device. A build compares itself with torch FP32
    on the CPU, and leaves no bundle if it differs.
    """
    built, photos = 0, _few(out) if device == "cpu" else None
    for backend, record in BACKENDS.items():
        if record.device != device or backend in LEFT_OUT:
            continue
        began = time.perf_counter()
        try:
            config = _config(backend, device)
            bundle = build_engine(
                config, shipped_checkpoint(), out / ENGINES / backend, parity_photos=photos, overwrite=True
            )
        except PurifyctlError as error:
            figures.add(backend, "not built", "", str(error))
            continue
        built += 1
        chain = bundle.manifest.parity.chains["purifier, classifier"]
        figures.add(backend, time.perf_counter() - began, "s to build", config.precision.upper())
        figures.add(f"{backend}, top-1 as torch", f"{chain['top1_agreement']:.1%}", f"of {chain['images']:.0f}")
    if not built:
        raise SystemExit("No engine was built.")


def _few(out: Path) -> Path:
    """As few photographs as a build compares: enough to try the script."""
    folder = out / "few"
    folder.mkdir(exist_ok=True)
    for image in list_images(out / PHOTOGRAPHS)[:LEAST]:
        link = folder / Path(image.file).name
        link.unlink(missing_ok=True)
        link.symlink_to(image.file)
    return folder


def _config(backend: BackendName, device: str) -> EngineConfig:
    return EngineConfig(
        backend=backend,
        precision=implementation(backend).candidates()[0],
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
    images, products = _squares(out, device), {}
    for backend, bundle in bundles(out).items():
        with open_chain(bundle) as chain:
            batch = on_device(images, bundle.device)
            call = partial(chain.run, batch)
            rate = per_second(call, chain.concurrency) * len(images)
            figures.add(backend, rate, "images/s", bundle.manifest.precision.upper())
            figures.add(f"{backend}, one batch", 1e3 / per_second(call), "ms", f"of {len(images)}, one after another")
            adds = sum(bundle.manifest.networks[name].multiply_adds for name in bundle.chain())
            if (precision := bundle.manifest.precision) not in products:
                products[precision] = matrix_product(bundle)
            product, peak = products[precision]
            share = 2 * adds * rate / peak
            figures.add(f"{backend}, of a matrix product", f"{share:.1%}", "", f"{product}: {peak / 1e12:.3g} TFLOP/s")


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
            found = ceiling(bundle, in_turns(calls, 1))
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
    "engines": measure_engines,
    "decoding": measure_decoding,
    "alone": measure_alone,
    "side": measure_side,
    "run": measure_run,
}


if __name__ == "__main__":
    perform_step(STEPS)
