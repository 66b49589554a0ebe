"""The networks of a training, their optimisers, and one step of the objective.

x          clean photographs, RGB NCHW float in [0, 1]
y          the frozen classifier's own predictions on x: true labels would leak into the attack
x_adv      attacked x, rounded to 8 bits as files are
x_pur      G(x_adv), the purified images
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from purifyctl.attacks import Model, behind
from purifyctl.checkpoint import Checkpoint, load_purifier, shipped_checkpoint
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig, TrainingAttack
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.nn import PatchDiscriminator, RedrawPurifier, build_purifier
from purifyctl.training.cache import AttackCache
from purifyctl.training.mix import all_of, attack_each, draw
from purifyctl.training.perceptual import load_perceptual
from purifyctl.training.workers import Workers

Part = Literal["denoise", "draw", "read", "all"]  # of a training


class Trainer:
    """Generator, discriminator, averaged weights and optimisers; `step` updates them.

    Whatever a step draws at random comes from the seed and the step's number, so that a training that was stopped
    goes on as if it had not been.
    """

    def __init__(
        self,
        config: TrainConfig,
        classifiers: Sequence[Classifier],
        total_steps: int,
        workers: Workers,
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        if config.network.kind == "redraw":
            _check_classes(config, classifiers)
        self._classifiers = classifiers
        self.workers = workers
        self.cache: AttackCache | None = None  # of attacked images, where the recipe wants one
        self._perceptual = load_perceptual(config, classifiers, workers.device)
        torch.manual_seed(config.seed)
        self.generator = build_purifier(config.network)
        self.start = _purifier_to_start_from(config) if config.start else None
        if self.start:
            self.generator.load_state_dict(self.start.net.state_dict())
        self.generator = workers.synchronise_norms(self.generator).to(workers.device)
        self.generator = self.generator.to(memory_format=torch.channels_last)
        self.optimiser_g = self._adam(self.generator)
        self.averaged: AveragedModel | None = None
        if config.ema:
            averaging = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.generator, multi_avg_fn=averaging, use_buffers=True)
        self.discriminator: nn.Module | None = None
        self.optimiser_d: torch.optim.Adam | None = None
        if config.objective.gan:
            discriminator = PatchDiscriminator(config.objective.discriminator_width)
            self.discriminator = workers.synchronise_norms(discriminator).to(workers.device)
            self.optimiser_d = self._adam(self.discriminator)

    @property
    def purifier(self) -> nn.Module:
        """What the training makes: the averaged weights where the recipe wants them, the generator's otherwise."""
        module: nn.Module = self.averaged.module if self.averaged is not None else self.generator
        return module

    def _adam(self, net: nn.Module) -> torch.optim.Adam:
        betas = (self.config.beta1, self.config.beta2)
        return torch.optim.Adam(net.parameters(), lr=self.config.learning_rate, betas=betas)

    def step(self, x: Tensor, step: int, places: Sequence[int] = ()) -> dict[str, float]:
        """One update of D and of G on clean images `x`; returns the losses.

        `places` are the images' places in the cache of attacked images, where there is one.
        """
        # attacks and dropout: the same again after a resume, and others in every process
        config = self.config
        seed = (config.seed * 1_000_003 + step) * self.workers.count + self.workers.rank
        torch.manual_seed(seed)
        rng = np.random.default_rng((config.seed, step))
        chosen = int(rng.integers(len(self._classifiers)))
        classifier = self._classifiers[chosen]
        self._schedule(step)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            with torch.no_grad():
                clean_logits = seen_by(classifier, config)(x).float()
            part, _ = self._part(step)
            x_adv = self._attacked(x, clean_logits.argmax(1), classifier, rng, places, step)
            torch.manual_seed(seed)  # again: dropout must not depend on whether the attack came from the cache
            self.generator.train()
            if part == "read":
                losses = {"agreement": _divergence(self._redraw.read(x_adv).float(), clean_logits)}
            else:
                drawn = self._redraw.draw(clean_logits, x.shape[-2:]) if part == "draw" else self.generator(x_adv)
                x_pur = drawn.float()
                losses = self._pixel_losses(x, x_pur)
                if part != "denoise":
                    losses |= self._update_d(x, x_adv, x_pur, step)
                    losses |= self._judged_losses(x, x_adv, x_pur, chosen, clean_logits)
        weights = config.objective
        total = sum(getattr(weights, name) * loss for name, loss in losses.items() if name != "discriminator")
        self._update(self.generator, self.optimiser_g, total, step)
        if self.averaged is not None:
            self.averaged.update_parameters(self.generator)
        return {"generator": float(total.detach()), **{name: float(loss.detach()) for name, loss in losses.items()}}

    def _update(self, net: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.workers.average_gradients(net)
        # checked before it reaches the weights; averaged, so that every process finds the same
        norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        if not torch.isfinite(norm + loss.detach()):
            raise TrainingError(
                f"The loss became {float(loss.detach()):g} at step {step}, the length of its gradient {float(norm):g}.",
                hint="lower learning_rate in the recipe, or use precision = 'fp32'; the last saved step is intact",
            )
        optimiser.step()

    def _part(self, step: int) -> tuple[Part, float]:
        """What is learned at this step, and the share of that part's steps that lies behind."""
        config = self.config
        epoch, begin = step * config.epochs / self.total_steps, 0
        lengths: dict[Part, int] = {
            "denoise": config.denoise_epochs,
            "draw": config.draw_epochs,
            "read": config.read_epochs,
        }
        for part, length in lengths.items():
            if epoch < begin + length:
                return part, (epoch - begin) / length
            begin += length
        return "all", (epoch - begin) / (config.epochs - begin)

    @property
    def _redraw(self) -> RedrawPurifier:
        assert isinstance(self.generator, RedrawPurifier)  # the recipe was refused otherwise
        return self.generator

    def _schedule(self, step: int) -> None:
        factor = 1.0
        if self.config.schedule == "cosine":
            # the parts of a redrawing purifier learn apart: each gets the whole of it
            done = self._part(step)[1] if self.config.network.kind == "redraw" else step / self.total_steps
            factor = 0.5 * (1 + math.cos(math.pi * done))
        for optimiser in (self.optimiser_g, self.optimiser_d):
            for group in optimiser.param_groups if optimiser else ():
                group["lr"] = self.config.learning_rate * factor

    def _attacked(
        self,
        x: Tensor,
        y: Tensor,
        classifier: Classifier,
        rng: np.random.Generator,
        places: Sequence[int],
        step: int,
    ) -> Tensor:
        """Attack all of `x` but the identity share, each image with an attack and a budget of its own."""
        part, _ = self._part(step)
        if part == "draw":
            return x
        n = len(x) * self.workers.count  # drawn for the whole batch, then shared out
        kinds, budgets = draw(self.config.attacks, n, rng)
        adaptive = np.array([attack.through == "purifier" for attack in self.config.attacks])[kinds]
        budgets = np.where(adaptive, budgets * self._growth(step), budgets)
        drawn = torch.from_numpy(np.stack([kinds, budgets, rng.random(n) >= self.config.identity_share]))
        kind, eps, wanted = self.workers.share(drawn.T).T.to(x.device)

        def model_of(attack: TrainingAttack) -> Model:
            if attack.through == "classifier":
                return seen_by(classifier, self.config)
            self.generator.eval()  # what an attacker would face
            return self._redraw.read if part == "read" else behind(self.generator, seen_by(classifier, self.config))

        def attacked(chosen: Tensor) -> Tensor:
            return attack_each(self.config.attacks, kind, eps, chosen, x, y, model_of)

        if self.cache is None:
            return attacked(wanted.bool())
        cached = self.cache.get(places, lambda: attacked(all_of(x)))
        return torch.where(wanted.bool().view(-1, 1, 1, 1), cached.to(x), x)

    def _growth(self, step: int) -> float:
        """What share of their budgets attacks through the purifier have at this step."""
        config = self.config
        epochs = (step + 1) * config.epochs / self.total_steps - config.denoise_epochs - config.draw_epochs
        return min(1.0, max(0.0, epochs / config.growth_epochs)) if config.growth_epochs else 1.0

    def _pixel_losses(self, x: Tensor, x_pur: Tensor) -> dict[str, Tensor]:
        weights, losses = self.config.objective, {}
        if weights.l1:
            losses["l1"] = nn.functional.l1_loss(x_pur, x)
        if weights.l2:
            losses["l2"] = nn.functional.mse_loss(x_pur, x)
        return losses

    def _judged_losses(
        self, x: Tensor, x_adv: Tensor, x_pur: Tensor, chosen: int, clean_logits: Tensor
    ) -> dict[str, Tensor]:
        """What the other networks make of the purified images."""
        weights, losses = self.config.objective, {}
        if weights.gan and self.discriminator:
            judged = self.discriminator.requires_grad_(False)(x_adv, x_pur)
            losses["gan"] = nn.functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        if weights.perceptual:
            losses["perceptual"] = self._perceptual[chosen](x, x_pur)
        if weights.classifier or weights.agreement:
            logits = seen_by(self._classifiers[chosen], self.config)(x_pur).float()
        if weights.classifier:
            losses["classifier"] = nn.functional.l1_loss(logits, clean_logits)
        if weights.agreement:
            losses["agreement"] = _divergence(logits, clean_logits)
        return losses

    def _update_d(self, x: Tensor, x_adv: Tensor, x_pur: Tensor, step: int) -> dict[str, Tensor]:
        if self.discriminator is None or self.optimiser_d is None:
            return {}
        self.discriminator.requires_grad_(True)
        real = self.discriminator(x_adv, x)
        fake = self.discriminator(x_adv, x_pur.detach())  # detach: D's loss must not reach G
        bce = nn.functional.binary_cross_entropy_with_logits
        loss = (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))) / 2
        self._update(self.discriminator, self.optimiser_d, loss, step)
        return {"discriminator": loss.detach()}

    def state(self) -> dict[str, Any]:
        """Everything but the step that a resumed training needs."""
        parts: dict[str, Any] = {"generator": self.generator, "optimiser_g": self.optimiser_g}
        if self.averaged is not None:
            parts["averaged"] = self.averaged
        if self.discriminator is not None and self.optimiser_d is not None:
            parts |= {"discriminator": self.discriminator, "optimiser_d": self.optimiser_d}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def seen_by(classifier: Classifier, config: TrainConfig) -> Model:
    """What the classifier makes of training images, as the recipe has it look at them."""
    return classifier if config.classifier_sees == "centre" else classifier.logits


def _check_classes(config: TrainConfig, classifiers: Sequence[Classifier]) -> None:
    for classifier in classifiers:
        blank = torch.zeros(1, 3, config.image_size, config.image_size, device=classifier.mean.device)
        with torch.no_grad():
            n = seen_by(classifier, config)(blank).shape[1]
        if n != config.network.classes:
            raise ConfigError(
                f"{classifier.name} has {n} classes, network.classes is {config.network.classes}.",
                hint=f"set network.classes = {n} in the recipe",
            )


def _divergence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """KL divergence of predictions from those on the clean images."""
    told, wanted = logits.log_softmax(1), clean_logits.log_softmax(1)
    return nn.functional.kl_div(told, wanted, reduction="batchmean", log_target=True)


def _purifier_to_start_from(config: TrainConfig) -> Checkpoint:
    path = shipped_checkpoint() if config.start == "shipped" else Path(config.start)
    purifier = load_purifier(path)
    if purifier.network != config.network:
        raise ConfigError(
            f"{path} holds a {purifier.network.kind} network of width {purifier.network.width} and depth "
            f"{purifier.network.depth}; the recipe describes another.",
            hint="make [network] in the recipe the same, or start from another checkpoint",
        )
    return purifier
