"""Squares, by DALI: of plain JPEG and PNG files, which it decodes, and of pictures that another library decoded. On the
CPU without a GPU, on the GPU with one.

If an image is bad, DALI raises for its whole batch, does not say reliably which image it was, and cannot use the
pipeline any more. So a batch that fails is halved until the bad images stand alone, and the pipeline is made anew
(8 ms). It does not prefetch, so that a failure belongs to the batch that was given to it. The caller's threads overlap
decoding with other work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import BackendError
from purifyctl.images.damage import Encoded
from purifyctl.images.geometry import square


@dataclass(frozen=True)
class Group:
    """Squares that were made together."""

    images: Any  # RGB uint8 [n, size, size, 3]: numpy array, or torch CUDA tensor
    positions: list[int]  # [n], which file each of them comes from
    sizes: list[tuple[int, int]]  # [n], (height, width) of each picture in pixels, upright


class Squares:
    """Makes `geometry.square` of pictures at `size` pixels (antialiased linear).

    Parameters
    ----------
    device_id
        GPU that decodes (DALI "mixed") and resizes, or None for the CPU.
    threads
        DALI's worker threads.
    """

    def __init__(self, *, size: int, batch_size: int, threads: int, device_id: int | None = None) -> None:
        self._size = size
        self._batch_size = batch_size
        self._threads = threads
        self._device_id = device_id
        self._of_files: Any = None  # pipelines, made at first use
        self._of_pixels: Any = None

    def close(self) -> None:
        self._of_files = self._of_pixels = None

    def of_files(self, files: Sequence[tuple[int, Encoded]]) -> list[Group]:
        """Decode files, each with its position, and turn them as EXIF says. If that fails, decode their halves, down
        to single files. Those that fail alone are in no group.
        """
        if self._of_files is None:
            self._of_files = self._build("files")
        try:
            images, sizes = self._run(self._of_files, [data for _, data in files])
        except RuntimeError as error:
            self._of_files = None  # DALI cannot use a pipeline again after it raised
            if "CUDA" in str(error):  # the device's fault, not the image's
                raise _failed(error) from None
            if len(files) > 1:
                middle = len(files) // 2
                return self.of_files(files[:middle]) + self.of_files(files[middle:])
            return []
        return [Group(images, [i for i, _ in files], sizes)]

    def of_pixels(self, pictures: Sequence[tuple[int, NDArray[np.uint8]]]) -> Group:
        """Squares of upright pictures, RGB uint8 [height, width, 3], each with its position."""
        if self._of_pixels is None:
            self._of_pixels = self._build("pixels")
        try:
            images, sizes = self._run(self._of_pixels, [pixels for _, pixels in pictures])
        except RuntimeError as error:
            raise _failed(error) from None
        return Group(images, [i for i, _ in pictures], sizes)

    def _run(self, pipeline: Any, given: Sequence[NDArray[np.uint8]]) -> tuple[Any, list[tuple[int, int]]]:
        pipeline.feed_input("given", list(given))
        images, shapes = pipeline.run()
        sizes = [(int(h), int(w)) for h, w, _ in shapes.as_cpu().as_array()]
        if self._device_id is None:
            return images.as_array(), sizes
        import torch.utils.dlpack

        # clone, and wait for it: DALI reuses its output buffer in the next run
        kept = torch.utils.dlpack.from_dlpack(images.as_tensor()).clone()
        torch.cuda.current_stream(kept.device).synchronize()
        return kept, sizes

    def _build(self, of: Literal["files", "pixels"]) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        def regions(shapes: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
            squares = [square(int(shape[0]), int(shape[1]), self._size) for shape in shapes]
            starts = [np.array(each.start, np.float32) for each in squares]
            return starts, [np.array(each.end, np.float32) for each in squares]

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=self._device_id,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
            exec_dynamic=True,  # lets the CPU part use the size of what the GPU decoded
        )
        def pipeline() -> Any:
            if of == "files":
                files = fn.external_source(name="given", device="cpu", dtype=types.UINT8, ndim=1, no_copy=True)
                if self._device_id is None:
                    images = fn.decoders.image(files, device="cpu", output_type=types.RGB)
                else:  # as on a CPU, and the same whichever batch a file is in: DALI would share a batch among decoders
                    images = fn.decoders.image(
                        files, device="mixed", output_type=types.RGB, jpeg_fancy_upsampling=True, hw_decoder_load=1.0
                    )
            else:
                images = fn.external_source(name="given", device="cpu", dtype=types.UINT8, layout="HWC", no_copy=True)
                images = images if self._device_id is None else images.gpu()
            shape = images.shape()  # of the upright picture: only DALI knows which EXIF tags it follows
            # one call for the whole batch: a call for each image would take 20 µs more
            corners: Any = fn.python_function(shape, function=regions, num_outputs=2, batch_processing=True)
            resized = fn.resize(
                images,
                roi_start=corners[0],
                roi_end=corners[1],
                size=[self._size, self._size],
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            return resized, shape

        try:
            built = pipeline()
            built.build()
        except RuntimeError as error:
            raise BackendError(f"DALI cannot decode on this machine: {' '.join(str(error).split())[:300]}") from None
        return built


def _failed(error: RuntimeError) -> BackendError:
    return BackendError(f"DALI failed: {' '.join(str(error).split())[:300]}", hint="nvidia-smi")
