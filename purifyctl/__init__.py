"""purifyctl: a purification layer in front of an image classifier.

From Python (docs/python.md):

    Purifier         a torch module, differentiable: in front of a classifier, in any network
    Engine           an open bundle: quick, uint8 in and out, classes too
    PurifyTransform  a torchvision transform
    api.art          a defence for the Adversarial Robustness Toolbox
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purifyctl.api.engine import Engine as Engine
    from purifyctl.api.purifier import Purifier as Purifier
    from purifyctl.api.transform import PurifyTransform as PurifyTransform

__version__ = "0.1.0"

# These are imported when a program asks for them: they need torch, and `purifyctl --help` must not wait for it.
_LAZY = {
    "Engine": "purifyctl.api.engine",
    "Purifier": "purifyctl.api.purifier",
    "PurifyTransform": "purifyctl.api.transform",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
