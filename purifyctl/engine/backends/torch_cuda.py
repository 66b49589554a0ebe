"""torch on NVIDIA GPUs: every card that torch has kernels for, and nothing more to install.

FP16 in channels-last layout, recorded as one CUDA graph at the engine's batch size. It has not been run on a GPU yet.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from purifyctl.config import EnginePrecision
from purifyctl.engine.backends.cuda import CudaRunner, current_gpu
from purifyctl.engine.backends.torch import read_program, rewrites, version
from purifyctl.errors import BackendError

__all__ = ["candidates", "open_runner", "rewrites", "supports", "version"]


def candidates() -> tuple[EnginePrecision, ...]:
    return ("fp16",)


def supports(precision: EnginePrecision) -> bool:
    return precision in ("fp16", "fp32") and torch.cuda.is_available()


def open_runner(file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> "TorchCudaRunner":
    return TorchCudaRunner(file, (batch_size, image_size, image_size, 3))


class TorchCudaRunner(CudaRunner):
    """Runs a program on the current GPU.

    Parameters
    ----------
    shape
        Of a batch: number, height, width, 3.
    cuda_graph
        Launch the network as one CUDA graph instead of kernel by kernel.

    Raises
    ------
    BackendError
        No GPU, not enough memory, or a program that torch cannot read or record.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int, int], *, cuda_graph: bool = True) -> None:
        device_id = current_gpu(file)
        try:
            self._program: Any = on_device(read_program(file), f"cuda:{device_id}")
            example = torch.zeros(shape, dtype=torch.uint8, device=f"cuda:{device_id}")
            outputs = self._run(example)
        except RuntimeError as error:  # torch's kind for what CUDA reports
            raise BackendError(
                f"torch cannot run {file} on this GPU: {error}",
                hint="free GPU memory (nvidia-smi), or build it with a smaller --batch-size",
            ) from None
        named = {str(number): torch.empty_like(output) for number, output in enumerate(outputs)}
        super().__init__("torch", device_id, torch.zeros_like(example), named)
        if cuda_graph:
            self.capture()

    def _execute(self, x: Any, made: Mapping[str, Any]) -> None:
        for buffer, output in zip(made.values(), self._run(x), strict=True):
            buffer.copy_(output)

    @torch.inference_mode()
    def _run(self, x: Any) -> tuple[Any, ...]:
        # TF32 would round the products of an FP32 engine to 10 bits
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            made = self._program(x)
        return made if isinstance(made, tuple) else (made,)


def on_device(program: Any, device: str) -> Any:
    """A program as a module on another device, with its weights in channels-last layout."""
    return move_to_device_pass(program, device).module().to(memory_format=torch.channels_last)
