"""The training loop: from a recipe and photographs to a run folder."""

import functools
import os
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from purifyctl import console, devices
from purifyctl.checkpoint import Checkpoint
from purifyctl.config import TrainConfig
from purifyctl.config.folders import PURIFIER
from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.errors import ConfigError
from purifyctl.samples import copy_samples
from purifyctl.sources import list_images
from purifyctl.training.batches import split
from purifyctl.training.cache import AttackCache
from purifyctl.training.phases import PlannedPhase, plan_phases
from purifyctl.training.prepare import (
    batch_size_of,
    batches_of,
    checkpoint_to_start_from,
    fastest_precision,
    in_square_of,
    load_classifiers,
    warn_if_small,
    weights_of,
)
from purifyctl.training.run_folder import RunFolder
from purifyctl.training.state import State
from purifyctl.training.trainer import Trainer
from purifyctl.training.validation import Validation
from purifyctl.training.workers import Workers, together
from purifyctl.waiting import progress

SAVE_EVERY_S = 300.0  # seconds of work that a kill may cost
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainResult:
    checkpoint: Path  # purifier.safetensors, the best one by `held_out`
    steps: int
    seconds: float  # of this call
    held_out: dict[str, Any]  # the best purifier's accuracies, in [0, 1], on photographs that were never trained on
    before: dict[str, Any]  # the same of the purifier that the training started from; empty: its weights were new
    interrupted: bool  # by Ctrl-C; what was done is saved


def train_recipe(
    config: TrainConfig,
    run_dir: Path,
    *,
    max_steps: int | None = None,
    processes: int = 1,
    pictures: PictureOptions = DEFAULTS,
    device: str = "auto",
) -> TrainResult:
    """`train` on the photographs that the recipe itself names: a folder, or "samples"."""
    if not config.photos:
        raise ConfigError("The recipe names no photographs.", hint="pass --photos DIR")
    photos = Path(config.photos)
    if config.photos == "samples":
        photos = run_dir / "photos"
        n = copy_samples(photos)
        console.note(f"Training on {n} sample photographs: enough to see that it works, not to get a good purifier.")
    return train(config, photos, run_dir, max_steps=max_steps, processes=processes, pictures=pictures, device=device)


def train(
    config: TrainConfig,
    photos: Path,
    run_dir: Path,
    *,
    max_steps: int | None = None,
    processes: int = 1,
    pictures: PictureOptions = DEFAULTS,
    device: str = "auto",
) -> TrainResult:
    """Train as `config` says on the photographs under `photos`; write checkpoint, log and state into `run_dir`.

    If a run folder holds an unfinished training of the same recipe, that training continues from its last saved step.

    Parameters
    ----------
    photos
        A folder tree of photographs, or of archives of photographs, or one archive.
    max_steps
        Save and stop after this step of the training; the next call continues from there.
    processes
        How many train together, on this machine. Where torchrun has started some, 1.
    pictures
        Which photographs are refused, and how colours and transparency are shown.
    device
        `--device`.

    Raises
    ------
    ConfigError
        The device cannot be used, there are too few photographs, or the run folder holds another recipe's training.
    TrainingError
        The loss is no longer a number, no photograph can be read, or another process failed.
    """
    gpus = devices.place(device, say=os.environ.get("LOCAL_RANK", "0") == "0").gpus
    return together(processes, functools.partial(_train, config, photos, run_dir, max_steps, pictures), gpus)


def _train(
    recipe: TrainConfig,
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
    training_files, held_out_files = split(files, recipe.held_out, recipe.seed)
    batch_size = batch_size_of(recipe, len(training_files), len(files), photos, workers)
    steps_per_epoch = len(training_files) // batch_size
    classifiers = load_classifiers(recipe, workers.device)
    start = checkpoint_to_start_from(recipe)
    config = in_square_of(classifiers[recipe.classifiers[0]], recipe)

    # where an earlier call stopped
    folder = RunFolder(run_dir, recipe, plan_phases(config, steps_per_epoch), files, photos, start)
    folder.weights = weights_of(classifiers)
    state = folder.restore()
    if workers.any_of(state.step != workers.largest(state.step)):
        raise ConfigError(f"The processes find different steps in {run_dir}.", hint="put --out on storage they share")
    last_step = max_steps or float("inf")

    def place() -> float:
        return state.trained_s if config.minutes else state.step

    def patience_is_over() -> bool:
        return bool(config.patience) and state.validations_since_best >= config.patience

    def is_over(phase: PlannedPhase) -> bool:
        return state.phase > phase.number or (
            state.phase == phase.number and (place() >= phase.end or patience_is_over())
        )

    if state.best and (is_over(folder.phases[-1]) or state.step >= last_step):
        console.note(f"{run_dir} is finished, at step {state.step}.")
        return TrainResult(run_dir / PURIFIER, state.step, 0.0, state.best, state.before, False)

    # what is measured on this machine
    if not state.precision and (config.minutes or config.precision == "auto"):
        first = folder.phases[0]
        guides = [classifiers[chosen] for chosen in first.config.classifiers]
        state.precision = fastest_precision(first, guides, workers, start.net if start else None, batch_size)
    config = replace(config, precision=state.precision or config.precision)
    phases = plan_phases(config, steps_per_epoch)
    if workers.leads:
        warn_if_small(held_out_files, max(phase.config.image_size for phase in phases))
        folder.begin(state)
    cache: AttackCache | None = None
    if config.cached_attacks:
        places = len(training_files) * config.cached_attacks
        cache = AttackCache(run_dir / "attacked", places, config.image_size, folder.digest, workers)

    kept = state.best
    saved = time.monotonic()
    interrupted = False
    validation: Validation | None = None
    unreadable: dict[str, str] = {}
    expected = 0 if config.minutes else int(min(phases[-1].end, last_step))
    with (
        progress(expected, "training", done=state.step) as bar,
        workers.interrupts("saving this step.") as interrupt,
        closing(folder),
    ):
        for phase in phases[state.phase :]:
            if kept and is_over(phase):
                continue
            if phase.number > state.phase:
                if interrupted or max(phase.begin, state.step if config.minutes else 0) >= last_step:
                    break
                state.begin_phase(phase)
            if config.phases:
                console.note(f"Phase {phase.name}: to {folder.describe_end(phase)}.")

            # the phase's networks, as they were saved, or as the phase begins
            purifier = _purifier_that_begins(phase, state, folder, start, workers)
            chosen_classifiers = [classifiers[chosen] for chosen in phase.config.classifiers]
            trainer = Trainer(phase, chosen_classifiers, workers, purifier, cache, state.first_step)
            if state.networks is not None:
                folder.load_networks(trainer, state)
            elif workers.leads and phase.number:  # from here on, nothing of the phase before is needed
                folder.save(state, trainer, time.monotonic() - started)
            if workers.leads:
                bar.show("attacking held-out photographs")
                with workers.alone():
                    validation = Validation.of(
                        phase.config, held_out_files, chosen_classifiers[0], pictures, validation
                    )
                    if start and not state.before:
                        folder.measured_before(state, *validation.measure(start.net.to(workers.device)))

            batches = batches_of(phase.config, training_files, batch_size, pictures, workers)
            with closing(batches.from_step(state.step - state.first_step)) as stream:
                stop = False
                while place() < phase.end and state.step < last_step and not stop:
                    # load
                    began = time.monotonic()
                    batch = next(stream)

                    # step
                    losses = trainer.step(batch.x.to(workers.device), state.step, batch.places, place())
                    state.step += 1
                    # every process must leave at the same step, and read the same clock: the leading one's, because
                    # the others also wait here while it validates
                    answers = workers.largest_of([interrupt.is_set(), workers.leads * (time.monotonic() - began)])
                    interrupted = bool(answers[0])
                    state.trained_s += answers[1]
                    left_s = max(0.0, phases[-1].end - state.trained_s) if config.minutes else None
                    bar.advance(text=f"step {state.step:,}, loss {losses['generator']:.3f}", left_s=left_s)
                    period = steps_per_epoch * phase.config.validate_every
                    within = not config.minutes and (state.step - state.first_step) % period == 0
                    scheduled = place() >= phase.end or within

                    if validation:  # the leading process
                        # log
                        if state.step % LOG_EVERY == 0 or place() >= phases[-1].end or state.step == last_step:
                            folder.log(phase, state, losses)
                        if interrupted:  # save first: there may not be much time
                            folder.save(state, trainer, time.monotonic() - started)

                        # validate
                        due = scheduled or state.step == last_step or (interrupted and not kept)
                        if due:
                            bar.show("validating")
                            with workers.alone():
                                found = validation.measure(trainer.purifier)
                            kept = folder.keep(trainer, state, *found, scheduled=scheduled)

                        # save
                        if due or time.monotonic() - saved > SAVE_EVERY_S:
                            folder.save(state, trainer, time.monotonic() - started)
                            saved = time.monotonic()
                    stop = interrupted or (scheduled and workers.any_of(patience_is_over()))
            unreadable |= batches.unreadable
            if validation and not kept:  # an earlier call did these steps, and none of them was a scheduled validation
                kept = folder.keep(trainer, state, *validation.measure(trainer.purifier), scheduled=False)
            if patience_is_over():
                console.note(
                    f"No better purifier in {config.patience} validations: stopped at step {state.step}, kept the best."
                )
    unreadable = workers.gather(unreadable)
    if unreadable and workers.leads:
        file = folder.write_unreadable(unreadable)
        n = len(unreadable)
        console.warn(f"{n:,} photograph{'s' * (n != 1)} could not be read: {file}")
    return TrainResult(run_dir / PURIFIER, state.step, time.monotonic() - started, kept, state.before, interrupted)


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
