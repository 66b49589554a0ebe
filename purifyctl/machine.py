"""What a figure was measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and Python's version."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def installed(package: str) -> str | None:
    """The version of an installed package; None where it is not, or where that is no package's name."""
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def cache_folder() -> Path:
    """$PURIFYCTL_CACHE, or purifyctl's folder in the user's cache (XDG base directories): what can be made again."""
    return _user_folder("PURIFYCTL_CACHE", "XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """$PURIFYCTL_STATE, or purifyctl's folder in the user's state (XDG base directories): what the user has decided."""
    return _user_folder("PURIFYCTL_STATE", "XDG_STATE_HOME", ".local/state")


def _user_folder(ours: str, xdg: str, default: str) -> Path:
    if explicit := os.environ.get(ours):
        return Path(explicit)
    return Path(os.environ.get(xdg) or Path.home() / default) / "purifyctl"


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the kernel's names, such as "avx512_bf16" and "amx_bf16"."""
    return frozenset(_cpuinfo("flags").split())


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _cpuinfo(key: str) -> str:
    """A line of the first processor's; empty where the kernel does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
