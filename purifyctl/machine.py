"""The machine that this runs on: its hardware, where files are kept, how memory is handed out."""

import ctypes
import getpass
import os
import platform
import sys
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
    """The version of an installed package; None if it is not installed, or if there is no package of that name."""
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def cache_folder() -> Path:
    """$PURIFYCTL_CACHE, or purifyctl's folder in the user's cache (XDG base directories): it can be made again."""
    return _user_folder("PURIFYCTL_CACHE", "XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """$PURIFYCTL_STATE, or purifyctl's folder in the user's state (XDG base directories): the user's decisions."""
    return _user_folder("PURIFYCTL_STATE", "XDG_STATE_HOME", ".local/state")


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees. Returns whether the C library knows how.

    By default glibc gives blocks of a tensor's size back to the kernel at once. The kernel hands them out again page by
    page, zeroed. On a virtual machine that can take a training as long as its arithmetic (docs/benchmarks.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    largest_block = 1 << 25  # 32 MiB, the most that it accepts
    settings = ((mmap_threshold, largest_block), (trim_threshold, (1 << 31) - 1), (top_pad, 1 << 28))
    return all(mallopt(option, size) for option, size in settings)


def _user_folder(ours: str, xdg: str, default: str) -> Path:
    if explicit := os.environ.get(ours):
        return Path(explicit)
    return Path(os.environ.get(xdg) or _home() / default) / "purifyctl"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and no entry in passwd
        return Path("/")  # as container engines have it


def hush_libraries() -> None:
    """Keep libraries from warning of a home that cannot be written, and OpenVINO from reporting to its maker.

    To be called before they are imported. The package by which OpenVINO reports cannot be imported at all by a user
    without a home; without it, OpenVINO does the same.
    """
    import logging  # not for --help

    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed", says the import
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it takes a temporary folder


def name_the_user() -> None:
    """Give this process and its children HOME and USER if the system does not know the user.

    Containers run under ids that have no entry in passwd. Libraries ask for a home and a name: torch for both.
    """
    os.environ.setdefault("HOME", str(_home()))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def gpu_capability() -> str:
    """The current GPU's compute capability, such as "SM86"; empty without a GPU."""
    import torch  # heavy, and only machines with a GPU need it

    return "SM{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else ""


def gpu_name() -> str:
    """The current GPU's model."""
    import torch

    return str(torch.cuda.get_device_name())


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the kernel's names, such as "avx512_bf16" and "amx_bf16"."""
    return frozenset(_cpuinfo("flags").split())


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _cpuinfo(key: str) -> str:
    """A value of the first processor; empty if the kernel does not give it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
