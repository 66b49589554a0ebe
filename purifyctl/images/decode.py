"""File bytes to pixels, by DALI: on the CPU without a GPU, on the GPU with one, through the same pipeline.

If an image is bad, DALI raises for its whole batch, does not say reliably which image it was, and cannot use the
pipeline any more. So obvious cases are refused from their header, a batch that fails is halved until the bad images
stand alone, and the pipeline is made anew (8 ms). It does not prefetch, so that a failure belongs to the batch that was
given to it. The caller's threads overlap decoding with other work.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.config.values import MAX_PIXELS
from purifyctl.errors import BackendError, ImageError
from purifyctl.images.geometry import square

# What DALI decodes, in Pillow's names. DALI does not decode GIF.
DECODABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM")
BATCH_PIXELS = 200_000_000  # of the images that are decoded together: 600 MB of RGB

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit would override ours

Encoded = NDArray[np.uint8]  # the bytes of one file


@dataclass(frozen=True)
class Decoded:
    """A batch of files after decoding. Positions count within the batch."""

    images: Any  # RGB uint8 [n, size, size, 3], the good ones in order: numpy array, or torch CUDA tensor
    positions: list[int]  # [n], which file each of `images` comes from
    sizes: list[tuple[int, int]]  # [n], (height, width) in pixels as seen, after EXIF rotation
    errors: dict[int, ImageError]  # by position: why there is no image


class Decoder:
    """Decodes, rotates as EXIF says, and resizes `geometry.square` to `size` pixels (antialiased linear).

    Parameters
    ----------
    device_id
        GPU that decodes (DALI "mixed"), or None for the CPU.
    threads
        DALI's worker threads.
    max_pixels
        Larger images are refused from their header, before any memory is taken.
    """

    def __init__(
        self, *, size: int, batch_size: int, threads: int, device_id: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._size = size
        self._batch_size = batch_size
        self._threads = threads
        self._device_id = device_id
        self._max_pixels = max_pixels
        self._pipeline: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline = None

    def decode(self, files: Sequence[Encoded]) -> Decoded:
        """Decode the bytes of up to `batch_size` files. Nothing in a file makes it raise."""
        errors: dict[int, ImageError] = {}
        pixels: dict[int, int] = {}
        for i, data in enumerate(files):
            try:
                pixels[i] = _check_header(data, self._max_pixels)
            except ImageError as error:
                errors[i] = error
        groups = [
            group
            for members in _groups(pixels, BATCH_PIXELS)
            for group in self._decode_group([(i, files[i]) for i in members], errors)
        ]
        positions = [i for group in groups for i in group[1]]
        sizes = [size for group in groups for size in group[2]]
        return Decoded(self._join([group[0] for group in groups]), positions, sizes, errors)

    def _decode_group(
        self, group: list[tuple[int, Encoded]], errors: dict[int, ImageError]
    ) -> list[tuple[Any, list[int], list[tuple[int, int]]]]:
        """Decode a group together. If that fails, decode its halves, down to single images, which then fail alone."""
        if self._pipeline is None:
            self._pipeline = self._build()
        try:
            images, shapes = self._run([data for _, data in group])
        except RuntimeError as error:
            self._pipeline = None  # DALI cannot use a pipeline again after it raised
            if "CUDA" in str(error):  # the device's fault, not the image's
                raise BackendError(f"DALI failed on the GPU: {_reason(error)}", hint="nvidia-smi") from None
            if len(group) > 1:
                middle = len(group) // 2
                return self._decode_group(group[:middle], errors) + self._decode_group(group[middle:], errors)
            errors[group[0][0]] = ImageError("decode_failed", _reason(error))
            return []
        return [(images, [i for i, _ in group], shapes)]

    def _run(self, files: list[Encoded]) -> tuple[Any, list[tuple[int, int]]]:
        self._pipeline.feed_input("files", files)
        images, shapes = self._pipeline.run()
        sizes = [(int(h), int(w)) for h, w, _ in shapes.as_cpu().as_array()]
        if self._device_id is None:
            return images.as_array(), sizes
        import torch.utils.dlpack

        # clone, and wait for it: DALI reuses its output buffer in the next run
        kept = torch.utils.dlpack.from_dlpack(images.as_tensor()).clone()
        torch.cuda.current_stream().synchronize()
        return kept, sizes

    def _build(self) -> Any:
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
            files = fn.external_source(name="files", device="cpu", dtype=types.UINT8, ndim=1, no_copy=True)
            device = "cpu" if self._device_id is None else "mixed"
            images = fn.decoders.image(files, device=device, output_type=types.RGB)
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

    def _join(self, groups: list[Any]) -> Any:
        if len(groups) == 1:
            return groups[0]
        if not groups:
            return np.empty((0, self._size, self._size, 3), np.uint8)
        if self._device_id is None:
            return np.concatenate(groups)
        import torch

        return torch.cat(groups)


def _groups(pixels: dict[int, int], budget: int) -> list[list[int]]:
    """Cut positions, in order, into groups whose pixels stay within the budget. One image alone may exceed it."""
    groups: list[list[int]] = []
    room = 0
    for i, n in pixels.items():
        if not groups or n > room:
            groups.append([])
            room = budget
        groups[-1].append(i)
        room -= n
    return groups


def _check_header(data: Encoded, max_pixels: int) -> int:
    """Number of pixels according to the header. Raises ImageError for files that DALI must not get."""
    if data.size == 0:
        raise ImageError("empty", "The file is empty.")
    try:
        with Image.open(io.BytesIO(data.data)) as header:
            kind, (width, height) = header.format, header.size
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise ImageError("not_an_image", f"The file has no readable image header ({type(error).__name__}).") from None
    if kind not in DECODABLE:
        raise ImageError("unsupported_format", f"{kind} is not decoded here; convert it to PNG or JPEG.")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} is more than the {max_pixels:,} pixels allowed.")
    return int(width * height)


def _reason(error: RuntimeError) -> str:
    """The reason for the user. If the data is damaged, DALI only says that it failed."""
    if "decoders.image" in str(error):
        return "The image data is damaged or cut short."
    return " ".join(str(error).split())[:300]
