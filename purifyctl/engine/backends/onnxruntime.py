"""ONNX Runtime on the CPU: the reference."""

from pathlib import Path
from typing import Self

from purifyctl.engine.backends import Batch
from purifyctl.errors import BackendError


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
