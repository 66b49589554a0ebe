"""The training loop: from a recipe and photographs to a run folder."""

import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from purifyctl import console
from purifyctl.checkpoint import Checkpoint, load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import TrainConfig
from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.errors import ConfigError
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.samples import copy_samples
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import ImageFile, list_images
from purifyctl.training.batches import TrainingBatches, split
from purifyctl.training.cache import AttackCache
from purifyctl.training.phases import PlannedPhase, plan_phases
from purifyctl.training.run_folder import CHECKPOINT, RunFolder, State
from purifyctl.training.trainer import Trainer
from purifyctl.training.validation import Validation
from purifyctl.training.workers import Workers, join_workers
from purifyctl.waiting import progress

SAVE_EVERY_S = 300.0  # seconds of work that a kill may cost
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainResult:
    checkpoint: Path  # purifier.safetensors, the best one by `held_out`
    steps: int
    seconds: float  # of this call
    held_out: dict[str, Any]  # the best purifier's accuracies, in [0, 1], on photographs that were never trained on
    interrupted: bool  # by Ctrl-C; what was done is saved


def train_recipe(
    config: TrainConfig, run_dir: Path, *, max_steps: int | None = None, pictures: PictureOptions = DEFAULTS
) -> TrainResult:
    """`train` on the photographs that the recipe itself names: a folder, or "samples"."""
    if not config.photos:
        raise ConfigError("The recipe names no photographs.", hint="pass --photos DIR")
    photos = Path(config.photos)
    if config.photos == "samples":
        photos = run_dir / "photos"
        n = copy_samples(photos)
        console.note(f"Training on {n} sample photographs: enough to see that it works, not to get a good purifier.")
    return train(config, photos, run_dir, max_steps=max_steps, pictures=pictures)


def train(
    config: TrainConfig,
    photos: Path,
    run_dir: Path,
    *,
    max_steps: int | None = None,
    pictures: PictureOptions = DEFAULTS,
) -> TrainResult:
    """Train as `config` says on the photographs under `photos`; write checkpoint, log and state into `run_dir`.

    If a run folder holds an unfinished training of the same recipe, that training continues from its last saved step.

    Parameters
    ----------
    photos
        A folder tree of photographs, or of archives of photographs, or one archive.
    max_steps
        Save and stop after this step of the training; the next call continues from there.
    pictures
        Which photographs are refused, and how colours and transparency are shown.

    Raises
    ------
    ConfigError
        There are too few photographs, or the run folder holds another recipe's training.
    TrainingError
        The loss is no longer a number, or no photograph can be read.
    """
    with join_workers() as workers:
        return _train(config, photos, run_dir, max_steps, pictures, workers)


def _train(
    config: TrainConfig,
    photos: Path,
    run_dir: Path,
    max_steps: int | None,
    pictures: PictureOptions,
    workers: Workers,
) -> TrainResult:
    started = time.monotonic()

    # what to train on, and with which networks
    if run_dir.resolve() == photos.resolve():
        raise ConfigError("--out is the folder of the photographs.", hint="choose another --out")
    files = list_images(photos, skip_folder=run_dir)
    training_files, held_out_files = split(files, config.held_out, config.seed)
    batches = _batches(config, training_files, len(files), photos, pictures, workers)
    phases = plan_phases(config, batches.steps_per_epoch)
    last_step = min(phases[-1].end, max_steps or phases[-1].end)
    classifiers = {chosen: load_classifier(chosen) for chosen in config.classifiers}
    for chosen, classifier in classifiers.items():
        classifiers[chosen] = classifier.to(workers.device).to(memory_format=torch.channels_last)
    start = _checkpoint_to_start_from(config) if config.start else None

    # where an earlier call stopped
    folder = RunFolder(run_dir, config, phases, files, photos, start)
    state = folder.restore()
    if workers.any_of(state.step != workers.largest(state.step)):
        raise ConfigError(f"The processes find different steps in {run_dir}.", hint="put --out on storage they share")

    def patience_is_over() -> bool:
        return bool(config.patience) and state.validations_since_best >= config.patience

    def is_over(phase: PlannedPhase) -> bool:
        return state.phase > phase.number or (
            state.phase == phase.number and (state.step >= phase.end or patience_is_over())
        )

    if state.best and (is_over(phases[-1]) or state.step >= last_step):
        console.note(f"{run_dir} is finished, at step {state.step}.")
        return TrainResult(run_dir / CHECKPOINT, state.step, 0.0, state.best, False)
    if workers.leads:
        folder.begin(state)
    cache: AttackCache | None = None
    if config.cached_attacks:
        places = len(training_files) * config.cached_attacks
        cache = AttackCache(run_dir / "attacked", places, config.image_size, folder.digest, workers)

    kept = state.best
    saved = time.monotonic()
    interrupted = False
    with (
        progress(last_step, "training", done=state.step) as bar,
        drain_on_interrupt("saving this step.") as interrupt,
        closing(folder),
    ):
        for phase in phases[state.phase :]:
            if kept and is_over(phase):
                continue
            if phase.number > state.phase:
                if interrupted or phase.begin >= last_step:
                    break
                state.begin_phase(phase)
            if config.phases:
                console.note(f"Phase {phase.name}: to step {phase.end}.")

            # the phase's networks, as they were saved, or as the phase begins
            purifier = _purifier_that_begins(phase, state, folder, start, workers)
            chosen_classifiers = [classifiers[chosen] for chosen in phase.config.classifiers]
            trainer = Trainer(phase, chosen_classifiers, workers, purifier, cache)
            if state.networks is not None:
                folder.load_networks(trainer, state)
            elif workers.leads and phase.number:  # from here on, nothing of the phase before is needed
                folder.save(state, trainer, time.monotonic() - started)
            validation: Validation | None = None
            if workers.leads:
                validation = Validation(phase.config, held_out_files, chosen_classifiers[0], workers.device, pictures)

            with closing(batches.from_step(state.step - phase.begin)) as stream:
                stop = False
                while state.step < min(phase.end, last_step) and not stop:
                    # load
                    batch = next(stream)

                    # step
                    losses = trainer.step(batch.x.to(workers.device), state.step, batch.places)
                    state.step += 1
                    bar.advance(text=f"loss {losses['generator']:.3f}")
                    interrupted = workers.any_of(interrupt.is_set())  # every process must leave at the same step
                    period = batches.steps_per_epoch * phase.config.validate_every
                    scheduled = state.step == phase.end or (state.step - phase.begin) % period == 0

                    if validation:  # the leading process
                        # log
                        if state.step % LOG_EVERY == 0 or state.step == last_step:
                            folder.log(phase, state.step, losses)
                        if interrupted:  # save first: there may not be much time
                            folder.save(state, trainer, time.monotonic() - started)

                        # validate
                        due = scheduled or state.step == last_step or (interrupted and not kept)
                        if due:
                            bar.show("validating")
                            kept = folder.keep(
                                trainer, state, *validation.measure(trainer.purifier), scheduled=scheduled
                            )

                        # save
                        if due or time.monotonic() - saved > SAVE_EVERY_S:
                            folder.save(state, trainer, time.monotonic() - started)
                            saved = time.monotonic()
                    stop = interrupted or (scheduled and workers.any_of(patience_is_over()))
            if validation and not kept:  # an earlier call did these steps, and none of them was a scheduled validation
                kept = folder.keep(trainer, state, *validation.measure(trainer.purifier), scheduled=False)
            if patience_is_over():
                console.note(
                    f"No better purifier in {config.patience} validations: stopped at step {state.step}, kept the best."
                )
    if batches.unreadable and workers.leads:
        file = folder.write_unreadable(batches.unreadable)
        console.warn(f"{len(batches.unreadable)} photographs could not be read: {file}")
    return TrainResult(run_dir / CHECKPOINT, state.step, time.monotonic() - started, kept, interrupted)


def _batches(
    config: TrainConfig,
    training_files: list[ImageFile],
    n_files: int,
    photos: Path,
    pictures: PictureOptions,
    workers: Workers,
) -> TrainingBatches:
    """This process's share of the batches."""
    if len(training_files) < 1:
        raise ConfigError(
            f"{photos} holds {n_files} photographs; that is too few to train on and hold some out.",
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
    return TrainingBatches(
        training_files,
        batch_size=batch_size,
        resize=config.resize,
        crop=config.image_size,
        seed=config.seed,
        variants=config.cached_attacks,
        rank=workers.rank,
        count=workers.count,
        threads=max(2, (os.cpu_count() or 2) // (2 * workers.count)),
        pictures=pictures,
    )


def _checkpoint_to_start_from(config: TrainConfig) -> Checkpoint:
    path = shipped_checkpoint() if config.start == "shipped" else Path(config.start)
    purifier = load_purifier(path)
    if purifier.network != config.network:
        raise ConfigError(
            f"{path} holds a {purifier.network.kind} network of width {purifier.network.width} and depth "
            f"{purifier.network.depth}; the recipe describes another.",
            hint="make [network] in the recipe the same, or start from another checkpoint",
        )
    return purifier


def _purifier_that_begins(
    phase: PlannedPhase, state: State, folder: RunFolder, start: Checkpoint | None, workers: Workers
) -> nn.Module | None:
    """The purifier whose weights `phase` begins with; None: new weights, or those that `state` holds."""
    if state.networks is not None:
        return None
    if not phase.number:
        return start.net if start else None
    workers.largest(0)  # the leading process has written it once all are here
    return folder.purifier_of_phase_before(phase)
