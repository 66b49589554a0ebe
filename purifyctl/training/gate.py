"""`train-gate`: a detector of attacked images, its calibration and its thresholds.

x          clean crops, RGB NCHW float in [0, 1], in whole grey levels
y          the frozen classifier's own predictions on x
x_adv      attacked x; made once, and kept in the run folder, for they cost far more than the rest
"""

import io
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from purifyctl import __version__, console
from purifyctl.attacks import make_attack
from purifyctl.classifiers import Classifier, load_classifier
from purifyctl.config import AttackConfig, GateConfig, format_eps, to_dict
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.gate import CHECKPOINT, FALSE_POSITIVE_RATES, save_gate, thresholds_at
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.metrics import auroc, mean
from purifyctl.nn.gate import GateNetwork
from purifyctl.photographs import read_all, to_pixels, to_tensor
from purifyctl.sources import ImageFile, list_images
from purifyctl.sources.sketch import sketch
from purifyctl.training.batches import Batch, TrainingBatches, split
from purifyctl.training.cache import AttackCache
from purifyctl.training.mix import all_of, attack_each, draw
from purifyctl.training.workers import Workers

HELD_OUT_ATTACKS = (AttackConfig("fgsm"), AttackConfig("pgd"), AttackConfig("mi-fgsm"))
HELD_OUT_EPS = (4 / 255, 8 / 255)
LOOKED_AT = 64  # held-out photographs that are attacked for the figures
BATCH = 16
_AFTER_THE_ATTACKS = ("width", "epochs", "learning_rate", "disturbed", "validation_sizes")  # of the recipe


@dataclass(frozen=True)
class GateResult:
    checkpoint: Path
    figures: dict[str, Any]  # on held-out photographs
    seconds: float
    interrupted: bool  # by Ctrl-C, before the end; there is no checkpoint


def train_gate(config: GateConfig, photos: Path, run_dir: Path) -> GateResult:
    """Train as `config` says on the photographs under `photos`; write `gate.safetensors` and its figures.

    Attacked crops are kept in the run folder: the same call after a stop makes only those that are missing.

    Raises
    ------
    ConfigError
        Too few photographs.
    TrainingError
        The run folder holds another recipe's attacked crops, or no attack turned any held-out photograph.
    """
    started = time.monotonic()
    files = list_images(photos, skip_folder=run_dir)
    training_files, held_out_files = split(files, config.held_out, config.seed)
    if not training_files or len(held_out_files) < 1 / max(FALSE_POSITIVE_RATES):
        raise ConfigError(
            f"{photos} holds {len(files)} photographs, too few to train on and hold some out for thresholds.",
            hint="name a folder with more as --photos",
        )
    workers = Workers(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    batches = TrainingBatches(
        training_files,
        batch_size=config.batch_size,
        resize=config.resize,
        crop=config.largest,
        seed=config.seed,
        variants=config.attack_epochs,
        threads=max(2, (os.cpu_count() or 2) // 2),
    )
    classifiers = [load_classifier(c.name, c.weights).to(workers.device) for c in config.classifiers]
    decisive = {name: value for name, value in to_dict(config).items() if name not in _AFTER_THE_ATTACKS}
    digest = json.dumps([decisive, sketch(training_files)], sort_keys=True)
    places = len(training_files) * config.attack_epochs
    cache = AttackCache(run_dir / "attacked", places, config.image_size, digest, workers)
    trainer = _Trainer(config, classifiers, cache, config.epochs * batches.steps_per_epoch, workers.device)
    stream = batches.from_step(0)
    with (
        console.progress(trainer.total_steps, "training") as bar,
        drain_on_interrupt("stopping.") as interrupt,
    ):
        for step in range(trainer.total_steps):
            loss = trainer.step(next(stream), step)
            bar.advance(text=f"loss {loss:.3f}")
            if interrupt.is_set():
                stream.close()
                return GateResult(run_dir / CHECKPOINT, {}, time.monotonic() - started, interrupted=True)
    stream.close()
    net = trainer.net.eval()
    figures = judge(net, config, held_out_files, classifiers[0], workers.device)
    about = {"recipe": to_dict(config), "held_out": figures, "purifyctl": __version__, "photographs": sketch(files)}
    save_gate(run_dir / CHECKPOINT, net, figures["thresholds"], about)
    (run_dir / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return GateResult(run_dir / CHECKPOINT, figures, time.monotonic() - started, interrupted=False)


def judge(
    net: GateNetwork, config: GateConfig, held_out: list[ImageFile], classifier: Classifier, device: torch.device
) -> dict[str, Any]:
    """Calibrate the gate on held-out photographs, which changes its last layer; find its thresholds, and what it finds.

    A photograph that is made much smaller is sharper, and looks more like an attacked one. So thresholds are found at
    each of the recipe's sizes, and the highest counts; figures are of the first size.

    Raises
    ------
    TrainingError
        No attack turned any photograph: there is nothing to calibrate on.
    """
    clean = [read_all(held_out, size)[0] for size in config.validation_sizes]
    attacked = _attacked(clean[0], classifier, device)
    if not any(map(len, attacked.values())):
        raise TrainingError(
            f"No attack turned {classifier.name} on any of {len(clean[0])} held-out photographs.",
            hint="name a classifier that has learnt something, or a folder with more photographs as --photos",
        )
    logits = [_in_parts(net, x, device) for x in clean]
    found = {name: _in_parts(net, x, device) for name, x in attacked.items()}
    scale, shift = _platt(torch.cat(logits), torch.cat(list(found.values())))
    with torch.no_grad():
        net.judge.weight *= scale
        net.judge.bias.mul_(scale).add_(shift)

    def scores(of: Tensor) -> NDArray[np.float32]:
        return torch.sigmoid(of.double() * scale + shift).float().numpy()

    thresholds = thresholds_at([scores(x) for x in logits])
    return {
        "n_clean": len(clean[0]),
        "sizes": list(config.validation_sizes),
        "thresholds": thresholds,
        "attacked": {
            name: {
                "n": len(x),
                "auroc": auroc(scores(logits[0]), scores(x)),
                "tpr": {
                    rate: mean((scores(x) >= threshold).astype(np.float64)) for rate, threshold in thresholds.items()
                },
            }
            for name, x in found.items()
        },
    }


class _Trainer:
    """The gate and its optimiser. What a step draws comes from the seed and the step's number, and is the same whether
    its attacked crops are made or lie there already.
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

    def step(self, batch: Batch, step: int) -> float:
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
        """A square of a size of its own, brought to the recipe's, and some sharpened: sharpness is no attack."""
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
        kinds, budgets = draw(self._config.attacks, len(x), rng)
        kind, eps = torch.from_numpy(kinds).to(x.device), torch.from_numpy(budgets).to(x.device)
        with torch.no_grad():
            y = classifier.logits(x).argmax(1)
        return attack_each(self._config.attacks, kind, eps, all_of(x), x, y, lambda _: classifier.logits)


def _disturbed(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Clean crops, some of them compressed or noisy as photographs may be: neither is an attack."""
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


@torch.no_grad()
def _in_parts(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    return torch.cat([function(part.to(device)).cpu() for part in torch.split(x, BATCH)])


def _attacked(clean: Tensor, classifier: Classifier, device: torch.device) -> dict[str, Tensor]:
    """Some photographs under each attack: those that the classifier takes for something else then."""
    some = clean[:: max(1, len(clean) // LOOKED_AT)][:LOOKED_AT]
    y = _in_parts(lambda x: classifier(x).argmax(1), some, device)
    made = {}
    for attack in HELD_OUT_ATTACKS:
        for eps in HELD_OUT_EPS:
            parts = zip(torch.split(some, BATCH), torch.split(y, BATCH), strict=True)
            x_adv = torch.cat(
                [make_attack(attack, classifier, x.to(device), of.to(device), eps).cpu() for x, of in parts]
            )
            turned = _in_parts(lambda x: classifier(x).argmax(1), x_adv, device) != y
            made[f"{attack.name} {format_eps(eps)}"] = x_adv[turned]
    return made


def _platt(clean: Tensor, attacked: Tensor) -> tuple[float, float]:
    """Scale and shift after which sigmoid(logit) is a probability, where as many images are attacked as are not (Platt
    1999, with his targets, which keep the scale finite where the two do not overlap).
    """
    x = torch.cat([clean, attacked]).double()
    middle, spread = x.mean(), x.std()
    sizes = torch.tensor([len(clean), len(attacked)])
    weight, wanted = (
        torch.repeat_interleave(each.double(), sizes)
        for each in (0.5 / sizes, torch.stack([1 / (sizes[0] + 2), (sizes[1] + 1) / (sizes[1] + 2)]))
    )
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = found[0] * (x - middle) / spread + found[1]
        value = nn.functional.binary_cross_entropy_with_logits(logits, wanted, weight)
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scale = float(found[0].detach() / spread)
    return scale, float(found[1].detach()) - scale * float(middle)
