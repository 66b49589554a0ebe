"""TensorRT, for data-centre GPUs: plans for the model of GPU in this machine.

TensorRT times kernels while it builds, and chooses the fastest. The timings are kept in the user's cache, per version
and GPU.
"""

import re
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import BackendName, EngineConfig, EnginePrecision
from purifyctl.engine.backends import LOCAL
from purifyctl.engine.backends.tensorrt_api.build import batches, compile_plan, draft
from purifyctl.engine.backends.tensorrt_api.library import Cache, Library, load, read
from purifyctl.engine.backends.tensorrt_api.run import PlanRunner, load_plan
from purifyctl.engine.rewrites import Pass, fold_norms
from purifyctl.errors import ConfigError
from purifyctl.machine import cache_folder

NAME: BackendName = "tensorrt"


def version() -> str:
    return str(load(NAME).trt.__version__)


def candidates() -> tuple[EnginePrecision, ...]:
    return ("fp16",)


def supports(precision: EnginePrecision) -> bool:
    import torch

    load(NAME)
    return torch.cuda.is_available()


def rewrites(precision: EnginePrecision) -> tuple[Pass, ...]:
    return (fold_norms,)


def targets() -> tuple[str, ...]:
    return (LOCAL,)


def check_targets(asked: tuple[str, ...]) -> None:
    for target in asked:
        if target != LOCAL:
            raise ConfigError(f"{NAME} does not build for {target}.", hint="without targets it builds for the GPU here")


def build_plan(onnx_file: Path, *, image_size: int, batch_size: int, target: str = LOCAL) -> bytes:
    """Build a plan for batches of `batch_size` square images, to which the runner pads smaller ones.

    Raises
    ------
    ConfigError
        The target is not `LOCAL`.
    BackendError
        The parser or the builder refuses; its own words are in the message.
    """
    check_targets((target,))
    made = draft(load(NAME), onnx_file, batches(image_size, batch_size))
    cache = _load_timings(made.library, made.config)  # has to live until the plan is built
    plan = compile_plan(made, "this GPU", hint="nvidia-smi")
    cache.keep()
    return plan


def why_builds_vary(recipe: EngineConfig) -> str:
    return "TensorRT chooses kernels by timing them"


def open_runner(file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> PlanRunner:
    return open_plan(file)


def open_plan(file: Path, *, cuda_graph: bool = True) -> PlanRunner:
    """Open a plan on the current GPU.

    Parameters
    ----------
    cuda_graph
        Launch the network as one CUDA graph instead of kernel by kernel.

    Raises
    ------
    BackendError
        No GPU, no library, not enough memory, or a plan of another version or GPU.
    """
    plan = load_plan(NAME, file)
    runner = PlanRunner(plan, plan.engine.create_execution_context())
    if cuda_graph:
        runner.capture()
    return runner


def _load_timings(library: Library, config: Any) -> Cache:
    """Give the builder the timings of earlier builds on this GPU: it is quicker, and chooses the same kernels again."""
    import torch

    gpu = re.sub(r"\W+", "-", torch.cuda.get_device_name())
    file = cache_folder() / NAME / f"{library.trt.__version__}-{gpu}.timings"
    timings = config.create_timing_cache(read(file))
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        console.detail(f"The timings in {file} do not fit this machine: timing again.")
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, ignore_mismatch=False)
    return Cache(file, timings)
