"""Train a purifier: the paper's objective (cGAN + 100 L1 + 1 perceptual), with attacks made on the fly.

x          clean photographs, RGB NCHW float in [0, 1]
y          the frozen classifier's own predictions on x: true labels would leak into the attack
x_adv      attacked x, rounded to 8 bits as files are
x_pur      G(x_adv), the purified images
"""

import dataclasses
import hashlib
import json
import math
import pickle
import platform
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import purifyctl
from purifyctl import console
from purifyctl.attacks import make_attack
from purifyctl.checkpoint import save_purifier
from purifyctl.classifiers import Classifier, load_classifier, read_state_dict
from purifyctl.config import TrainConfig, to_dict
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.images import list_images
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.nn import PatchDiscriminator, build_purifier
from purifyctl.nn.perceptual import PerceptualLoss, stages, vgg19_perceptual
from purifyctl.photographs import TrainingBatches, split
from purifyctl.samples import copy_samples
from purifyctl.validation import Validation, describe

SAVE_EVERY_S = 300.0  # seconds of work that a kill may cost
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainResult:
    checkpoint: Path  # purifier.safetensors
    steps: int
    seconds: float  # of this call
    held_out: dict[str, Any]  # accuracies in [0, 1] on photographs that were never trained on, and their step
    interrupted: bool  # by Ctrl-C; what was done is saved


def train_recipe(config: TrainConfig, run_dir: Path, *, max_steps: int | None = None) -> TrainResult:
    """`train` on the photographs that the recipe itself names: a folder, or "samples"."""
    if not config.photos:
        raise ConfigError("The recipe names no photographs.", hint="pass --photos DIR")
    photos = Path(config.photos)
    if config.photos == "samples":
        photos = run_dir / "photos"
        n = copy_samples(photos)
        console.note(f"Training on {n} sample photographs: enough to see that it works, not to get a good purifier.")
    return train(config, photos, run_dir, max_steps=max_steps)


def train(config: TrainConfig, photos: Path, run_dir: Path, *, max_steps: int | None = None) -> TrainResult:
    """Train as `config` says on the photographs under `photos`; write checkpoint, log and state into `run_dir`.

    A run folder that holds an unfinished training of the same recipe is gone on with, from its last saved step.

    Parameters
    ----------
    max_steps
        Stop after this step of the schedule, saving; calling again goes on from there.

    Raises
    ------
    ConfigError
        Too few photographs, or a run folder that holds another recipe's training.
    TrainingError
        The loss is no longer a number, or no photograph can be read.
    """
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    files = list_images(photos)
    training_files, held_out_files = split(files, config.held_out, config.seed)
    if len(training_files) < 1:
        raise ConfigError(f"{photos} holds {len(files)} photographs; that is too few to train on and hold some out.")
    batches = TrainingBatches(
        training_files, batch_size=config.batch_size, resize=config.resize, crop=config.image_size, seed=config.seed
    )
    classifier = load_classifier(config.classifier.name, config.classifier.weights).to(device)
    classifier = classifier.to(memory_format=torch.channels_last)
    total_steps = config.epochs * batches.steps_per_epoch
    trainer = Trainer(config, classifier, total_steps, device)

    run_dir.mkdir(parents=True, exist_ok=True)
    names = hashlib.sha256("\n".join(str(f.path) for f in files).encode(errors="replace")).hexdigest()
    begun = {"recipe": to_dict(dataclasses.replace(config, photos="")), "photographs": names}
    step = _resume_or_begin(run_dir, begun, trainer, f"{len(files)} photographs in {photos}")
    last_step = min(total_steps, max_steps or total_steps)
    held_out = Validation(config, held_out_files, classifier, device)
    figures: dict[str, Any] = {}
    saved = time.monotonic()
    with (
        (run_dir / "log.jsonl").open("a") as log,
        console.progress(last_step, "training", done=step) as bar,
        closing(batches.from_step(step)) as stream,
        drain_on_interrupt("saving this step.") as interrupted,
    ):
        while step < last_step and not interrupted.is_set():
            losses = trainer.step(next(stream).to(device), step)
            step += 1
            if step % LOG_EVERY == 0 or step == last_step:
                _write_line(log, {"step": step, **losses})
            bar.advance(text=f"loss {losses['generator']:.3f}")
            validate = step == last_step or step % (batches.steps_per_epoch * config.validate_every) == 0
            if validate:
                figures = {"step": step, **held_out.measure(trainer.generator)}
                _write_line(log, {"step": step, "held_out": figures})
                console.event("held_out", **figures)
                console.note(f"epoch {step / batches.steps_per_epoch:.1f}: {describe(figures)}")
            if validate or interrupted.is_set() or time.monotonic() - saved > SAVE_EVERY_S:
                _save(run_dir, config, trainer, step, figures)
                saved = time.monotonic()
    if not figures:  # interrupted before the first look, or finished by an earlier call
        figures = {"step": step, **held_out.measure(trainer.generator)}
    if batches.unreadable:
        console.warn(
            f"{len(batches.unreadable)} photographs could not be read: {', '.join(sorted(batches.unreadable)[:3])}"
        )
    seconds = time.monotonic() - started
    return TrainResult(run_dir / "purifier.safetensors", step, seconds, figures, interrupted.is_set())


class Trainer:
    """The networks, their optimisers, and one step of the objective."""

    def __init__(self, config: TrainConfig, classifier: Classifier, total_steps: int, device: torch.device) -> None:
        self.config = config
        self.classifier = classifier
        self.device = device
        torch.manual_seed(config.seed)
        self.generator = build_purifier(config.network).to(device).to(memory_format=torch.channels_last)
        self.optimiser_g = self._adam(self.generator)
        self.discriminator: PatchDiscriminator | None = None
        self.optimiser_d: torch.optim.Adam | None = None
        if config.objective.gan:
            self.discriminator = PatchDiscriminator(config.objective.discriminator_width).to(device)
            self.optimiser_d = self._adam(self.discriminator)
        self.perceptual = _perceptual_loss(config, classifier, device) if config.objective.perceptual else None
        self.total_steps = total_steps

    def _adam(self, net: nn.Module) -> torch.optim.Adam:
        betas = (self.config.beta1, 0.999)
        return torch.optim.Adam(net.parameters(), lr=self.config.learning_rate, betas=betas)

    def step(self, x: Tensor, step: int) -> dict[str, float]:
        """One update of D and of G on clean images `x`. Returns the losses. Depends on nothing but x and `step`."""
        torch.manual_seed(self.config.seed * 1_000_003 + step)  # dropout and attacks: the same again after a resume
        self._schedule(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            with torch.no_grad():
                clean_logits = self.classifier.logits(x).float()
            x_adv = self._attacked(x, clean_logits.argmax(1), step)
            self.generator.train()
            x_pur = self.generator(x_adv).float()
            losses = self._update_d(x, x_adv, x_pur)
            losses |= self._generator_losses(x, x_adv, x_pur, clean_logits)
        weights = self.config.objective
        total = sum(getattr(weights, name) * loss for name, loss in losses.items() if name != "discriminator")
        value = float(total.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} at step {step}.",
                hint="lower learning_rate in the recipe, or use precision = 'fp32'; the last saved step is intact",
            )
        self.optimiser_g.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        self.optimiser_g.step()
        return {"generator": value, **{name: float(loss.detach()) for name, loss in losses.items()}}

    def _schedule(self, step: int) -> None:
        factor = 1.0
        if self.config.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * step / self.total_steps))
        for optimiser in (self.optimiser_g, self.optimiser_d):
            for group in optimiser.param_groups if optimiser else ():
                group["lr"] = self.config.learning_rate * factor

    def _attacked(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Attack all of `x` but the identity share, with one attack and budget drawn for this step."""
        rng = np.random.default_rng((self.config.seed, step))
        clean = torch.from_numpy(rng.random(len(x)) < self.config.identity_share).to(x.device)
        shares = np.array([attack.share for attack in self.config.attacks])
        attack = self.config.attacks[rng.choice(len(shares), p=shares / shares.sum())]
        eps = float(rng.uniform(*attack.eps))
        x_adv = x.clone()
        if not clean.all():
            x_adv[~clean] = make_attack(attack, self.classifier.logits, x[~clean], y[~clean], eps)
        return x_adv

    def _generator_losses(self, x: Tensor, x_adv: Tensor, x_pur: Tensor, clean_logits: Tensor) -> dict[str, Tensor]:
        weights, losses = self.config.objective, {}
        if weights.l1:
            losses["l1"] = nn.functional.l1_loss(x_pur, x)
        if weights.gan and self.discriminator:
            judged = self.discriminator.requires_grad_(False)(x_adv, x_pur)
            losses["gan"] = nn.functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        if weights.perceptual and self.perceptual:
            losses["perceptual"] = self.perceptual(x, x_pur)
        if weights.classifier:
            losses["classifier"] = nn.functional.l1_loss(self.classifier.logits(x_pur).float(), clean_logits)
        return losses

    def _update_d(self, x: Tensor, x_adv: Tensor, x_pur: Tensor) -> dict[str, Tensor]:
        if self.discriminator is None or self.optimiser_d is None:
            return {}
        self.discriminator.requires_grad_(True)
        real = self.discriminator(x_adv, x)
        fake = self.discriminator(x_adv, x_pur.detach())  # detach: D's loss must not reach G
        bce = nn.functional.binary_cross_entropy_with_logits
        loss = (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))) / 2
        self.optimiser_d.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser_d.step()
        return {"discriminator": loss.detach()}

    def state(self) -> dict[str, Any]:
        """Everything but the step that a resumed training needs."""
        parts: dict[str, Any] = {"generator": self.generator, "optimiser_g": self.optimiser_g}
        if self.discriminator is not None and self.optimiser_d is not None:
            parts |= {"discriminator": self.discriminator, "optimiser_d": self.optimiser_d}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def _perceptual_loss(config: TrainConfig, classifier: Classifier, device: torch.device) -> PerceptualLoss:
    objective = config.objective
    if objective.perceptual_backbone == "classifier":
        return PerceptualLoss(classifier.logits, stages(classifier.net))  # logits: training crops go in as they are
    state = read_state_dict(objective.perceptual_weights) if objective.perceptual_weights else None
    try:
        return vgg19_perceptual(state).to(device)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"The VGG19 weights for the perceptual loss cannot be had: {error}.",
            hint="set objective.perceptual_weights to a file, or perceptual_backbone = 'classifier'",
        ) from None


def _write_line(log: Any, data: Mapping[str, Any]) -> None:
    log.write(json.dumps(data) + "\n")
    log.flush()


def _resume_or_begin(run_dir: Path, begun: dict[str, Any], trainer: Trainer, source: str) -> int:
    """Load what an earlier call left in `run_dir`, if anything. Returns the step to go on with."""
    settings, state, log = run_dir / "training.json", run_dir / "state.pt", run_dir / "log.jsonl"
    begun = json.loads(json.dumps(begun))  # as it reads back
    if not state.exists():
        settings.write_text(json.dumps(begun, indent=2) + "\n")
        log.unlink(missing_ok=True)
        console.note(f"Training on {source}, {trainer.total_steps} steps, into {run_dir}.")
        return 0
    try:
        earlier = json.loads(settings.read_text())
        saved = torch.load(state, map_location=trainer.device, weights_only=True)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{run_dir} cannot be gone on with: {error}", hint="choose another --out") from None
    for key, what in (("recipe", "another recipe"), ("photographs", "other photographs")):
        if earlier.get(key) != begun[key]:
            raise ConfigError(f"{run_dir} holds a training with {what}.", hint="choose another --out")
    trainer.load_state(saved["networks"])
    step = int(saved["step"])
    kept = [line for line in log.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
    log.write_text("".join(kept))  # what came after the last save is done again
    console.note(f"Going on with {run_dir} from step {step} of {trainer.total_steps}.")
    return step


def _save(run_dir: Path, config: TrainConfig, trainer: Trainer, step: int, figures: Mapping[str, Any]) -> None:
    about = {
        "recipe": to_dict(config),
        "step": step,
        "total_steps": trainer.total_steps,
        "held_out": dict(figures),
        "versions": {
            "purifyctl": purifyctl.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": str(trainer.device),
    }
    save_purifier(run_dir / "purifier.safetensors", trainer.generator, config.network, about)
    # last: a training counts as having come this far only when its checkpoint is there
    temporary = run_dir / ".state.pt.part"
    torch.save({"networks": trainer.state(), "step": step}, temporary)
    temporary.replace(run_dir / "state.pt")
