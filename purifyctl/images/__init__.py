"""Pixels from bytes, and bytes from pixels. Between files and engines an image is RGB uint8 NHWC."""

from purifyctl.images.decode import Decoded, Decoder
from purifyctl.images.encode import GpuJpegEncoder, encode

__all__ = ["Decoded", "Decoder", "GpuJpegEncoder", "encode"]
