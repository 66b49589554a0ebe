"""Checks of the libraries that purifyctl's metadata names."""

import importlib
import platform
import shlex
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from purifyctl.config import BACKENDS
from purifyctl.doctor.check import Check, attempt
from purifyctl.errors import PurifyctlError
from purifyctl.machine import hush_libraries, installed

if TYPE_CHECKING:  # each check imports what it needs itself: a library that is missing is a finding
    from packaging.requirements import Requirement

_MODULES = {  # by package, if its module has another name
    "adversarial-robustness-toolbox": "art",
    "nvidia-dali-cuda130": "nvidia.dali",
    "pillow": "PIL",
    "scikit-image": "skimage",
    **{backend.package: backend.imported_as for backend in BACKENDS.values()},
}


def libraries() -> Iterator[Check]:
    """Every library imports: the libraries that purifyctl needs, and those of each extra under its name."""
    from packaging.requirements import Requirement

    hush_libraries()
    about = metadata.metadata("purifyctl")
    yield attempt("libraries.needed.python", _python, about["Requires-Python"])
    for extra in ("", *(about.get_all("Provides-Extra") or ())):
        for requirement in map(Requirement, metadata.requires("purifyctl") or ()):
            if extra not in ("dev", "docs") and _asks(extra, requirement):  # they are for people who change purifyctl
                check_id = f"libraries.{extra or 'needed'}.{requirement.name}"
                yield attempt(check_id, _library, requirement, extra, needed=not extra)


def _asks(extra: str, requirement: "Requirement") -> bool:
    """Whether `extra` ("": the package itself) asks for it, on this platform."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return not extra
    return requirement.marker.evaluate({"extra": extra})


def _python(required: str) -> str:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if version not in SpecifierSet(required):
        raise PurifyctlError(f"python {version}", hint=f"install Python {required}")
    return f"python {version}"


def _library(requirement: "Requirement", extra: str) -> str:
    name, version = requirement.name, installed(requirement.name)
    required = shlex.quote(f"{name}{requirement.specifier}")
    if version is None:
        raise PurifyctlError(
            f"no {name}", hint=f"pip install 'purifyctl[{extra}]'" if extra else f"pip install {required}"
        )
    if not requirement.specifier.contains(version, prereleases=True):
        raise PurifyctlError(f"{name} {version} is not {requirement.specifier}", hint=f"pip install {required}")
    try:
        importlib.import_module(module_of(name))
    except Exception as error:
        raise PurifyctlError(
            f"{name} {version} does not import: {type(error).__name__}: {error}",
            hint=f"pip install --force-reinstall {required}",
        ) from error
    return f"{name} {version}"


def module_of(package: str) -> str:
    """The module by which a package is imported."""
    return _MODULES.get(package, package.replace("-", "_"))
