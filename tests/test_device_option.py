"""`--device` on this machine, and on machines that stand in for ones that are not here."""

import ctypes
import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from purifyctl import devices
from purifyctl.config import BACKENDS
from purifyctl.config.backends import AHEAD_OF_TIME
from purifyctl.config.classifier import ClassifierOptions
from purifyctl.config.devices import Card, Here, choose_place
from purifyctl.config.run import RunOptions
from purifyctl.engine import build, default
from purifyctl.engine.backends import implementation, plan_builder
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.manifest import MANIFEST
from purifyctl.errors import BackendError, ConfigError
from purifyctl.run import run
from purifyctl.run.parent.selection import gpus
from purifyctl.training.workers import Workers, together
from tests import tiny
from tests.commands import purifyctl_anew

HERE = devices.here()
no_gpu = pytest.mark.skipif(bool(HERE.cards), reason="there is a GPU here")
H100 = Card("NVIDIA H100 80GB HBM3", (9, 0))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this machine one with GPUs, as far as a choice goes: torch still sees none."""

    def become(*cards: Card, has: tuple[str, ...] = ()) -> None:
        here = Here(cards, missing="", installed=frozenset({"torch-cuda", *has}))
        monkeypatch.setattr(devices, "here", lambda: here)
        monkeypatch.setattr(devices, "current", lambda _: nullcontext())

    return become


@no_gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("run", "photos", "--out", "out"),
        ("bench",),
        ("evaluate", "--photos", "photos", "--out", "out"),
        ("attack", "photos", "--out", "out"),
        ("train", "smoke", "--out", "out"),
        ("train-gate", "gate", "--photos", "photos", "--out", "out"),
    ],
    ids=lambda words: words[0],
)
def test_a_gpu_that_is_asked_for_and_not_there_ends_every_command_at_once(words: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = purifyctl_anew(*words, "--device", "cuda", PYTHONPROFILEIMPORTTIME="1")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert "--device cuda cannot be used" in done.stderr
    assert "  -> " in done.stderr or "→" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "numpy", "PIL"}
    # processor time: other programs may keep the processor from this one
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


@no_gpu
def test_a_machine_without_a_gpu_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert Here() == HERE or HERE.fix
    if not HERE.fix:
        assert devices.chosen("auto").backend == "openvino"
        assert devices.place("auto").gpus == ()
        assert capsys.readouterr().err == ""


def test_a_machine_with_a_gpu_says_what_it_took_and_what_would_be_faster(
    stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(H100)
    devices.chosen("auto")
    took, faster = capsys.readouterr().err.splitlines()
    assert took == "On GPU 0, NVIDIA H100 80GB HBM3 (SM90), with torch-cuda in FP16."
    assert faster == "tensorrt would be faster: pip install 'purifyctl[tensorrt]'"
    devices.place("cuda:0")
    assert capsys.readouterr().err == "On GPU 0, NVIDIA H100 80GB HBM3 (SM90).\n"


def test_the_driver_is_asked_by_the_names_and_numbers_of_its_own_interface() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    attributes = driver.CUdevice_attribute
    assert int(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) == devices.MAJOR
    assert int(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) == devices.MINOR
    assert int(driver.CUresult.CUDA_ERROR_NO_DEVICE) == devices.NO_DEVICE
    text = Path(devices.__file__).read_text()
    for function in (
        "cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute",
        "cuGetErrorName",
    ):  # fmt: skip
        assert hasattr(driver, function)
        assert function in text


class Driver:
    """Stands in for libcuda: it gives what the CUDA driver API documents, into the places that it is given."""

    def __init__(self, *cards: Card, code: int = 0) -> None:
        self._cards, self._code = cards, code

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self._code

    def cuGetErrorName(self, _code: int, name: object) -> int:  # noqa: N802
        ctypes.cast(name, ctypes.POINTER(ctypes.c_char_p))[0] = b"CUDA_ERROR_NO_DEVICE"
        return 0

    def cuDriverGetVersion(self, version: object) -> int:  # noqa: N802
        return self._put(version, 13020)

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        return self._put(count, len(self._cards))

    def cuDeviceGet(self, device: object, i: int) -> int:  # noqa: N802
        return self._put(device, i)

    def cuDeviceGetName(self, name: ctypes.Array, _length: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = self._cards[device.value].name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        return self._put(value, self._cards[device.value].capability[{75: 0, 76: 1}[attribute]])

    @staticmethod
    def _put(place: object, value: int) -> int:
        ctypes.cast(place, ctypes.POINTER(ctypes.c_int))[0] = value
        return 0


def test_what_the_driver_says_becomes_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Card("NVIDIA GeForce RTX 4090", (8, 9))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(H100, other))
    found = devices.here()
    assert found.cards == (H100, other)
    assert found.driver == 13
    assert "torch-cuda" in found.installed
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(code=devices.NO_DEVICE))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.here().fix == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(code=999))
    assert "the NVIDIA driver does not work" in devices.here().missing


def test_a_card_that_the_list_gives_to_a_library_is_one_that_the_library_has() -> None:
    for name in AHEAD_OF_TIME:
        pytest.importorskip(BACKENDS[name].imported_as)
        builder = plan_builder(name)
        assert builder is not None
        assert set(BACKENDS[name].cards) <= set(builder.targets())


@no_gpu
def test_an_engine_for_the_cpu_is_not_run_on_a_gpu_nor_the_other_way_round(
    tiny_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="an engine of openvino, for cpu, and --device is cuda") as caught:
        run(photos, tiny_bundle, tmp_path / "out", RunOptions(device="cuda"))
    assert "--backend torch-cuda" in caught.value.hint
    tiny_bundle.check_device("cpu")
    tiny_bundle.check_device("auto")


def test_a_run_takes_the_gpus_that_are_asked_for(stand_in: Callable[..., None], tiny_bundle: Bundle) -> None:
    class OnGpu:
        device = "cuda"

    stand_in(H100, H100, H100)
    assert gpus(tiny_bundle, "auto") == [None]
    assert gpus(OnGpu(), "auto") == gpus(OnGpu(), "cuda") == [0, 1, 2]  # type: ignore[arg-type]
    assert gpus(OnGpu(), "cuda:1") == [1]  # type: ignore[arg-type]
    stand_in()
    assert gpus(OnGpu(), "auto") == [None]  # type: ignore[arg-type]  # the worker says what is missing


def test_ray_chooses_its_gpus_itself() -> None:
    with pytest.raises(ConfigError, match="Ray chooses the GPUs"):
        RunOptions(ray="", device="cuda:1")
    assert not RunOptions(ray="", device="cuda").works_here
    assert RunOptions(device="cuda").works_here


def test_more_processes_than_gpus_are_refused() -> None:
    def trained(workers: Workers) -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match="3 processes cannot train on 2 GPUs") as caught:
        together(3, trained, (0, 1))
    assert caught.value.hint == "--processes 2"


@no_gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cards", "has", "backend", "files"),
    [
        ((H100,), (), "torch-cuda", ("purifier.pt2",)),
        ((Card("RTX 4090", (8, 9)),), ("tensorrt-rtx",), "tensorrt-rtx", ("plans/SM89/purifier.plan",)),
    ],
)
def test_the_default_engine_of_a_gpu_is_built_once_in_fp16_and_kept(
    cards: tuple[Card, ...],
    has: tuple[str, ...],
    backend: str,
    files: tuple[str, ...],
    stand_in: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both build without a GPU: what they hold is compared with torch on the CPU."""
    for name in has:
        pytest.importorskip(BACKENDS[name].imported_as)
    checkpoint = tiny.checkpoint(tmp_path / "run")
    monkeypatch.setattr(default, "shipped_checkpoint", lambda _: checkpoint)
    monkeypatch.setattr(default, "GPU_BATCH", 8)
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    stand_in(*cards, has=has)
    nothing = ClassifierOptions(classifier="none")
    bundle = default.default_engine(nothing, 64)
    assert (bundle.manifest.backend, bundle.manifest.precision, bundle.manifest.batch_size) == (backend, "fp16", 8)
    assert bundle.device == "cuda"
    assert all((bundle.path / file).is_file() for file in files)
    said = capsys.readouterr().err
    assert "Building the shipped purifier" in said
    built = (bundle.path / MANIFEST).stat().st_mtime_ns
    again = default.default_engine(nothing, 64)
    assert again.path == bundle.path
    assert (again.path / MANIFEST).stat().st_mtime_ns == built
    assert "Building" not in capsys.readouterr().err
    assert default.default_engine(nothing, 64, "cpu").manifest.backend == "openvino"
    assert load_bundle(bundle.path).manifest.backend_version == implementation(backend).version()


def test_an_engine_for_a_gpu_that_does_not_build_is_not_replaced_by_another(
    stand_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> Bundle:
        raise BackendError("it refuses.", hint="nvidia-smi")

    monkeypatch.setattr(build, "build_engine", fails)
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    stand_in(H100)
    with pytest.raises(BackendError, match="it refuses") as caught:
        default.default_engine(ClassifierOptions(classifier="none"), 64)
    assert caught.value.hint == "nvidia-smi; or use the CPU: --device cpu"


def test_the_same_place_is_chosen_with_and_without_an_engine() -> None:
    here = Here((H100, H100), missing="")
    assert choose_place("auto", here).gpus == choose_place("cuda", here).gpus == (0, 1)
    assert choose_place("cuda:1", here).gpus == (1,)
