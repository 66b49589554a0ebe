"""TensorRT for RTX, for GeForce and RTX cards: plans for GPU generations, built ahead of time, on any machine.

It compiles kernels on the machine that runs the plan. The kernels are kept in the user's cache, per plan. Building is
tested without a GPU.
"""

import hashlib
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import BackendName, EngineConfig, EnginePrecision
from purifyctl.engine.backends import LOCAL
from purifyctl.engine.backends.tensorrt_api.build import batches, compile_plan, draft
from purifyctl.engine.backends.tensorrt_api.library import Cache, load, read
from purifyctl.engine.backends.tensorrt_api.run import Plan, PlanRunner, load_plan
from purifyctl.engine.rewrites import Pass, fold_norms
from purifyctl.errors import ConfigError
from purifyctl.machine import cache_folder

NAME: BackendName = "tensorrt-rtx"
TURING = "SM75"


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
    """Compute capabilities that it builds for ahead of time, such as "SM86"."""
    known = (name for name in vars(load(NAME).trt.ComputeCapability) if name.startswith("SM"))
    return tuple(sorted(known, key=lambda name: int(name[2:])))


def check_targets(asked: tuple[str, ...]) -> None:
    for target in asked:
        if target not in (known := targets()):
            raise ConfigError(f"{NAME} does not build for {target}.", hint=f"targets: {', '.join(known)}")


def build_plan(onnx_file: Path, *, image_size: int, batch_size: int, target: str = LOCAL) -> bytes:
    """Build a plan for batches of `batch_size` square images, to which the runner pads smaller ones.

    The same graph gives the same bytes, except on SM75 (docs/adr/0008).

    Parameters
    ----------
    target
        A compute capability such as "SM86", which needs no GPU; or `LOCAL`, for the GPU here.

    Raises
    ------
    ConfigError
        The target is unknown.
    BackendError
        The parser or the builder refuses; its own words are in the message.
    """
    here = target == LOCAL
    if not here:
        check_targets((target,))
    library = load(NAME)
    made = draft(library, onnx_file, batches(image_size, batch_size, smallest_batch(target)))
    made.config.num_compute_capabilities = 1
    made.config.set_compute_capability(getattr(library.trt.ComputeCapability, "CURRENT" if here else target), 0)
    return compile_plan(
        made,
        "this GPU" if here else target,
        hint="nvidia-smi" if here else f"leave out --target {target}, or choose another --precision",
    )


def smallest_batch(target: str) -> int | None:
    """One image on Turing: there, a plan of a fixed batch holds constants for each of its images, 600 MB instead of 14.

    None: the batch is fixed.
    """
    return 1 if target == TURING else None


def why_builds_vary(recipe: EngineConfig) -> str:
    if recipe.fused or not recipe.targets or TURING in recipe.targets:
        return (
            f"TensorRT for RTX orders what it compiles for {TURING}, and for a graph with two outputs, by memory "
            "addresses"
        )
    return ""


def open_runner(file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> PlanRunner:
    return open_plan(file)


def open_plan(file: Path, *, cuda_graph: bool = True) -> PlanRunner:
    """Open a plan on the current GPU.

    Parameters
    ----------
    cuda_graph
        Launch the network as one CUDA graph instead of kernel by kernel. The library captures it by itself: only the
        library knows when it has compiled its kernels.

    Raises
    ------
    BackendError
        No GPU, no library, not enough memory, or a plan of another version or GPU.
    """
    plan = load_plan(NAME, file)
    options, cache = _options(plan, cuda_graph=cuda_graph)
    return PlanRunner(plan, plan.engine.create_execution_context(options), cache)


def _options(plan: Plan, *, cuda_graph: bool) -> tuple[Any, Cache]:
    """How to run the plan: with the kernels that an earlier run compiled, if they fit this machine."""
    options = plan.engine.create_runtime_config()
    if cuda_graph:
        options.cuda_graph_strategy = plan.library.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    kernels = options.create_runtime_cache()
    file = cache_folder() / NAME / f"{hashlib.sha256(plan.data).hexdigest()}.kernels"
    if (kept := read(file)) and not kernels.deserialize(kept):
        console.detail(f"The kernels in {file} are of another driver or GPU: compiling them again.")
    options.set_runtime_cache(kernels)
    return options, Cache(file, kernels)
