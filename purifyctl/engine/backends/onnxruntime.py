"""ONNX Runtime on the CPU: runs any graph, anywhere."""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Self

from purifyctl.config import EnginePrecision
from purifyctl.engine.backends import Batch
from purifyctl.errors import BackendError

if TYPE_CHECKING:  # it imports torch, which running an engine does not need
    from purifyctl.engine.rewrites import Pass


def version() -> str:
    return metadata.version("onnxruntime")


def candidates() -> tuple[EnginePrecision, ...]:
    return ("fp32",)


def supports(precision: EnginePrecision) -> bool:
    import onnxruntime

    return "CPUExecutionProvider" in onnxruntime.get_available_providers()


def rewrites(precision: EnginePrecision) -> "tuple[Pass, ...]":
    from purifyctl.engine.rewrites import fold_norms

    return (fold_norms,)


def open_runner(
    file: Path,
    *,
    precision: EnginePrecision,
    image_size: int,
    batch_size: int,
) -> "ONNXRuntimeRunner":
    return ONNXRuntimeRunner(file)


class ONNXRuntimeRunner:
    """Runs an ONNX graph with all cores per call."""

    device_id: int | None = None
    concurrency = 1

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's own kinds are private
            raise BackendError(f"ONNX Runtime refuses {file}: {error}") from None
        self._input = self._session.get_inputs()[0].name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        return tuple(self._session.run(None, {self._input: images}))
