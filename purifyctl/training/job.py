"""From a recipe and photographs to a run folder: the training loop."""

import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from purifyctl import console
from purifyctl.classifiers import load_classifier
from purifyctl.config import TrainConfig
from purifyctl.errors import ConfigError
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.samples import copy_samples
from purifyctl.sources import list_images
from purifyctl.training.batches import TrainingBatches, split
from purifyctl.training.cache import AttackCache
from purifyctl.training.run_folder import CHECKPOINT, RunFolder
from purifyctl.training.trainer import Trainer
from purifyctl.training.validation import Validation
from purifyctl.training.workers import Workers, join_workers

SAVE_EVERY_S = 300.0  # seconds of work that a kill may cost
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainResult:
    checkpoint: Path  # purifier.safetensors, the best one by `held_out`
    steps: int
    seconds: float  # of this call
    held_out: dict[str, Any]  # the best purifier's accuracies, in [0, 1], on photographs that were never trained on
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
    photos
        A folder tree of photographs, or of tar shards of photographs, or one shard.
    max_steps
        Stop after this step of the schedule, saving; calling again goes on from there.

    Raises
    ------
    ConfigError
        Too few photographs, or a run folder that holds another recipe's training.
    TrainingError
        The loss is no longer a number, or no photograph can be read.
    """
    with join_workers() as workers:
        return _train(config, photos, run_dir, max_steps, workers)


def _train(config: TrainConfig, photos: Path, run_dir: Path, max_steps: int | None, workers: Workers) -> TrainResult:
    started = time.monotonic()
    if run_dir.resolve() == photos.resolve():
        raise ConfigError("--out is the folder of the photographs.", hint="choose another --out")
    files = list_images(photos, skip_folder=run_dir)
    training_files, held_out_files = split(files, config.held_out, config.seed)
    if len(training_files) < 1:
        raise ConfigError(
            f"{photos} holds {len(files)} photographs; that is too few to train on and hold some out.",
            hint="name a folder with more as --photos",
        )
    batch_size = min(config.batch_size, len(training_files))
    if batch_size < config.batch_size:
        console.note(f"There are fewer photographs than in a batch of {config.batch_size}: batches hold {batch_size}.")
    if batch_size % workers.count:
        raise ConfigError(
            f"A batch of {batch_size} cannot be shared evenly by {workers.count} processes.",
            hint="make batch_size a multiple of --nproc-per-node",
        )
    batches = TrainingBatches(
        training_files,
        batch_size=batch_size,
        resize=config.resize,
        crop=config.image_size,
        seed=config.seed,
        variants=config.cached_attacks,
        rank=workers.rank,
        count=workers.count,
        threads=max(2, (os.cpu_count() or 2) // (2 * workers.count)),
    )
    classifiers = [load_classifier(chosen.name, chosen.weights) for chosen in config.classifiers]
    classifiers = [c.to(workers.device).to(memory_format=torch.channels_last) for c in classifiers]
    total_steps = config.epochs * batches.steps_per_epoch
    trainer = Trainer(config, classifiers, total_steps, workers)
    folder = RunFolder(run_dir, config, trainer, files, photos)
    step, last_step = folder.step, min(total_steps, max_steps or total_steps)
    if workers.any_of(step != workers.largest(step)):
        raise ConfigError(f"The processes find different steps in {run_dir}.", hint="put --out on storage they share")

    def patience_is_over() -> bool:
        return bool(config.patience) and folder.looks_since_best >= config.patience

    if folder.best and (step >= last_step or patience_is_over()):
        console.note(f"{run_dir} is finished, at step {step}.")
        return TrainResult(run_dir / CHECKPOINT, step, 0.0, folder.best, False)
    held_out: Validation | None = None
    if workers.leads:
        folder.begin()
        held_out = Validation(config, held_out_files, classifiers[0], workers.device)
    if config.cached_attacks:
        places = len(training_files) * config.cached_attacks
        trainer.cache = AttackCache(run_dir / "attacked", places, config.image_size, folder.digest, workers)

    kept = folder.best
    saved = time.monotonic()
    interrupted = stop = False
    with (
        console.progress(last_step, "training", done=step) as bar,
        closing(batches.from_step(step)) as stream,
        drain_on_interrupt("saving this step.") as interrupt,
        closing(folder),
    ):
        while step < last_step and not stop:
            batch = next(stream)
            losses = trainer.step(batch.x.to(workers.device), step, batch.places)
            step += 1
            bar.advance(text=f"loss {losses['generator']:.3f}")
            interrupted = workers.any_of(interrupt.is_set())  # every process must leave at the same step
            scheduled = step == total_steps or step % (batches.steps_per_epoch * config.validate_every) == 0
            if held_out:
                if step % LOG_EVERY == 0 or step == last_step:
                    folder.log(step, losses)
                if interrupted:  # first: there may not be much time
                    folder.save(step, time.monotonic() - started)
                if scheduled or step == last_step or (interrupted and not kept):
                    kept = folder.look(step, *held_out.measure(trainer.purifier), scheduled=scheduled)
                    folder.save(step, time.monotonic() - started)
                    saved = time.monotonic()
                elif time.monotonic() - saved > SAVE_EVERY_S:
                    folder.save(step, time.monotonic() - started)
                    saved = time.monotonic()
            stop = interrupted or (scheduled and workers.any_of(patience_is_over()))
        if held_out and not kept:  # there was nothing left to do before the next look
            kept = folder.look(step, *held_out.measure(trainer.purifier), scheduled=False)
    if patience_is_over():
        console.note(f"No better purifier in {config.patience} looks: stopped at step {step}, kept the best.")
    if batches.unreadable and workers.leads:
        file = folder.tell_unreadable(batches.unreadable)
        console.warn(f"{len(batches.unreadable)} photographs could not be read: {file}")
    return TrainResult(run_dir / CHECKPOINT, step, time.monotonic() - started, kept, interrupted)
