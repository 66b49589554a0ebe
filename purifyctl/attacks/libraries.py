"""Attacks that libraries do well, brought under one L-infinity budget: the extra "attacks".

    deepfool      foolbox, the L-infinity version; its result is cut to the budget
    cw            foolbox, Carlini and Wagner's L2 attack; cut to the budget; images it fails on stay clean
    jsma          ART; touches as few values as it can (L0), each by the whole budget or as far as it can go
    one-pixel     ART; one pixel of each image (L0), whose values move within the budget
    universal     ART; one perturbation for all images that are given together
    autoattack    pyautoattack; "standard", or "rand" with EOT

JSMA and one pixel were published with no bound on the values that they touch: eps = 1 is their original form.
Libraries draw from global random states: they are seeded from `generator`, and put back afterwards.
"""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.attacks.gradient import Model, project, round_straight_through
from purifyctl.config import AttackConfig, AttackKind
from purifyctl.errors import ConfigError, MissingDependencyError
from purifyctl.machine import installed

# eps bounds every value's move; these were published under another norm, or for single images.
WHAT_EPS_BOUNDS: dict[AttackKind, str] = {
    "deepfool": "the nearest boundary's perturbation, cut to eps",
    "cw": "an L2 attack, cut to eps; images without success stay clean",
    "jsma": "an L0 attack: two values per step, each raised by eps",
    "one-pixel": "an L0 attack: one pixel, whose values move by at most eps; images without success stay clean",
    "universal": "one perturbation for each batch, not one for all images",
    "autoattack": "images without success stay clean",
}
# Which package each attack comes from.
PACKAGES: dict[AttackKind, str] = {
    "deepfool": "foolbox",
    "cw": "foolbox",
    "jsma": "adversarial-robustness-toolbox",
    "one-pixel": "adversarial-robustness-toolbox",
    "universal": "adversarial-robustness-toolbox",
    "autoattack": "pyautoattack",
}
CW_CONSTANTS = 9  # binary search steps for the constant between distance and loss; as in the authors' code
CANDIDATES = 10  # classes, the likeliest ones, whose boundaries DeepFool looks at; 10 in the paper
TARGET_CLASSES = 9  # of AutoAttack's targeted attacks


def check_installed(attack: AttackConfig) -> None:
    """Refuse, before any time is spent, an attack whose library is missing.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    package = PACKAGES.get(attack.kind)
    if package and installed(package) is None:
        raise MissingDependencyError(package, needed_for=f"The attack {attack.name}", extra="attacks")


def run(
    attack: AttackConfig,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    generator: torch.Generator | None,
    eight_bit: bool,
) -> Tensor:
    """One of this module's attacks; parameters are those of `purifyctl.attacks.make_attack`.

    With `eight_bit` the library sees a model that rounds its input, so that the small steps of attacks that look for
    the nearest boundary survive the rounding that follows. The caller rounds.

    Raises
    ------
    MissingDependencyError
        The library is not installed.
    """

    def seen(image: Tensor) -> Tensor:
        return model(round_straight_through(image) if eight_bit else image)

    x = x.contiguous()  # photographs come channels last
    with torch.enable_grad(), _seeded(generator) as seed:
        match attack.kind:
            case "deepfool":
                x_adv = _deepfool(seen, x, y, attack.effective_steps)
            case "cw":
                x_adv = _carlini_wagner(seen, x, y, attack.effective_steps, attack.targeted)
            case "jsma":
                x_adv = _jsma(seen, x, y, eps, attack.effective_steps, attack.targeted)
            case "one-pixel":
                x_adv = _one_pixel(seen, x, y, eps, attack.effective_steps, attack.targeted)
            case "universal":
                x_adv = _universal(seen, x, y, eps, attack.effective_steps)
            case "autoattack":
                x_adv = _autoattack(seen, x, y, eps, attack.eot, seed)
            case _:
                raise ValueError(attack.kind)
    return project(x_adv, x, eps)


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[int]:
    """Seed the global random states of Python, NumPy and torch from `generator`; put them back afterwards."""
    device = generator.device if generator else None
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield seed
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _AsModule(nn.Module):
    """`model` in the shape that the libraries want. They may switch its mode and device: not those of the real one."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: not registered as a submodule
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        # flattened and shaped again: gradients come back contiguous, which AutoAttack takes for granted
        return self._model[0](x.flatten(1).view(x.shape))


def _foolbox(model: Model, x: Tensor) -> tuple[Any, Any]:
    try:
        import foolbox
    except ImportError:
        raise MissingDependencyError("foolbox", needed_for="This attack", extra="attacks") from None
    return foolbox, foolbox.PyTorchModel(_AsModule(model), bounds=(0, 1), device=x.device)


def _deepfool(model: Model, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Step to the nearest linearised boundary until past it (Moosavi-Dezfooli et al. 2016)."""
    foolbox, wrapped = _foolbox(model, x)
    attack = foolbox.attacks.LinfDeepFoolAttack(steps=steps, candidates=CANDIDATES)
    return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=None)[0]  # type: ignore[no-any-return]


def _carlini_wagner(model: Model, x: Tensor, y: Tensor, steps: int, targeted: bool) -> Tensor:
    """The smallest L2 change that succeeds (Carlini and Wagner 2017)."""
    foolbox, wrapped = _foolbox(model, x)
    criterion = foolbox.criteria.TargetedMisclassification(y) if targeted else foolbox.criteria.Misclassification(y)
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=CW_CONSTANTS, steps=steps)
    x_adv = attack(wrapped, x, criterion, epsilons=None)[0]
    # where it finds nothing it returns a black image, which it may take for a success
    failed = x_adv.amax((1, 2, 3), keepdim=True) == 0
    return torch.where(failed, x, x_adv)


def _art(model: Model, x: Tensor, classes: int) -> Any:
    try:
        from art.estimators.classification import PyTorchClassifier
    except ImportError:
        raise MissingDependencyError(
            "adversarial-robustness-toolbox", needed_for="This attack", extra="attacks"
        ) from None
    return PyTorchClassifier(
        _AsModule(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )


def _jsma(model: Model, x: Tensor, y: Tensor, eps: float, steps: int, targeted: bool) -> Tensor:
    """Raise the two values with the largest saliency by the budget, `steps` times (Papernot et al. 2016).

    Without a target it aims at the likeliest other class. ART works on z in [0, 1], where 0 is the clean image and 1
    every value raised by the budget: a value that is touched goes all the way, and cannot leave the budget.
    """
    logits = _logits(model, x)
    classes = logits.shape[1]
    targets = y if targeted else logits.scatter(1, y[:, None], float("-inf")).argmax(1)
    attacked = []
    for clean, target in zip(torch.split(x, 1), targets.tolist(), strict=True):
        room = torch.clamp(clean + eps, max=1) - clean

        def raised(z: Tensor, clean: Tensor = clean, room: Tensor = room) -> Tensor:
            return model(clean + z * room)

        classifier = _art(raised, x, classes)
        from art.attacks.evasion import SaliencyMapMethod

        # gamma: share of values touched, above which ART stops; half a step short, so that it stops after `steps`
        gamma = min(1.0, (2 * steps - 1) / clean.numel())
        attack = SaliencyMapMethod(classifier, theta=1.0, gamma=gamma, verbose=False)
        z = attack.generate(np.zeros(clean.shape, np.float32), y=np.array([target]))
        attacked.append(clean + torch.from_numpy(z).to(x) * room)
    return torch.cat(attacked)


def _one_pixel(model: Model, x: Tensor, y: Tensor, eps: float, steps: int, targeted: bool) -> Tensor:
    """Search one pixel's place and colour by differential evolution, for `steps` generations (Su et al. 2019).

    The model is shown every candidate cut to the budget. Images on which the search fails stay clean.
    """
    classes = _logits(model, x).shape[1]
    attacked = []
    for clean, label in zip(torch.split(x, 1), y.tolist(), strict=True):

        def cut(image: Tensor, clean: Tensor = clean) -> Tensor:
            return torch.clamp(image, clean - eps, clean + eps)

        def probabilities(image: Tensor, cut: Model = cut) -> Tensor:
            return model(cut(image)).softmax(1)  # what the search minimises, as in the paper

        classifier = _art(probabilities, x, classes)
        from art.attacks.evasion import PixelAttack

        attack = PixelAttack(classifier, th=1, es=1, max_iter=steps, targeted=targeted)
        found = torch.from_numpy(attack.generate(clean.cpu().numpy(), y=np.array([label]))).to(x)
        # ART goes through [0, 255] and back, which leaves float noise on the other pixels
        attacked.append(torch.where((found - clean).abs() < 1e-5, clean, cut(found)))
    return torch.cat(attacked)


def _universal(model: Model, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """One perturbation for all of `x`, grown by DeepFool image by image until most are fooled (Moosavi-Dezfooli 2017).

    Up to `steps` passes over the images.
    """
    classifier = _art(model, x, _logits(model, x).shape[1])
    from art.attacks.evasion import UniversalPerturbation

    attack = UniversalPerturbation(
        classifier,
        attacker="deepfool",
        attacker_params={"nb_grads": CANDIDATES, "verbose": False},
        max_iter=steps,
        eps=eps,
        norm=np.inf,
        delta=0.0,  # ART would stop when 80 % are fooled
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y=y.cpu().numpy())).to(x)


def _autoattack(model: Model, x: Tensor, y: Tensor, eps: float, eot: int, seed: int) -> Tensor:
    """AutoAttack (Croce and Hein 2020): APGD-CE, APGD-T, FAB-T and Square; or, with `eot`, APGD-CE and APGD-DLR.

    Images that withstand all of them stay clean.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError:
        raise MissingDependencyError("pyautoattack", needed_for="AutoAttack", extra="attacks") from None
    version = "standard" if eot == 1 else "rand"
    attack = AutoAttack(_AsModule(model), eps=eps, seed=seed, version=version, device=x.device)
    attack.apgd.eot_iter = eot
    others = _logits(model, x).shape[1] - 1
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
    return x_adv  # type: ignore[no-any-return]


class _Flags(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def autoattack_flags() -> Iterator[list[str]]:
    """Collect what AutoAttack warns of while it runs: defences that it may overrate."""
    logger, handler = logging.getLogger("auto-attack"), _Flags()
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)


@torch.no_grad()
def _logits(model: Model, x: Tensor) -> Tensor:
    return model(x)
