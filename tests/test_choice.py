"""Which device and which engine a command takes, on machines that are not here: what they have is given as facts."""

from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from purifyctl.config import BACKENDS, GPU_BACKENDS
from purifyctl.config.devices import Card, DeviceOption, Here, choose, choose_place, parse_device
from purifyctl.errors import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"

RTX_4090 = Card("RTX 4090", (8, 9))
T4 = Card("T4", (7, 5))
A100 = Card("A100", (8, 0))
H100 = Card("H100", (9, 0))
H200 = Card("H200", (9, 0))
GTX_1080 = Card("GTX 1080", (6, 1))
RTX, TENSORRT = "tensorrt-rtx", "tensorrt"


def machine(*cards: Card, has: tuple[str, ...] = (), torch: int | None = 13, driver: int = 13) -> Here:
    return Here(cards, missing="", driver=driver, torch=torch, installed=frozenset({"torch-cuda", *has}))


@dataclass(frozen=True)
class Case:
    """One machine, and what is chosen on it."""

    machine: str  # in words, for the documentation
    here: Here
    asked: str
    engine: str  # the backend; "refused": exit code 2
    said: str  # all lines
    onnx: bool = False  # the classifier is an ONNX file


CASES = (
    Case("no GPU", Here(), "auto", "openvino", "On the CPU, with openvino: there is no NVIDIA GPU here."),
    Case("no GPU", Here(), "cuda", "refused", "--device cuda cannot be used: there is no NVIDIA GPU here."),
    Case(
        "RTX 4090, extra `gpu`",
        machine(RTX_4090, has=(RTX,)),
        "auto",
        RTX,
        "On GPU 0, RTX 4090 (SM89), with tensorrt-rtx in FP16.",
    ),
    Case(
        "RTX 4090",
        machine(RTX_4090),
        "auto",
        "torch-cuda",
        "On GPU 0, RTX 4090 (SM89), with torch-cuda in FP16. "
        "tensorrt-rtx would be faster: pip install 'purifyctl[gpu]'",
    ),
    Case(
        "RTX 4090, extra `gpu`",
        machine(RTX_4090, has=(RTX,)),
        "cpu",
        "openvino",
        "On the CPU, with openvino: --device is cpu.",
    ),
    Case("T4, extra `gpu`", machine(T4, has=(RTX,)), "cuda", RTX, "On GPU 0, T4 (SM75), with tensorrt-rtx in FP16."),
    Case(
        "A100, extra `tensorrt`",
        machine(A100, has=(TENSORRT,)),
        "auto",
        TENSORRT,
        "On GPU 0, A100 (SM80), with tensorrt in FP16.",
    ),
    Case(
        "A100, extras `gpu` and `tensorrt`",
        machine(A100, has=(RTX, TENSORRT)),
        "auto",
        RTX,
        "On GPU 0, A100 (SM80), with tensorrt-rtx in FP16.",
    ),
    Case(
        "H100, extra `gpu`",
        machine(H100, has=(RTX,)),
        "auto",
        "torch-cuda",
        "On GPU 0, H100 (SM90), with torch-cuda in FP16. tensorrt would be faster: pip install 'purifyctl[tensorrt]'",
    ),
    Case(
        "H100, extra `tensorrt`",
        machine(H100, has=(TENSORRT,)),
        "auto",
        TENSORRT,
        "On GPU 0, H100 (SM90), with tensorrt in FP16.",
    ),
    Case(
        "two H100, extra `tensorrt`",
        machine(H100, H100, has=(TENSORRT,)),
        "cuda",
        TENSORRT,
        "On 2 GPUs, H100 (SM90), with tensorrt in FP16.",
    ),
    Case(
        "H100 and H200, extra `tensorrt`",
        machine(H100, H200, has=(TENSORRT,)),
        "auto",
        "torch-cuda",
        "On 2 GPUs, H100 (SM90) and H200 (SM90), with torch-cuda in FP16.",
    ),
    Case(
        "H100 and H200, extra `tensorrt`",
        machine(H100, H200, has=(TENSORRT,)),
        "cuda:1",
        TENSORRT,
        "On GPU 1, H200 (SM90), with tensorrt in FP16.",
    ),
    Case(
        "RTX 4090 and A100, extra `gpu`",
        machine(RTX_4090, A100, has=(RTX,)),
        "auto",
        RTX,
        "On 2 GPUs, RTX 4090 (SM89) and A100 (SM80), with tensorrt-rtx in FP16.",
    ),
    Case(
        "H100",
        machine(H100),
        "cuda:2",
        "refused",
        "--device cuda:2 cannot be used: there is no GPU 2; there are 1, counted from 0.",
    ),
    Case(
        "GTX 1080",
        machine(GTX_1080),
        "auto",
        "openvino",
        "On the CPU, with openvino: GTX 1080 (SM61) is too old, because CUDA 13 begins with SM75.",
    ),
    Case(
        "GTX 1080 and RTX 4090",
        machine(GTX_1080, RTX_4090, has=(RTX,)),
        "auto",
        RTX,
        "On GPU 1, RTX 4090 (SM89), with tensorrt-rtx in FP16; too old for CUDA 13: GTX 1080 (SM61).",
    ),
    Case(
        "H100, driver for CUDA 12",
        machine(H100, driver=12),
        "auto",
        "openvino",
        "On the CPU, with openvino: the NVIDIA driver is for CUDA 12. "
        "The GPU would be faster: install a driver for CUDA 13, version 580 or later",
    ),
    Case(
        "H100, driver for CUDA 12",
        machine(H100, driver=12),
        "cuda",
        "refused",
        "--device cuda cannot be used: the NVIDIA driver is for CUDA 12.",
    ),
    Case(
        "H100, torch for CPUs",
        machine(H100, torch=None),
        "auto",
        "openvino",
        "On the CPU, with openvino: torch is built for CPUs. "
        "The GPU would be faster: pip install --force-reinstall torch",
    ),
    Case(
        "H100, classifier in an ONNX file",
        machine(H100),
        "auto",
        "openvino",
        "On the CPU, with openvino: torch does not run a classifier that is an ONNX file, and no TensorRT for this GPU "
        "is installed. The GPU would be faster: pip install 'purifyctl[tensorrt]'",
        onnx=True,
    ),
    Case(
        "RTX 4090, classifier in an ONNX file",
        machine(RTX_4090),
        "cuda",
        "refused",
        "--device cuda cannot be used: torch does not run a classifier that is an ONNX file, and no TensorRT for this "
        "GPU is installed.",
        onnx=True,
    ),
)


def outcome(case: Case) -> tuple[str, str]:
    """The engine, and all that is said."""
    try:
        choice = choose(case.asked, case.here, onnx_classifier=case.onnx)
    except ConfigError as error:
        return "refused", error.message
    return choice.backend, " ".join(filter(None, (choice.took, choice.faster)))


@pytest.mark.parametrize("case", CASES, ids=[f"{case.machine}: {case.asked}" for case in CASES])
def test_the_choice_is_that_of_the_table(case: Case) -> None:
    assert outcome(case) == (case.engine, case.said)


def test_the_documentation_shows_the_table() -> None:
    rows = [f"| {case.machine} | `{case.asked}` | {case.engine} | {case.said} |" for case in CASES]
    shown = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert [line for line in shown if line in rows] == rows, "\n".join(rows)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.machine}: {case.asked}" for case in CASES])
def test_an_engine_that_is_chosen_has_kernels_for_every_gpu_it_is_for(case: Case) -> None:
    if case.engine == "refused":
        return
    choice = choose(case.asked, case.here, onnx_classifier=case.onnx)
    backend = BACKENDS[choice.backend]
    assert (backend.device == "cuda") == bool(choice.place.gpus)
    cards = [case.here.cards[i] for i in choice.place.gpus]
    assert not backend.cards or {card.target for card in cards} <= set(backend.cards)
    assert set(choice.targets) == ({card.target for card in cards} if backend.plans == "ahead" else set())
    assert choose_place(case.asked, case.here).gpus == choice.place.gpus or case.onnx


def test_every_backend_for_gpus_can_be_chosen() -> None:
    assert {name for name, backend in BACKENDS.items() if backend.device == "cuda"} == set(GPU_BACKENDS)
    assert set(GPU_BACKENDS) <= {case.engine for case in CASES}


@pytest.mark.parametrize("case", [case for case in CASES if case.engine == "refused"], ids=lambda case: case.machine)
def test_a_refusal_is_a_usage_error_with_the_next_step(case: Case) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(case.asked, case.here, onnx_classifier=case.onnx)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", "cuda:0,1"])
def test_a_device_that_there_is_no_word_for_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="There is no device") as caught:
        parse_device(text)
    assert "cuda:N" in caught.value.hint


def test_the_option_is_one_field() -> None:
    assert [field.name for field in fields(DeviceOption)] == ["device"]
    assert DeviceOption().device == "auto"
