"""`purifyctl doctor`: what works on this machine, what is missing, and the line that mends it.

Checks do the real thing on a small scale: import the library, decode an image, load the weights, rename a file. Each
stands alone: whatever a broken library raises becomes that check's result, and the others go on.
"""

import contextlib
import importlib
import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from purifyctl import console
from purifyctl.errors import PurifyctlError
from purifyctl.files import write_atomically
from purifyctl.machine import cache_folder, cpu_flags, installed, machine, state_folder

if TYPE_CHECKING:  # each check imports what it needs itself: a library that is missing is a finding
    from packaging.requirements import Requirement

    from purifyctl.engine.bundle import Bundle
    from purifyctl.images import Decoder

Status = Literal["ok", "missing", "failed"]

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "JPEG2000")
COLOUR = (200, 100, 50)  # RGB of the image that is decoded
COLOUR_ERROR = 4  # grey levels that lossy formats may be off by
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
_MODULES = {  # of packages that are imported by another name
    "adversarial-robustness-toolbox": "art",
    "nvidia-dali-cuda130": "nvidia.dali",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "tensorrt-cu13": "tensorrt",
    "tensorrt-rtx-cu13": "tensorrt_rtx",
}


@dataclass(frozen=True)
class Check:
    """What became of one check."""

    id: str  # "subject.name" or "subject.name.item"; the same on every machine
    status: Status  # missing: something optional is absent or does not work; failed: something that `run` needs
    detail: str
    fix: str = ""  # the line that installs or mends it


def examine(engine: Path | None = None, out: Path | None = None) -> list[Check]:
    """Check everything that `purifyctl run --engine ENGINE --out OUT` needs, and what is optional.

    Parameters
    ----------
    engine
        Engine bundle that has to work here; None: the shipped purifier and classifier have to.
    out
        Folder that has to be writable; None: the current one.
    """
    groups: dict[str, Callable[[], Iterator[Check]]] = {
        "memory": _memory,  # before libraries take theirs
        "libraries": _libraries,  # before other checks import them: the first failure says most about its cause
        "processor": _processor,
        "gpu": _gpus,
        "decoding": _decoding,
        "weights": partial(_weights, needed=engine is None),
        **({"engine": partial(_engine, engine)} if engine else {}),
        "disk": partial(_disk, out or Path(), cache_needed=engine is None),
    }
    found = []
    # stdout is for the result alone, whatever libraries print while they are imported
    with contextlib.redirect_stdout(sys.stderr), console.progress(len(groups), "Checking this machine") as progress:
        for subject, group in groups.items():
            try:
                for check in group():
                    found.append(check)  # one by one: those before a failure stay
            except Exception as error:  # a library that the group itself rests on does not work
                found.append(_failure(subject, error))
            progress.advance()
    return found


def works(checks: Sequence[Check]) -> bool:
    """Whether `run` can work: nothing that it needs has failed."""
    return all(check.status != "failed" for check in checks)


def _try(check_id: str, look: Callable[..., str], *given: Any, needed: bool = True, fix: str = "") -> Check:
    """One check. `look` returns what it found; what it raises is the failure, mended by its own hint or by `fix`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries' advice to programmers
            return Check(check_id, "ok", look(*given))
    except Exception as error:  # broken libraries raise anything
        return _failure(check_id, error, needed=needed, fix=fix)


def _failure(check_id: str, error: Exception, *, needed: bool = True, fix: str = "") -> Check:
    status: Status = "failed" if needed else "missing"
    if not isinstance(error, PurifyctlError) or error.__cause__:
        console.detail("".join(traceback.format_exception(error)))
    if isinstance(error, PurifyctlError):
        return Check(check_id, status, error.message, error.hint or fix)
    if isinstance(error, ImportError):
        itself = check_id == "libraries"  # purifyctl's metadata, or what reads it, is not there
        fix = "pip install --force-reinstall purifyctl" if itself else "mend what is wrong under libraries"
    return Check(check_id, status, f"{type(error).__name__}: {error}", fix)


def _memory() -> Iterator[Check]:
    yield _try("memory.available", _available_memory, fix="end other programs, or use a machine with more memory")


def _available_memory() -> str:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    total, available = kib["MemTotal"] // 1024, kib["MemAvailable"] // 1024
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text) >> 20)
        taken = int(limit.with_name("memory.current").read_text()) >> 20
        available = min(available, total - taken)
    found = f"{available:,} MiB of {total:,} MiB"
    if available < MEMORY_MIB:
        raise PurifyctlError(f"{found}; run needs {MEMORY_MIB:,} MiB")
    return found


def _processor() -> Iterator[Check]:
    here = machine()
    yield Check("processor.model", "ok", f"{here['processor']}, {here['cores']} usable cores")
    yield _try("processor.instructions", _instructions)
    yield _try("processor.precision", _precision, fix="pip install --force-reinstall openvino")


def _instructions() -> str:
    flags = cpu_flags()
    return ", ".join(name if flag in flags else f"no {name}" for flag, name in _CPU_FLAGS.items())


def _precision() -> str:
    from purifyctl.engine.backends.openvino import supports_bf16
    from purifyctl.engine.default import best_precision

    precision = best_precision()
    if not supports_bf16() and precision == "bf16":  # asked in any case: it starts OpenVINO
        raise PurifyctlError("auto picks bf16 for this processor, and OpenVINO does not compute in it")
    return f"auto picks {precision}"


def _gpus() -> Iterator[Check]:
    driver = _try("gpu.driver", _driver, needed=False)
    yield driver
    import torch

    with warnings.catch_warnings(record=True) as said:  # how torch says that the driver is too old
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and driver.status == "ok" and driver.detail != NO_GPU:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            reason, fix = f"CUDA_VISIBLE_DEVICES is '{visible}'", "unset CUDA_VISIBLE_DEVICES"
        elif torch.version.cuda is None:
            reason, fix = f"torch {torch.__version__} is built without CUDA", "install torch with CUDA"
        else:
            reason = "; ".join(str(w.message) for w in said) or "it does not say why"
            fix = f"install a driver for CUDA {torch.version.cuda}"
        yield Check("gpu.torch", "missing", f"torch uses no GPU: {reason}", fix)
    for i in range(count):
        yield _try(f"gpu.{i}", _gpu, i, needed=False, fix="nvidia-smi")


def _driver() -> str:
    """The version of the NVIDIA driver, as its own tool says it."""
    if (tool := shutil.which("nvidia-smi")) is None:
        vendors = [file.read_text().strip() for file in Path("/sys/bus/pci/devices").glob("*/vendor")]
        if "0x10de" not in vendors:  # NVIDIA's PCI number
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
    torch.ones(1, device=f"cuda:{i}").add(1).item()  # that it computes, too
    return f"{about.name}, {about.total_memory >> 20:,} MiB, SM{about.major}{about.minor}"


def _libraries() -> Iterator[Check]:
    """Everything that the installed package's metadata names, under "needed" or under the extra that installs it."""
    from packaging.requirements import Requirement

    about = metadata.metadata("purifyctl")
    yield _try("libraries.needed.python", _python, about["Requires-Python"])
    for extra in ("", *(about.get_all("Provides-Extra") or ())):
        for requirement in map(Requirement, metadata.requires("purifyctl") or ()):
            if extra not in ("dev", "docs") and _asks(extra, requirement):  # for those who change purifyctl
                check_id = f"libraries.{extra or 'needed'}.{requirement.name}"
                yield _try(check_id, _library, requirement, extra, needed=not extra)


def _asks(extra: str, requirement: "Requirement") -> bool:
    """Whether `extra` ("": the package itself) asks for it, on this platform."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return not extra
    return requirement.marker.evaluate({"extra": extra})


def _python(wanted: str) -> str:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if version not in SpecifierSet(wanted):
        raise PurifyctlError(f"python {version}", hint=f"install Python {wanted}")
    return f"python {version}"


def _library(requirement: "Requirement", extra: str) -> str:
    name, version = requirement.name, installed(requirement.name)
    wanted = shlex.quote(f"{name}{requirement.specifier}")
    if version is None:
        raise PurifyctlError(
            f"no {name}", hint=f"pip install 'purifyctl[{extra}]'" if extra else f"pip install {wanted}"
        )
    if not requirement.specifier.contains(version, prereleases=True):
        raise PurifyctlError(f"{name} {version} is not {requirement.specifier}", hint=f"pip install {wanted}")
    try:
        importlib.import_module(module_of(name))
    except Exception as error:
        raise PurifyctlError(
            f"{name} {version} does not import: {type(error).__name__}: {error}",
            hint=f"pip install --force-reinstall {wanted}",
        ) from error
    return f"{name} {version}"


def module_of(package: str) -> str:
    """The module by which a package is imported."""
    return _MODULES.get(package, package.replace("-", "_"))


def _decoding() -> Iterator[Check]:
    """Through DALI, as `run` does it. A GPU decodes for engines that run on it."""
    yield from _decode_all("cpu", None)
    import torch

    if torch.cuda.is_available():
        yield from _decode_all("gpu", 0)


def _decode_all(device: str, device_id: int | None) -> Iterator[Check]:
    from purifyctl.images import Decoder

    fix = "pip install --force-reinstall nvidia-dali-cuda130"
    with Decoder(size=32, batch_size=1, threads=1, device_id=device_id) as decoder:
        for kind in FORMATS:
            check_id = f"decoding.{device}.{kind.lower()}"
            yield _try(check_id, _decode, decoder, kind, needed=device_id is None, fix=fix)


def _decode(decoder: "Decoder", kind: str) -> str:
    from purifyctl.engine.backends import to_host

    off = abs(to_host(_decoded(decoder, kind)).astype(int) - COLOUR).max()
    if off > COLOUR_ERROR:
        raise PurifyctlError(f"{kind} is decoded to other colours: {off} grey levels off")
    return kind


def _decoded(decoder: "Decoder", kind: str) -> Any:
    """A small image of one colour, encoded as `kind` and decoded: what `Decoded.images` is, with n = 1."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), COLOUR).save(buffer, kind)
    decoded = decoder.decode([np.frombuffer(buffer.getvalue(), np.uint8)])
    for error in decoded.errors.values():
        raise PurifyctlError(f"{kind}: {error}")
    return decoded.images


def _weights(*, needed: bool) -> Iterator[Check]:
    yield _try("weights.purifier", _purifier, needed=needed, fix="pip install --force-reinstall purifyctl")
    yield _try("weights.classifier", _classifier, needed=needed, fix="pip install --force-reinstall 'purifyctl[demo]'")


def _purifier() -> str:
    from purifyctl.checkpoint import load_purifier, shipped_checkpoint

    purifier = load_purifier(shipped_checkpoint())
    return f"shipped purifier ({purifier.network.kind}), SHA-256 {purifier.sha256[:12]}"


def _classifier() -> str:
    from purifyctl.classifiers import load_classifier
    from purifyctl.engine.default import CLASSIFIER, WEIGHTS

    return load_classifier(CLASSIFIER, WEIGHTS).name


def _engine(path: Path) -> Iterator[Check]:
    from purifyctl.engine.bundle import load_bundle

    try:
        bundle = load_bundle(path)
    except Exception as error:
        yield _failure("engine.bundle", error)
        return
    manifest = bundle.manifest
    targets = sorted({target for network in manifest.networks.values() for target in network.plans})
    plans = f", plans for {', '.join(targets)}" if targets else ""
    yield Check("engine.bundle", "ok", f"{path}: {manifest.backend} {manifest.precision}{plans}")
    for network in manifest.networks:
        yield _try(f"engine.runs.{network}", _infer, bundle, network, fix=bundle.rebuild)


def _infer(bundle: "Bundle", network: str) -> str:
    """Decode an image where the network wants it, and run it. Opening refuses a GPU that the plans are not for."""
    from purifyctl.images import Decoder

    size = bundle.manifest.image_size
    with (
        bundle.open(network) as runner,
        Decoder(size=size, batch_size=1, threads=1, device_id=runner.device_id) as decoder,
    ):
        runner.infer(_decoded(decoder, "JPEG"))
    return network


def _disk(out: Path, *, cache_needed: bool) -> Iterator[Check]:
    yield _try("disk.cache", _writable, cache_folder(), needed=cache_needed, fix="set PURIFYCTL_CACHE")
    yield _try("disk.state", _writable, state_folder(), needed=False, fix="set PURIFYCTL_STATE")
    yield _try("disk.out", _writable, out, fix="choose another --out")


def _writable(folder: Path) -> str:
    """Write, rename and delete a file of 1 MiB in a folder, or where the folder would be made."""
    folder = place = folder.absolute()
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        file = place / f".purifyctl-doctor-{os.getpid()}"
        write_atomically(file, bytes(1 << 20))  # bytes: an empty file fits on a full disk
        file.unlink()
        free = shutil.disk_usage(place).free >> 20
    except OSError as error:
        raise PurifyctlError(f"{place} cannot be written to: {error.strerror}") from None
    return f"{folder}: {free:,} MiB free"
