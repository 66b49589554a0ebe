"""Where pictures come from: folders, lists, tar archives, object stores and web servers."""

from purifyctl.sources.local import read_file
from purifyctl.sources.opening import list_images, open_source
from purifyctl.sources.source import Found, ImageFile, Source

__all__ = ["Found", "ImageFile", "Source", "list_images", "open_source", "read_file"]
