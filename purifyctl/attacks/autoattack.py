"""AutoAttack (Croce and Hein 2020), by pyautoattack, and its warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from purifyctl import console
from purifyctl.attacks.budget import project
from purifyctl.attacks.library import AsModule, for_library, logits_of, missing
from purifyctl.attacks.model import Model
from purifyctl.errors import ConfigError

TARGET_CLASSES = 9  # AutoAttack's targeted attacks try this many


def autoattack(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """APGD-CE, APGD-T, FAB-T and Square; or, with `eot` above 1, APGD-CE and APGD-DLR (version "rand").

    Images that withstand all of them stay clean.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`; `steps` and `targeted` are unused.

    Raises
    ------
    MissingDependencyError
        pyautoattack is not installed.
    ConfigError
        The classifier has fewer than 4 classes.
    """
    x = x.contiguous()
    with for_library(generator) as seed:
        try:
            from pyautoattack import AutoAttack
        except ImportError:
            raise missing("pyautoattack", "AutoAttack") from None
        version = "standard" if eot == 1 else "rand"
        attack = AutoAttack(AsModule(model), eps=eps, seed=seed, version=version, device=x.device)
        attack.apgd.eot_iter = eot
        others = logits_of(model, x).shape[1] - 1
        if others < 3:
            raise ConfigError(
                f"AutoAttack's targeted losses need at least 4 classes; the classifier has {others + 1}.",
                hint="attack it with pgd, many steps and restarts",
            )
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGET_CLASSES, others)
        with autoattack_flags() as flags:
            x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
    for text in flags:
        console.note_once(f"AutoAttack: {text}")
    return project(x_adv, x, eps)


class _Flags(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def autoattack_flags() -> Iterator[list[str]]:
    """Collect AutoAttack's warnings while it runs: it names defences that it may overrate."""
    logger, handler = logging.getLogger("auto-attack"), _Flags()
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)
