"""purifyctl: a purification layer in front of an image classifier."""

__version__ = "0.1.0"
