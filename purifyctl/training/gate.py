"""`train-gate`: train a gate, which flags attacked images.

x          clean crops, RGB NCHW float in [0, 1], in whole grey levels
y          the frozen classifier's own predictions on x
x_adv      attacked x; made once and kept in the run folder, because they cost far more than the rest
"""

import io
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from purifyctl import __version__
from purifyctl.classifiers import Classifier, load_classifier
from purifyctl.config import GateConfig, to_dict
from purifyctl.config.folders import GATE
from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.devices import torch_device
from purifyctl.errors import ConfigError
from purifyctl.gate import save_gate
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.nn.gate import GateNetwork
from purifyctl.photographs import to_pixels, to_tensor
from purifyctl.sources import list_images
from purifyctl.sources.sketch import sketch
from purifyctl.thresholds import FALSE_POSITIVE_RATES
from purifyctl.training.attack_sampling import Sampled, attack_each, sample_kinds
from purifyctl.training.batches import TrainingBatch, TrainingBatches, split
from purifyctl.training.cache import AttackCache
from purifyctl.training.calibration import judge
from purifyctl.training.workers import Workers
from purifyctl.waiting import progress

# keys of the recipe that the attacked crops do not depend on
_AFTER_THE_ATTACKS = ("width", "epochs", "learning_rate", "disturbed", "validation_sizes")


@dataclass(frozen=True)
class GateResult:
    checkpoint: Path
    figures: dict[str, Any]  # on held-out photographs
    seconds: float
    interrupted: bool  # by Ctrl-C, before the end; there is no checkpoint


def train_gate(
    config: GateConfig, photos: Path, run_dir: Path, pictures: PictureOptions = DEFAULTS, device: str = "auto"
) -> GateResult:
    """Train as `config` says on the photographs under `photos`; write `gate.safetensors` and its figures.

    Attacked crops are kept in the run folder: the same call after a stop makes only those that are missing.

    Raises
    ------
    ConfigError
        Too few photographs.
    TrainingError
        The run folder holds another recipe's attacked crops, or no attack changed any prediction.
    """
    started = time.monotonic()
    files = list_images(photos, skip_folder=run_dir)
    training_files, held_out_files = split(files, config.held_out, config.seed)
    if not training_files or len(held_out_files) < 1 / max(FALSE_POSITIVE_RATES):
        raise ConfigError(
            f"{photos} holds {len(files)} photographs, too few to train on and hold some out for thresholds.",
            hint="name a folder with more as --photos",
        )
    workers = Workers(torch_device(device))
    batches = TrainingBatches(
        training_files,
        batch_size=config.batch_size,
        resize=config.resize,
        crop=config.largest,
        seed=config.seed,
        variants=config.attack_epochs,
        threads=max(2, (os.cpu_count() or 2) // 2),
        pictures=pictures,
    )
    classifiers = [load_classifier(c).to(workers.device) for c in config.classifiers]
    decisive = {name: value for name, value in to_dict(config).items() if name not in _AFTER_THE_ATTACKS}
    digest = json.dumps([decisive, sketch(training_files)], sort_keys=True)
    places = len(training_files) * config.attack_epochs
    cache = AttackCache(run_dir / "attacked", places, config.image_size, digest, workers)
    trainer = _Trainer(config, classifiers, cache, config.epochs * batches.steps_per_epoch, workers.device)
    stream = batches.from_step(0)
    with (
        progress(trainer.total_steps, "training") as bar,
        drain_on_interrupt("stopping.") as interrupt,
    ):
        for step in range(trainer.total_steps):
            loss = trainer.step(next(stream), step)
            bar.advance(text=f"loss {loss:.3f}")
            if interrupt.is_set():
                stream.close()
                return GateResult(run_dir / GATE, {}, time.monotonic() - started, interrupted=True)
    stream.close()
    net = trainer.net.eval()
    figures = judge(net, config, held_out_files, classifiers[0], workers.device, pictures)
    about = {"recipe": to_dict(config), "held_out": figures, "purifyctl": __version__, "photographs": sketch(files)}
    save_gate(run_dir / GATE, net, figures["thresholds"], about)
    (run_dir / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return GateResult(run_dir / GATE, figures, time.monotonic() - started, interrupted=False)


class _Trainer:
    """The gate and its optimiser.

    All that a step samples comes from the seed and the step's number. It is the same whether the attacked crops are
    made now or were made before.
    """

    def __init__(
        self,
        config: GateConfig,
        classifiers: Sequence[Classifier],
        cache: AttackCache,
        total_steps: int,
        device: torch.device,
    ) -> None:
        self._config, self._classifiers, self._cache = config, classifiers, cache
        self.total_steps, self._device = total_steps, device
        torch.manual_seed(config.seed)
        self.net = GateNetwork(config.width).to(device)
        self._optimiser = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate)

    def step(self, batch: TrainingBatch, step: int) -> float:
        torch.manual_seed(self._config.seed * 1_000_003 + step)  # random starts
        rng, of_attack = (np.random.default_rng((self._config.seed, step, *more)) for more in ((), (1,)))
        x = torch.stack([self._crop(image, place) for image, place in zip(batch.x, batch.places, strict=True)])
        x_adv = self._cache.get(batch.places, lambda: self._attacked(x.to(self._device), of_attack))
        both = torch.cat([_disturbed(x, self._config.disturbed, rng), x_adv]).to(self._device)
        is_attacked = torch.arange(len(both), device=self._device) >= len(x)
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))
        self.net.train()
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(both), is_attacked.float())
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimiser.step()
        return float(loss.detach())

    def _crop(self, image: Tensor, place: int) -> Tensor:
        """A square of random size, resized to the recipe's. Some are sharpened: sharpness is not an attack."""
        config = self._config
        rng = np.random.default_rng((config.seed, place))
        side = int(rng.integers(config.image_size, config.largest, endpoint=True))
        top, left = rng.integers(image.shape[-1] - side + 1, size=2)
        crop = image[None, :, top : top + side, left : left + side]
        size = (config.image_size, config.image_size)
        resized = nn.functional.interpolate(crop, size, mode="bicubic", antialias=bool(rng.random() < 0.6))
        if rng.random() < 0.4:  # as cameras and editors do
            blurred = nn.functional.avg_pool2d(nn.functional.pad(resized, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            resized = resized + rng.uniform(0.2, 1.5) * (resized - blurred)
        return torch.round(resized[0].clamp(0, 1) * 255) / 255

    def _attacked(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        classifier = self._classifiers[int(rng.integers(len(self._classifiers)))]
        kinds, budgets = sample_kinds(self._config.attacks, len(x), rng)
        kind, eps = torch.from_numpy(kinds).to(x.device), torch.from_numpy(budgets).to(x.device)
        with torch.no_grad():
            y = classifier.logits(x).argmax(1)
        sampled = Sampled(kind, eps, torch.ones_like(kind, dtype=torch.bool))
        return attack_each(self._config.attacks, sampled, x, y, lambda _: classifier.logits)


def _disturbed(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Clean crops, some compressed as JPEG or made noisy, as photographs may be: neither is an attack."""
    pixels = to_pixels(x)
    for i in np.flatnonzero(rng.random(len(x)) < share):
        if rng.random() < 0.5:
            stream = io.BytesIO()
            Image.fromarray(pixels[i]).save(stream, "jpeg", quality=int(rng.integers(40, 96)))
            pixels[i] = np.asarray(Image.open(stream))
        else:
            noise = rng.normal(0, rng.uniform(0.5, 4), pixels[i].shape)
            pixels[i] = np.clip(np.round(pixels[i] + noise), 0, 255)
    return to_tensor(pixels)
