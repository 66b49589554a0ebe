"""Where pictures come from: folders, lists, tar archives, object stores and web servers."""

from purifyctl.sources.listing import list_images
from purifyctl.sources.source import ImageFile, read_file

__all__ = ["ImageFile", "list_images", "read_file"]
