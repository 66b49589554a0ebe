"""Files to pixels and back. Between files and engines an image is RGB uint8 NHWC."""

from purifyctl.images.decode import Decoded, Decoder
from purifyctl.images.encode import GpuJpegEncoder, encode
from purifyctl.images.listing import list_images
from purifyctl.images.source import ImageFile, read_file

__all__ = ["Decoded", "Decoder", "GpuJpegEncoder", "ImageFile", "encode", "list_images", "read_file"]
