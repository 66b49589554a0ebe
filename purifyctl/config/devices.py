"""The device that a command works on, and the engine that fits it: the option `--device`, and the choice.

The choice is a function of what is asked for and what is here; `purifyctl.devices` finds out what is here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from purifyctl.config.backends import BACKENDS, DEFAULT_BACKEND, GPU_BACKENDS, Backend, BackendName
from purifyctl.config.options import option
from purifyctl.errors import ConfigError

CUDA = 13  # major version; of the libraries that decode on a GPU, and of torch
DRIVER = 580  # the first NVIDIA driver with CUDA 13
OLDEST = (7, 5)  # compute capability: CUDA 13 has no kernels for older GPUs
NO_GPU = "there is no NVIDIA GPU here"


def parse_device(text: str) -> str:
    """Read `--device`. Raises ConfigError if it names no device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ConfigError(f"There is no device {text!r}.", hint="auto, cpu, cuda, or cuda:N for GPU N, counted from 0")
    return text


@dataclass(frozen=True)
class DeviceOption:
    """The option `--device` of every command that computes."""

    device: str = option(
        "auto",
        metavar="auto|cpu|cuda|cuda:N",
        parse=parse_device,
        may_change=True,
        help="Where to compute. cuda: the NVIDIA GPUs; cuda:N: only GPU N, counted from 0. Default: auto, the GPUs if "
        "they can be used, and otherwise the CPU.",
    )

    @property
    def works_here(self) -> bool:
        """Whether it is this machine that computes."""
        return True


@dataclass(frozen=True)
class Card:
    """One GPU."""

    name: str
    capability: tuple[int, int]  # such as (8, 6)

    @property
    def target(self) -> str:
        """Its compute capability as engines name it, such as "SM86"."""
        return "SM{}{}".format(*self.capability)

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


@dataclass(frozen=True)
class Here:
    """What a machine has to compute with."""

    cards: tuple[Card, ...] = ()  # the GPUs that this process sees, in the driver's order
    missing: str = NO_GPU  # why there are no cards
    fix: str = ""  # what gets them; empty: nothing
    driver: int = CUDA  # the newest CUDA that the driver knows, major version
    torch: int | None = CUDA  # the CUDA that torch is built for, major version; None: torch is for CPUs
    installed: frozenset[str] = frozenset()  # backends for GPUs whose library is installed


@dataclass(frozen=True)
class Place:
    """The devices to compute on."""

    gpus: tuple[int, ...]  # their numbers; empty: the CPU
    said: str  # in words
    instead: str = ""  # why it is not a GPU
    fix: str = ""  # what makes the GPU usable
    left: str = ""  # which GPUs are left alone, and why


@dataclass(frozen=True)
class Choice:
    """The devices to compute on, and the backend of the engine that is built for them."""

    place: Place
    backend: BackendName
    targets: tuple[str, ...]  # of the engine's plans, for a backend that builds ahead of time
    took: str  # one line: the device and the engine
    faster: str  # one line: what would be faster, and the command that installs it; empty: nothing


def choose_place(asked: str, here: Here) -> Place:
    """The devices to compute on.

    Parameters
    ----------
    asked
        `--device`.

    Raises
    ------
    ConfigError
        A device is asked for by name that cannot be used.
    """
    parse_device(asked)
    if asked == "cpu":
        return Place((), "the CPU", "--device is cpu")
    _, _, number = asked.partition(":")
    seen = [int(number)] if number else list(range(len(here.cards)))
    usable = tuple(i for i in seen if i < len(here.cards) and here.cards[i].capability >= OLDEST)
    reason, fix = _hindrance(here, seen, usable)
    if not reason:
        cards = [here.cards[i] for i in usable]
        names = " and ".join(dict.fromkeys(map(str, cards)))
        said = f"GPU {usable[0]}, {names}" if len(cards) == 1 else f"{len(cards)} GPUs, {names}"
        old = [str(here.cards[i]) for i in seen if i not in usable]
        return Place(usable, said, left=f"; too old for CUDA {CUDA}: {', '.join(old)}" if old else "")
    if asked != "auto":
        raise ConfigError(f"--device {asked} cannot be used: {reason}.", hint=fix or "--device cpu")
    return Place((), "the CPU", reason, fix)


def choose(asked: str, here: Here, *, onnx_classifier: bool = False) -> Choice:
    """The devices to compute on, and the engine that is built for them: the fastest one that is installed.

    Parameters
    ----------
    asked
        `--device`.
    onnx_classifier
        The classifier is an ONNX graph, which torch does not run.

    Raises
    ------
    ConfigError
        As `choose_place`; or nothing that is installed runs the classifier on the GPU that is asked for by name.
    """
    place = choose_place(asked, here)
    if not place.gpus:
        why = f": {place.instead}" if place.instead else ""
        return Choice(place, DEFAULT_BACKEND, (), f"On {place.said}, with {DEFAULT_BACKEND}{why}.", _fix_line(place))
    cards = [here.cards[i] for i in place.gpus]
    fitting = [BACKENDS[name] for name in GPU_BACKENDS if _fits(BACKENDS[name], cards, onnx_classifier)]
    taken = next((backend for backend in fitting if not backend.extra or backend.name in here.installed), None)
    missing = next((f"pip install 'purifyctl[{each.extra}]'" for each in fitting if each.extra), "")
    if taken is None:
        reason = "torch does not run a classifier that is an ONNX file, and no TensorRT for this GPU is installed"
        if asked != "auto":
            raise ConfigError(f"--device {asked} cannot be used: {reason}.", hint=missing or "--device cpu")
        place = Place((), "the CPU", reason, missing)
        return Choice(place, DEFAULT_BACKEND, (), f"On the CPU, with {DEFAULT_BACKEND}: {reason}.", _fix_line(place))
    better = fitting[0]
    faster = f"{better.name} would be faster: {missing}" if taken.plans == "none" and better is not taken else ""
    targets = tuple(sorted({card.target for card in cards})) if taken.plans == "ahead" else ()
    return Choice(place, taken.name, targets, f"On {place.said}, with {taken.name} in FP16{place.left}.", faster)


def _hindrance(here: Here, seen: Sequence[int], usable: Sequence[int]) -> tuple[str, str]:
    """Why none of these GPUs can be used, and what to do; two empty texts: they can."""
    if not here.cards:
        return here.missing, here.fix
    if outside := [i for i in seen if i >= len(here.cards)]:
        return f"there is no GPU {outside[0]}; there are {len(here.cards)}, counted from 0", "nvidia-smi -L"
    if not usable:
        oldest = "SM{}{}".format(*OLDEST)
        return f"{here.cards[seen[0]]} is too old, because CUDA {CUDA} begins with {oldest}", ""
    if here.torch is None:
        return "torch is built for CPUs", "pip install --force-reinstall torch"
    needed = max(CUDA, here.torch)
    if here.driver < needed:
        newer = f", version {DRIVER} or later" if needed == CUDA else ""
        return f"the NVIDIA driver is for CUDA {here.driver}", f"install a driver for CUDA {needed}{newer}"
    return "", ""


def _fits(backend: Backend, cards: Sequence[Card], onnx_classifier: bool) -> bool:
    """Whether one engine of this backend runs on all these cards."""
    if onnx_classifier and backend.graph != "onnx":
        return False
    if backend.plans == "here" and len({card.name for card in cards}) > 1:  # a plan fits one model of GPU
        return False
    return not backend.cards or all(card.target in backend.cards for card in cards)


def _fix_line(place: Place) -> str:
    return f"The GPU would be faster: {place.fix}" if place.fix else ""
