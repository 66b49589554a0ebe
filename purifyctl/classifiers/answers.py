"""What a network answers, looked at once when it is loaded: logits [N, C], or one clear message."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.errors import WeightsError

IMAGES = 3  # in the batch that is tried


@dataclass(frozen=True)
class Answers:
    """How logits are found in what a network answers."""

    classes: int
    key: Any = None  # of a dictionary, or the place in a pair; None: the answer is the tensor
    flat: bool = True  # [N, C]; else [N, C, 1, 1]
    probabilities: bool = False  # a softmax is inside

    @property
    def plain(self) -> bool:
        """Whether the answer is logits [N, C] already."""
        return self.key is None and self.flat and not self.probabilities


class Unwrapped(nn.Module):
    """A network whose answer is turned into logits [N, C]. The softmax of the logarithm of probabilities is they."""

    def __init__(self, net: nn.Module, answers: Answers) -> None:
        super().__init__()
        self.net, self.answers = net, answers

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x) if self.answers.key is None else self.net(x)[self.answers.key]
        logits: Tensor = found.flatten(1)
        if self.answers.probabilities:
            logits = logits.float().clamp_min(torch.finfo(torch.float32).tiny).log()
        return logits


@torch.no_grad()
def answers_of(net: nn.Module, x: Tensor, what: str) -> Answers:
    """Try a network on a batch of normalised images.

    Parameters
    ----------
    what
        What messages call the network.

    Raises
    ------
    WeightsError
        It does not take these images, or answers no logits; the message says what to do.
    """
    height, width = x.shape[-2:]
    try:
        answer = net(x)
    except Exception as error:  # a network may raise anything
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{what} does not take RGB images of {height}x{width} pixels: {first_line(error)}",
            hint="if it takes another size, say so: --input-size N",
        ) from None
    parts: dict[Any, Any] = {None: answer}
    if isinstance(answer, Mapping):
        parts = dict(answer)
    elif isinstance(answer, tuple | list):
        parts = dict(enumerate(answer))
    fits = {key: part for key, part in parts.items() if _are_logits(part, len(x))}
    if len(fits) != 1:
        raise _refused(what, parts, len(fits))
    ((key, logits),) = fits.items()
    if not torch.isfinite(logits).all():
        raise WeightsError(
            f"{what} returns values that are no numbers (NaN or infinite).", hint="its weights are damaged: check them"
        )
    rows = logits.float().flatten(1)
    inside = bool(((rows >= 0) & (rows <= 1)).all())
    probabilities = inside and bool(((rows.sum(1) - 1).abs() < 1e-3).all())
    found = Answers(rows.shape[1], key, logits.ndim == 2, probabilities)
    if key is not None:
        console.note(f"{what} answers {len(parts)} values; its logits are {key!r}.")
    if not found.flat:
        console.note(f"{what} answers {_shape(logits)}; its logits are that without the last two sides.")
    if probabilities:
        console.warn(
            f"{what} answers probabilities. No second softmax is applied; but attacks with gradients are weaker on "
            "them than on logits: leave the softmax out of the network."
        )
    elif inside:
        console.warn(f"{what} answers values in [0, 1] that do not add up to 1. They are taken as logits; are they?")
    return found


def _are_logits(part: Any, n: int) -> bool:
    shape = tuple(part.shape) if isinstance(part, Tensor) and part.is_floating_point() else ()
    return len(shape) in (2, 4) and shape[0] == n and shape[1] >= 2 and shape[2:] in ((), (1, 1))


def _refused(what: str, parts: Mapping[Any, Any], fits: int) -> WeightsError:
    shown = (
        ", ".join(
            _shape(part)
            if key is None
            else f"{key}: {_shape(part) if isinstance(part, Tensor) else type(part).__name__}"
            for key, part in parts.items()
            if key is not None or isinstance(part, Tensor)
        )
        or type(next(iter(parts.values()))).__name__
    )
    hint = "it must return logits [N, C] for N images and C classes"
    only = next(iter(parts.values())) if len(parts) == 1 else None
    if isinstance(only, Tensor) and only.shape in ((IMAGES,), (IMAGES, 1)):
        hint = "one value per image is no choice between classes. Return two logits: torch.cat([-z, z], 1) / 2"
    if fits > 1:
        hint = "return only the logits; a function that wraps the network can do it: --classifier module:function"
    return WeightsError(f"{what} answers {shown} for N = {IMAGES} images; logits [N, C] are needed.", hint=hint)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
