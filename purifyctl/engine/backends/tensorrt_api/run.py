"""A plan on the current GPU. This needs one, and has not been run on one yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purifyctl.config import BackendName
from purifyctl.engine.backends.cuda import CudaRunner, current_gpu
from purifyctl.engine.backends.tensorrt_api.library import Cache, Library, load
from purifyctl.engine.tensors import INPUT, OUTPUTS
from purifyctl.errors import BackendError


@dataclass(frozen=True)
class Plan:
    """A plan, deserialised on the current GPU."""

    library: Library
    file: Path
    data: bytes
    device_id: int
    runtime: Any
    engine: Any


def load_plan(name: BackendName, file: Path) -> Plan:
    """Deserialise a plan.

    Raises
    ------
    BackendError
        No GPU, or a plan of another version or GPU.
    MissingDependencyError
        The library is not installed.
    """
    device_id = current_gpu(file)
    library = load(name)
    data = file.read_bytes()
    runtime = library.start(library.trt.Runtime)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:  # the library returns None instead of raising
        raise BackendError(
            f"{name} {library.trt.__version__} refuses the plan {file}: {library.logger.reason()}",
            hint="build it again on this machine with purifyctl build-engine",
        )
    return Plan(library, file, data, device_id, runtime, engine)


class PlanRunner(CudaRunner):
    """Runs a plan on the current GPU.

    Parameters
    ----------
    context
        The engine's execution context; None: the library could not make one.
    cache
        What the library learns while it runs; it is kept when the runner is closed without an error.

    Raises
    ------
    BackendError
        Not enough memory.
    """

    def __init__(self, plan: Plan, context: Any, cache: Cache | None = None) -> None:
        import torch

        self._logger, trt = plan.library.logger, plan.library.trt
        self._runtime, self._engine, self._context, self._cache = plan.runtime, plan.engine, context, cache
        if self._context is None:
            raise BackendError(
                f"{plan.library.name} cannot make {plan.file} ready to run: {self._logger.reason()}",
                hint="build it with a smaller --batch-size, or free GPU memory: nvidia-smi",
            )
        shape = tuple(self._engine.get_tensor_profile_shape(INPUT, 0)[2])  # the largest
        self._context.set_input_shape(INPUT, shape)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        dtypes = {trt.DataType.UINT8: torch.uint8, trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        outputs = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=dtypes[self._engine.get_tensor_dtype(name)],
                device="cuda",
            )
            for name in sorted(set(names) - {INPUT}, key=OUTPUTS.index)  # plans have an order of their own
        }
        super().__init__(
            plan.library.name, plan.device_id, torch.zeros(shape, dtype=torch.uint8, device="cuda"), outputs
        )

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self._cache is not None and kind is None:
            self._cache.keep()
        # in this order: nothing may outlive what it was made from
        super().__exit__()
        del self._context, self._cache, self._engine, self._runtime

    def _execute(self, x: Any, made: Mapping[str, Any]) -> None:
        self._context.set_tensor_address(INPUT, x.data_ptr())
        for name, output in made.items():
            self._context.set_tensor_address(name, output.data_ptr())
        if not self._context.execute_async_v3(self._torch.cuda.current_stream().cuda_stream):
            raise BackendError(
                f"TensorRT failed while running: {self._logger.reason()}",
                hint="free GPU memory (nvidia-smi), or build the engine again on this machine",
            )
