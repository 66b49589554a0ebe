"""Checks of memory, processor and GPUs."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

from purifyctl import devices
from purifyctl.config import BACKENDS, DEFAULT_BACKEND
from purifyctl.config.devices import choose
from purifyctl.doctor.check import Check, attempt
from purifyctl.errors import PurifyctlError
from purifyctl.machine import cpu_flags, machine

NO_GPU = "none here, and none needed: the CPU does the work"
MEMORY_MIB = 1700  # peak of building the shipped purifier's engine and running it over 100 photographs on 2 cores
_CPU_FLAGS = {  # as /proc/cpuinfo names them
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
}


def memory() -> Iterator[Check]:
    """Enough memory is free."""
    yield attempt("memory.available", _available_memory, fix="end other programs, or use a machine with more memory")


def _available_memory() -> str:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    total, available = kib["MemTotal"] // 1024, kib["MemAvailable"] // 1024
    limit = Path("/sys/fs/cgroup/memory.max")  # the limit of a container
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text) >> 20)
        taken = int(limit.with_name("memory.current").read_text()) >> 20
        available = min(available, total - taken)
    found = f"{available:,} MiB of {total:,} MiB"
    if available < MEMORY_MIB:
        raise PurifyctlError(f"{found}; run needs {MEMORY_MIB:,} MiB")
    return found


def processor() -> Iterator[Check]:
    """What the processor can do."""
    here = machine()
    yield Check("processor.model", "ok", f"{here['processor']}, {here['cores']} usable cores")
    yield attempt("processor.instructions", _instructions)
    reinstall = f"pip install --force-reinstall {BACKENDS[DEFAULT_BACKEND].package}"
    yield attempt("processor.precision", _precision, fix=reinstall)
    from purifyctl.engine.times import times_here

    for number, times in enumerate(times_here(), 1):
        yield Check(f"processor.precision.{number}", "ok", f"{times.networks}, {times.backend}: {times}")


def _instructions() -> str:
    flags = cpu_flags()
    return ", ".join(name if flag in flags else f"no {name}" for flag, name in _CPU_FLAGS.items())


def _precision() -> str:
    from purifyctl.engine.backends import implementation

    backend = implementation(DEFAULT_BACKEND)
    *others, last = backend.candidates()  # this also starts the library
    return f"auto chooses by measurement, among {' and '.join(filter(None, (', '.join(others), last)))}"


def gpus() -> Iterator[Check]:
    """The NVIDIA driver answers, and torch can use every GPU."""
    driver = attempt("gpu.driver", _driver, needed=False)
    yield driver
    choice = choose("auto", devices.here())
    yield Check("gpu.choice", "ok", choice.took, choice.faster)
    import torch

    with warnings.catch_warnings(record=True) as caught:  # torch warns if the driver is too old
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and driver.status == "ok" and driver.detail != NO_GPU:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            reason, fix = f"CUDA_VISIBLE_DEVICES is '{visible}'", "unset CUDA_VISIBLE_DEVICES"
        elif torch.version.cuda is None:
            reason, fix = f"torch {torch.__version__} is built without CUDA", "install torch with CUDA"
        else:
            reason = "; ".join(str(w.message) for w in caught) or "it does not say why"
            fix = f"install a driver for CUDA {torch.version.cuda}"
        yield Check("gpu.torch", "missing", f"torch uses no GPU: {reason}", fix)
    for i in range(count):
        yield attempt(f"gpu.{i}", _gpu, i, needed=False, fix="nvidia-smi")


def _driver() -> str:
    """The version of the NVIDIA driver, from its own tool."""
    if (tool := shutil.which("nvidia-smi")) is None:
        if not devices.has_nvidia_device():
            return NO_GPU
        raise PurifyctlError(
            "this machine has an NVIDIA device, and no driver for it is found",
            hint="install the NVIDIA driver; start a container with --gpus all",
        )
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        reason = " ".join((done.stdout + done.stderr).split())
        raise PurifyctlError(f"the NVIDIA driver does not answer: {reason}", hint="restart, or install the driver anew")
    return f"NVIDIA {done.stdout.split()[0]}"


def _gpu(i: int) -> str:
    import torch

    about = torch.cuda.get_device_properties(i)
    torch.ones(1, device=f"cuda:{i}").add(1).item()  # it also has to compute
    return f"{about.name}, {about.total_memory >> 20:,} MiB, SM{about.major}{about.minor}"
