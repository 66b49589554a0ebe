"""Pixels to file bytes."""

import io
import threading
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from purifyctl.config.formats import FORMAT, JPEG_QUALITY, Compression, ImageFormat
from purifyctl.images.metadata import NOTHING, Kept
from purifyctl.images.png import encode_png


def encode(
    image: NDArray[np.uint8], image_format: ImageFormat, compression: Compression = "fast", kept: Kept = NOTHING
) -> bytes | memoryview:
    """Encode RGB uint8 [height, width, 3].

    `kept`: what the file that the image was made from said about it. It has the image's height and width, and is
    written if the format can hold it.
    """
    record = FORMAT[image_format]
    if kept.alpha is not None and record.alpha:
        image = np.dstack([over_nothing(image, kept.alpha, kept.background), kept.alpha])
    options = (compression == "small" and record.small) or record.fast
    if options is None:
        return encode_png(image, _png_chunks(kept))
    about: dict[str, Any] = {"icc_profile": kept.profile, "exif": kept.exif}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options, **{name: value for name, value in about.items() if value})
    return buffer.getbuffer()


def over_nothing(
    image: NDArray[np.uint8], alpha: NDArray[np.uint8], background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The colours that, with this alpha, look like `image` on this background. Where nothing is opaque, they are the
    background's: what lay hidden there does not return.
    """
    share = alpha[..., None].astype(np.float32) / 255
    behind = np.asarray(background, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        colours = np.where(share > 0, (image - (1 - share) * behind) / share, behind)
    return colours.round().clip(0, 255).astype(np.uint8)


def _png_chunks(kept: Kept) -> list[tuple[bytes, bytes]]:
    chunks = []
    if kept.profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + isal_zlib.compress(kept.profile)))
    if kept.exif:
        chunks.append((b"eXIf", kept.exif.removeprefix(b"Exif\0\0")))
    return chunks


class GpuJpegEncoder:
    """Encodes whole batches as JPEG with nvImageCodec, which comes with DALI. Pixels on a GPU stay there.

    Parameters
    ----------
    device_id
        The GPU. None: the CPU, so that the code can be tried without a GPU; Pillow is as good there.
    """

    def __init__(self, device_id: int | None) -> None:
        from nvidia import nvimgcodec

        self._library = nvimgcodec
        on_cpu = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
        self._encoder = nvimgcodec.Encoder(device_id=on_cpu if device_id is None else device_id)
        self._options = nvimgcodec.EncodeParams(
            quality_type=nvimgcodec.QualityType.QUALITY,
            quality_value=JPEG_QUALITY,
            chroma_subsampling=nvimgcodec.ChromaSubsampling.CSS_420,  # as Pillow does
        )
        self._lock = threading.Lock()

    def encode(self, images: Any) -> list[bytes | None]:
        """JPEG files of RGB uint8 [n, height, width, 3], a torch CUDA tensor or a numpy array; None: it failed."""
        stream = 0
        if not isinstance(images, np.ndarray):
            import torch

            stream = torch.cuda.current_stream(images.device).cuda_stream
        with self._lock:
            pictures = self._library.as_images([images[i] for i in range(len(images))], stream)
            files = self._encoder.encode(pictures, "jpeg", params=self._options, cuda_stream=stream)
        return [None if file is None else bytes(file) for file in files]
