"""Files to pixels and back. Between files and engines an image is RGB uint8 NHWC."""

from purifyctl.images.decode import Decoded, Decoder
from purifyctl.images.encode import encode
from purifyctl.images.source import ImageFile, list_images, list_tar_members, read_file

__all__ = ["Decoded", "Decoder", "ImageFile", "encode", "list_images", "list_tar_members", "read_file"]
