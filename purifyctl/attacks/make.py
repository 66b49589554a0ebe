"""Makes the attack that a configuration asks for: finds its function by its record, and calls it."""

import importlib
from typing import Protocol, cast

import torch
from torch import Tensor

from purifyctl.attacks.best import Best
from purifyctl.attacks.budget import Budget, whole_levels
from purifyctl.attacks.model import Model, of_rounded
from purifyctl.config import Attack, AttackConfig
from purifyctl.errors import MissingDependencyError
from purifyctl.machine import installed


class AttackFunction(Protocol):
    """How every attack is called. It may have further keywords with defaults."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        eps: Budget,
        *,
        steps: int,
        targeted: bool = False,
        eot: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attack `x`.

        Parameters
        ----------
        model
            RGB NCHW float in [0, 1] -> logits.
        x
            Clean images. NCHW float in [0, 1].
        y
            The labels to move away from; with `targeted`, to move towards. [N] int64.
        eps
            L-infinity budget in [0, 1]; one each [N, 1, 1, 1] only if the record says `budget_per_image`.
        steps
            What the record's `steps_are` counts.
        targeted, eot
            Other than False and 1 only if the record says that the attack offers them.
        generator
            Everything random comes from it. On `x`'s device; None: torch's global one.

        Returns
        -------
        Tensor
            x_adv with |x_adv - x| <= eps and values in [0, 1], detached.
        """


def function_of(attack: Attack) -> AttackFunction:
    """The function that a record names. Libraries are imported by the function itself, when it is called."""
    module, _, name = attack.function.partition(":")
    return cast(AttackFunction, getattr(importlib.import_module(module), name))


def check_installed(attack: AttackConfig) -> None:
    """Refuse, before any time is spent, an attack whose package is missing.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    package = attack.record.package
    if package and installed(package) is None:
        raise MissingDependencyError(package, needed_for=f"The attack {attack.name}", extra="attacks")


def make_attack(
    attack: AttackConfig,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    generator: torch.Generator | None = None,
    eight_bit: bool = True,
) -> Tensor:
    """`x`, attacked as `attack` says. Everything random comes from `generator`.

    Parameters
    ----------
    model
        RGB NCHW float in [0, 1] -> logits.
    x
        Clean images. NCHW float in [0, 1]; whole grey levels for `eight_bit`.
    y
        The labels to move away from; for targeted attacks, to move towards. Least-likely ignores them. [N] int64.
    eps
        L-infinity budget in [0, 1]: no value of any image moves by more, whatever norm the attack was made for.
        Attacks with `budget_per_image` also take one each, [N, 1, 1, 1].
    generator
        On `x`'s device; None: torch's global one.
    eight_bit
        Round the result to whole grey levels, as a file holds them. The budget is then `eps` cut to whole grey levels
        (at least one), so that rounding cannot leave it.

    Raises
    ------
    MissingDependencyError
        The attack comes from a library that is not installed.
    """
    if eight_bit:
        eps = whole_levels(eps)
    if attack.restarts == 1:
        return _run(attack, model, x, y, eps, generator, eight_bit)
    best = Best(model, x, y, targeted=attack.targeted, eot=attack.eot)
    for _ in range(attack.restarts):
        best.offer(_run(attack, model, x, y, eps, generator, eight_bit))
    return best.images


def _run(
    attack: AttackConfig,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    generator: torch.Generator | None,
    eight_bit: bool,
) -> Tensor:
    """Run the attack of `make_attack` once, without restarts."""
    record = attack.record
    x_adv = function_of(record)(
        of_rounded(model) if eight_bit and record.sees_rounding else model,
        x,
        y,
        eps if record.budget_per_image else float(eps),
        steps=attack.effective_steps,
        targeted=attack.targeted,
        eot=attack.eot,
        generator=generator,
    )
    return torch.round(x_adv * 255) / 255 if eight_bit else x_adv
