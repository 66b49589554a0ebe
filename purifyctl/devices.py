"""What this machine has to compute with, as the NVIDIA driver says, and what is chosen of it.

The driver is asked by itself: a machine without a GPU does not load torch for this.
"""

import ctypes
import os
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purifyctl import console
from purifyctl.config.backends import BACKENDS, GPU_BACKENDS
from purifyctl.config.devices import Card, Choice, Here, Place, choose, choose_place

if TYPE_CHECKING:
    import torch

DRIVER = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and ..._MINOR in cuda.h
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def here() -> Here:
    """What this machine has."""
    found = _ask_driver()
    if not found.cards:
        return found
    installed = (name for name in GPU_BACKENDS if find_spec(BACKENDS[name].imported_as))
    return replace(found, torch=_cuda_of_torch(), installed=frozenset(installed))


def chosen(asked: str, *, onnx_classifier: bool = False) -> Choice:
    """`choose` for this machine. If it has a GPU, two lines say what was chosen, and what would be faster."""
    found = here()
    choice = choose(asked, found, onnx_classifier=onnx_classifier)
    if found.cards or found.fix:
        for line in filter(None, (choice.took, choice.faster)):
            console.note(line)
    return choice


def place(asked: str, *, say: bool = True) -> Place:
    """`choose_place` for this machine. If it has a GPU, one line says where, and a second one what is in the way."""
    found = here()
    chosen = choose_place(asked, found)
    if say and (found.cards or found.fix):
        console.note(f"On {chosen.said}{f': {chosen.instead}' if chosen.instead else chosen.left}.")
        if chosen.fix:
            console.note(f"The GPU would be faster: {chosen.fix}")
    return chosen


def check(asked: str) -> None:
    """Refuse a device that is asked for by name and cannot be used, before anything else is loaded.

    Raises
    ------
    ConfigError
        It says what is missing.
    """
    if asked not in ("auto", "cpu"):
        choose_place(asked, here())


def torch_device(asked: str) -> "torch.device":
    """The device for a command that computes with torch on one device, as `place` says it. A GPU becomes the current
    one.
    """
    import torch

    chosen = place(asked)
    if not chosen.gpus:
        return torch.device("cpu")
    torch.cuda.set_device(chosen.gpus[0])
    return torch.device("cuda", chosen.gpus[0])


@contextmanager
def current(chosen: Place) -> Iterator[None]:
    """Make the first GPU of a place torch's current one in this thread, for a while. On the CPU this does nothing."""
    if not chosen.gpus:
        yield
        return
    import torch

    with torch.cuda.device(chosen.gpus[0]):
        yield


def has_nvidia_device() -> bool:
    """Whether there is an NVIDIA device, with or without a driver."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(file.read_text().strip() == "0x10de" for file in vendors)  # NVIDIA's PCI number


def _ask_driver() -> Here:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        if not has_nvidia_device():
            return Here()
        return Here(missing="no driver of the NVIDIA GPU is found", fix="install the driver; a container: --gpus all")
    try:
        return _read(driver)
    except _DriverError as error:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if error.code == NO_DEVICE and hidden is not None:
            return Here(missing=f"CUDA_VISIBLE_DEVICES is '{hidden}'", fix="unset CUDA_VISIBLE_DEVICES")
        if error.code == NO_DEVICE and not has_nvidia_device():
            return Here()
        return Here(missing=f"the NVIDIA driver does not work: {error.name}", fix="nvidia-smi")


@dataclass
class _DriverError(Exception):
    code: int  # a CUresult
    name: str


def _read(driver: Any) -> Here:
    """The GPUs that the driver shows to this process: it obeys CUDA_VISIBLE_DEVICES."""

    def call(function: str, *given: Any) -> None:
        if code := getattr(driver, function)(*given):
            name = ctypes.c_char_p()
            driver.cuGetErrorName(code, ctypes.byref(name))
            raise _DriverError(code, (name.value or b"").decode() or f"error {code}")

    version, count, device, value = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise _DriverError(NO_DEVICE, "CUDA_ERROR_NO_DEVICE")
    cards = []
    for i in range(count.value):
        call("cuDeviceGet", ctypes.byref(device), i)
        call("cuDeviceGetName", name, len(name), device)
        capability = []
        for attribute in (MAJOR, MINOR):
            call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            capability.append(value.value)
        cards.append(Card(name.value.decode(), (capability[0], capability[1])))
    return Here(tuple(cards), missing="", driver=version.value // 1000)  # 13020 is CUDA 13.2


def _cuda_of_torch() -> int | None:
    """The CUDA that torch is built for, without loading torch."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    about = runpy.run_path(str(Path(next(iter(spec.submodule_search_locations))) / "version.py"))
    cuda = about.get("cuda")
    return int(cuda.split(".")[0]) if cuda else None
