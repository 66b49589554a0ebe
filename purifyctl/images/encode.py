"""Pixels to file bytes."""

import io
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.config.formats import FORMAT, JPEG_QUALITY, Compression, ImageFormat
from purifyctl.images.png import encode_png


def encode(
    image: NDArray[np.uint8], image_format: ImageFormat, compression: Compression = "fast"
) -> bytes | memoryview:
    """Encode RGB uint8 [height, width, 3]."""
    record = FORMAT[image_format]
    options = (compression == "small" and record.small) or record.fast
    if options is None:
        return encode_png(image)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return buffer.getbuffer()


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
            pictures = self._library.as_images([images[i] for i in range(len(images))])
            files = self._encoder.encode(pictures, "jpeg", params=self._options, cuda_stream=stream)
        return [None if file is None else bytes(file) for file in files]
