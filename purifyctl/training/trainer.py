"""One step of a training: attack the photographs, update the discriminator, update the purifier."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from purifyctl.attacks import Model
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainingAttack
from purifyctl.errors import TrainingError
from purifyctl.nn import PatchDiscriminator, build_purifier
from purifyctl.training.attack_sampling import Sampled, attack_each, sample_attacks
from purifyctl.training.cache import AttackCache
from purifyctl.training.classifier_view import classifier_view
from purifyctl.training.clean import classify_clean
from purifyctl.training.objectives import StepData, build_objective
from purifyctl.training.objectives.adversarial import discriminator_loss
from purifyctl.training.phases import PlannedPhase
from purifyctl.training.workers import Workers


class Trainer:
    """The networks and optimisers of one phase; `step` updates them.

    All that a step samples at random comes from the seed and the step's number in its phase. So a training that was
    stopped continues as if it had not been stopped.
    """

    def __init__(
        self,
        phase: PlannedPhase,
        classifiers: Sequence[Classifier],
        workers: Workers,
        start: nn.Module | None = None,
        cache: AttackCache | None = None,
        first_step: int = 0,
    ) -> None:
        """`classifiers`: those of the phase, in its order. `start`: a purifier whose weights the phase starts from.

        `cache`: of attacked images, where the recipe wants one. `first_step`: of the phase, in the whole training.
        """
        config = phase.config
        self.phase, self.workers, self._cache = phase, workers, cache
        self._first_step = first_step
        self.views = [classifier_view(classifier, config) for classifier in classifiers]
        self.objective = build_objective(config, classifiers, workers.device)
        torch.manual_seed(config.seed)
        self.generator = build_purifier(config.network)
        if start is not None:
            self.generator.load_state_dict(start.state_dict())
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

    def step(self, x: Tensor, step: int, places: Sequence[int] = (), place: float | None = None) -> dict[str, float]:
        """Update the discriminator, if there is one, and the purifier on clean images `x`.

        Parameters
        ----------
        x
            RGB NCHW float in [0, 1].
        step
            The step's number in the whole training.
        places
            The images' places in the cache of attacked images, where there is one.
        place
            Where the step stands in its phase's schedule. None: at `step`.

        Returns
        -------
        The losses, each before it is weighted; "generator" is their weighted sum.

        Raises
        ------
        TrainingError
            A loss or its gradient is no longer a finite number.
        """
        config, step_of_phase = self.phase.config, step - self._first_step
        place = step if place is None else place
        # the same numbers again after a resume, and others in every process
        seed = (config.seed * 1_000_003 + step_of_phase) * self.workers.count + self.workers.rank
        torch.manual_seed(seed)
        rng = np.random.default_rng((config.seed, step_of_phase))
        chosen = int(rng.integers(len(self.views)))
        self.set_learning_rate(place)

        losses: dict[str, Tensor] = {}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            sampled = self.sample(len(x), rng, place)
            made_here = self._cache is None and self.objective.attacks_images
            attacks = config.attacks if made_here else ()
            clean_logits, known = classify_clean(self.views[chosen], x, attacks, sampled)
            # attacked away from the classifier's own predictions: true labels would leak into the attack
            x_adv = self.attack(x, clean_logits.argmax(1), chosen, sampled, places, known)
            del known  # and the activations that it holds
            torch.manual_seed(seed)  # again: dropout must not depend on whether the attack came from the cache
            self.generator.train()
            data = StepData(x, x_adv, clean_logits, chosen)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision != "fp32"):
                output = self.objective.output(self.generator, data)

            # discriminator: distinguish clean images from purified ones
            if self.discriminator is not None and self.optimiser_d is not None:
                loss = discriminator_loss(self.discriminator, x, x_adv, output)
                self._update(self.discriminator, self.optimiser_d, loss, step)
                losses["discriminator"] = loss.detach()

            # generator: make what the loss terms ask for
            terms = self.objective.terms(data, output, self.discriminator)
        total = sum(getattr(config.objective, name) * term for name, term in terms.items())
        self._update(self.generator, self.optimiser_g, total, step)
        if self.averaged is not None:
            self.averaged.update_parameters(self.generator)
        return {name: float(loss.detach()) for name, loss in {"generator": total, **terms, **losses}.items()}

    def sample(self, n: int, rng: np.random.Generator, place: float) -> Sampled:
        """This process's share of the attacks and budgets that are sampled for a batch of which it has `n` images."""
        workers = self.workers
        of_batch = sample_attacks(self.phase.config, n * workers.count, self.phase.growth(place), rng)
        kind, eps, attacked = (
            workers.share(each).to(workers.device) for each in (of_batch.kind, of_batch.eps, of_batch.attacked)
        )
        return Sampled(kind, eps, attacked)

    def attack(
        self,
        x: Tensor,
        y: Tensor,
        chosen: int,
        sampled: Sampled,
        places: Sequence[int],
        known: Mapping[int, Model] | None = None,
    ) -> Tensor:
        """`x` attacked away from `y`, each image with an attack and a budget of its own; some are left clean.

        `chosen`: the number of the classifier that is attacked. `known`: that classifier for some attacks, by their
        number, as `classify_clean` returns it.
        """
        if not self.objective.attacks_images:
            return x
        attacks = self.phase.config.attacks

        def model_of(attack: TrainingAttack) -> Model:
            if attack.through == "classifier":
                return (known or {}).get(attacks.index(attack), self.views[chosen])
            self.generator.eval()  # what an attacker would face
            return self.objective.attacked_through(self.generator, self.views[chosen])

        if self._cache is None:
            return attack_each(attacks, sampled, x, y, model_of)
        everything = replace(sampled, attacked=torch.ones_like(sampled.attacked))  # the cache holds attacked ones only
        cached = self._cache.get(places, lambda: attack_each(attacks, everything, x, y, model_of))
        return torch.where(sampled.attacked.view(-1, 1, 1, 1), cached.to(x), x)

    def set_learning_rate(self, place: float) -> None:
        """Give both optimisers the learning rate of a place in the phase's schedule."""
        for optimiser in (self.optimiser_g, self.optimiser_d):
            for group in optimiser.param_groups if optimiser else ():
                group["lr"] = self.phase.learning_rate(place)

    def _adam(self, net: nn.Module) -> torch.optim.Adam:
        config = self.phase.config
        return torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2))

    def _update(self, net: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.workers.average_gradients(net)
        # the check comes before the update, and after averaging, so that every process finds the same
        norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        if not torch.isfinite(norm + loss.detach()):
            raise TrainingError(
                f"The loss became {float(loss.detach()):g} at step {step}, the length of its gradient {float(norm):g}.",
                hint="lower learning_rate in the recipe, or use precision = 'fp32'; the last saved step is intact",
            )
        optimiser.step()

    def state(self) -> dict[str, Any]:
        """Everything except the step that a resumed training needs."""
        return {name: owner.state_dict() for name, owner in self._owners_of_state().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        for name, owner in self._owners_of_state().items():
            owner.load_state_dict(state[name])

    def _owners_of_state(self) -> dict[str, Any]:
        owners: dict[str, Any] = {"generator": self.generator, "optimiser_g": self.optimiser_g}
        if self.averaged is not None:
            owners["averaged"] = self.averaged
        if self.discriminator is not None:
            owners |= {"discriminator": self.discriminator, "optimiser_d": self.optimiser_d}
        return owners
