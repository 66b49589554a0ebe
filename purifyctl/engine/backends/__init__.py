"""Libraries that run a network, behind one small protocol.

`purifyctl.config.BACKENDS` lists them; each record names the module here that implements it. A library is imported by
its own module, and only when it is used. `torch.py` also holds the reference that engines are compared with; `cuda.py`
is what the backends for GPUs share.
"""

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from purifyctl.config import BACKENDS, BackendName, EngineConfig, EnginePrecision
from purifyctl.errors import BackendError, MissingDependencyError

if TYPE_CHECKING:  # it imports torch, and doctor decodes without torch
    from purifyctl.engine.rewrites import Pass

# RGB uint8 [N, H, W, 3], or one of a network's outputs with N first: a numpy array, or a torch CUDA tensor.
Batch = Any
LOCAL = "local"  # the target of a plan that is built for the GPU here


class Runner(Protocol):
    """One network, loaded. `infer` may be called from `concurrency` threads at once."""

    device_id: int | None  # the GPU whose memory batches should lie in; None: host memory
    concurrency: int  # threads that keep the device busy

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        """Run RGB uint8 [n, H, W, 3] with 1 <= n <= the batch size it was opened with: the graph's outputs in order."""
        ...


class Implementation(Protocol):
    """The functions that a backend's module offers."""

    def version(self) -> str:
        """The library's version. Plans need the version that they were built with."""
        ...

    def candidates(self) -> tuple[EnginePrecision, ...]:
        """What `--precision auto` chooses among on this machine, by measurement. A single one is taken without it."""
        ...

    def supports(self, precision: EnginePrecision) -> bool:
        """Whether this machine computes in `precision`. Starts the library."""
        ...

    def rewrites(self, precision: EnginePrecision) -> "tuple[Pass, ...]":
        """The rewrites of a purifier that make it fastest, in order."""
        ...

    def open_runner(self, file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> Runner:
        """Load the network in `file`: the graph, or the plan if the backend builds plans."""
        ...


class PlanBuilder(Implementation, Protocol):
    """The functions that a backend's module offers if it builds plans."""

    def targets(self) -> tuple[str, ...]:
        """What it builds plans for if the recipe names no targets: GPU generations such as "SM86", or `LOCAL`."""
        ...

    def check_targets(self, asked: tuple[str, ...]) -> None:
        """Raise `ConfigError` if one of the targets is unknown."""
        ...

    def build_plan(self, onnx_file: Path, *, image_size: int, batch_size: int, target: str) -> bytes:
        """Build the plan of a graph for one target."""
        ...

    def why_builds_vary(self, recipe: EngineConfig) -> str:
        """Why the same build may give other bytes; empty: it gives the same (docs/adr/0008)."""
        ...


def implementation(backend: str) -> Implementation:
    """The module of a backend.

    Raises
    ------
    BackendError
        There is no such backend.
    """
    if backend not in BACKENDS:
        *names, last = BACKENDS
        raise BackendError(f"There is no backend {backend}.", hint=f"{', '.join(names)} or {last}")
    return cast(Implementation, importlib.import_module(BACKENDS[backend].module))


def plan_builder(backend: str) -> PlanBuilder | None:
    """The module of a backend that builds plans; None: it runs graphs.

    Raises
    ------
    BackendError
        There is no such backend.
    """
    module = implementation(backend)
    return cast(PlanBuilder, module) if BACKENDS[backend].plans != "none" else None


def open_runner(backend: str, file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> Runner:
    """Load the network in `file` (an ONNX graph, or a plan) on this machine.

    Raises
    ------
    BackendError
        The library is missing, or refuses the file or the machine.
    """
    return implementation(backend).open_runner(file, precision=precision, image_size=image_size, batch_size=batch_size)


def library(backend: BackendName) -> Any:
    """The Python module of a backend's library.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    about = BACKENDS[backend]
    try:
        return importlib.import_module(about.imported_as)
    except ImportError:
        raise MissingDependencyError(about.package, needed_for=f"The backend {backend}", extra=about.extra) from None


def to_host(batch: Batch) -> NDArray[Any]:
    """A batch as a numpy array in host memory.

    A batch on a GPU is copied through pinned memory, on a stream that only copies: the work of other threads continues.
    """
    if isinstance(batch, np.ndarray):
        return batch
    import torch

    with torch.cuda.device(batch.device):
        copies = _copy_stream(batch.device)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        copies.wait_stream(torch.cuda.current_stream())  # the batch may not be complete yet
        host = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)  # torch keeps freed memory for the next one
        with torch.cuda.stream(copies):
            host.copy_(batch, non_blocking=True)
            done.record()
        done.synchronize()
    return host.numpy()


@functools.cache
def _copy_stream(device: Any) -> Any:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
