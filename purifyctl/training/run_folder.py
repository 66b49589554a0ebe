"""What a training writes, and what a later call reads again.

training.json            recipe and photographs
log.jsonl, tensorboard/  losses and held-out figures, and which phase they belong to
pictures/                held-out photographs, clean, attacked and purified, at every validation
purifier.safetensors     the best purifier of the phase under way, by its held-out figures (before the first validation
                         of a phase, that of the phase before); card.md says how it was made
last.safetensors         the purifier of the last validation
state.pt                 everything that a later call needs to resume
"""

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from purifyctl import console
from purifyctl.checkpoint import Checkpoint, load_purifier, save_purifier
from purifyctl.config import TrainConfig, from_dict, to_dict
from purifyctl.config.folders import PURIFIER, TRAINING, TRAINING_LOG
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.files import write_atomically, write_json
from purifyctl.images import encode
from purifyctl.settings import differences, read_settings
from purifyctl.sources import ImageFile
from purifyctl.strip import Line, draw_strip
from purifyctl.training.about import about_purifier, sketch_of
from purifyctl.training.card import write_card
from purifyctl.training.phases import PlannedPhase
from purifyctl.training.state import State, state_of
from purifyctl.training.trainer import Trainer
from purifyctl.training.validation import describe, score

LAST, STATE = "last.safetensors", "state.pt"
_ELSEWHERE = "choose another --out"
_DAMAGED = (OSError, EOFError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError)


class RunFolder:
    """The run folder of one training. All processes read it; the leading one writes it."""

    def __init__(
        self,
        path: Path,
        recipe: TrainConfig,
        phases: list[PlannedPhase],
        photographs: Sequence[ImageFile],
        photos: Path,
        start: Checkpoint | None,
    ) -> None:
        """`photographs`: all that lie under `photos`. `start`: the purifier that the training starts from.

        Nothing is read or written yet.
        """
        self.path, self.phases = path, phases
        self.weights: dict[str, str] = {}  # the SHA-256 of each classifier's weights, by the classifier's name
        self._recipe, self._start = recipe, start
        self._source = f"{len(photographs)} photographs in {photos}"
        self._photographs = photographs
        self._board: Any = None
        # in the form that it has when it is read back; where the photographs lie does not matter
        names = "\n".join(str(photograph.path) for photograph in photographs)
        self._begun = {
            "recipe": json.loads(json.dumps({**to_dict(recipe), "photos": ""})),
            "photographs": hashlib.sha256(names.encode(errors="replace")).hexdigest(),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of recipe and photographs."""
        return hashlib.sha256(json.dumps(self._begun).encode()).hexdigest()

    def restore(self) -> State:
        """Where an earlier call left the training; a new state if there was no earlier call.

        Raises
        ------
        ConfigError
            The folder holds a training with another recipe or other photographs, or a purifier and no state to
            resume from.
        TrainingError
            What it holds cannot be read.
        """
        if not (self.path / STATE).exists():
            if (self.path / PURIFIER).exists():
                why = f"{self.path} holds a purifier, and no {STATE} to resume from: the purifier would be overwritten."
                raise ConfigError(why, hint=_ELSEWHERE)
            return State()
        try:
            earlier = read_settings(self.path / TRAINING)
            # keys that were added since then have their defaults
            recipe = json.loads(json.dumps(to_dict(_recipe_of(self.path, earlier["recipe"]))))
            if changed := "; ".join(differences(recipe, self._begun["recipe"])):
                raise ConfigError(f"{self.path} holds a training with another recipe: {changed}.", hint=_ELSEWHERE)
            if earlier["photographs"] != self._begun["photographs"]:
                raise ConfigError(f"{self.path} holds a training with other photographs.", hint=_ELSEWHERE)
            self._begun = earlier
            saved = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
            return state_of(saved, self.phases)
        except _DAMAGED as error:
            raise TrainingError(f"{self.path} cannot be resumed: {error!r}", hint=_ELSEWHERE) from None

    def load_networks(self, trainer: Trainer, state: State) -> None:
        """Move saved networks from a state into the trainer. Raises TrainingError if they do not fit."""
        try:
            trainer.load_state(state.networks or {})
            state.networks = None
        except _DAMAGED as error:
            raise TrainingError(f"{self.path} cannot be resumed: {error!r}", hint=_ELSEWHERE) from None

    def begin(self, state: State) -> None:
        """Make the folder ready to write into. Lines that were logged after the last save are removed."""
        log = self.path / TRAINING_LOG
        if state.step:
            lines = [line for line in log.read_text().splitlines() if _step_of(line) <= state.step]
            write_atomically(log, "".join(f"{line}\n" for line in lines).encode())
            console.note(f"Resuming {self.path} from step {state.step}, to {self.describe_end()}.")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / TRAINING, self._begun)
            log.unlink(missing_ok=True)
            console.note(f"Training on {self._source}, to {self.describe_end()}, into {self.path}.")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            console.note("TensorBoard is not installed, so log.jsonl is the only log: pip install 'purifyctl[track]'")
        else:
            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=state.step + 1)

    def describe_end(self, phase: PlannedPhase | None = None) -> str:
        """Where a phase ends; None: the whole training."""
        end = (phase or self.phases[-1]).end
        return f"minute {end / 60:.4g} of training" if self._recipe.minutes else f"step {end:.0f}"

    def purifier_of_phase_before(self, phase: PlannedPhase) -> nn.Module:
        """The purifier that `phase` starts from: the last or the best one of the phase before."""
        return load_purifier(self.path / (LAST if phase.goes_on_from == "last" else PURIFIER)).net

    def log(self, phase: PlannedPhase, state: State, losses: Mapping[str, float]) -> None:
        """Losses of one step, each before it is weighted; "generator" is their weighted sum."""
        self._write({"step": state.step, "phase": phase.name, **self._progress(state), **losses})
        for name, value in losses.items():
            self._plot(f"loss/{name}", value, state.step)

    def _progress(self, state: State) -> dict[str, float]:
        """The share of the minutes that are over, where the recipe has minutes."""
        return {"progress": round(state.trained_s / self.phases[-1].end, 5)} if self._recipe.minutes else {}

    def measured_before(self, state: State, figures: Mapping[str, Any], lines: list[Line]) -> None:
        """Note the held-out `figures` of the purifier that the training starts from."""
        state.before = {"step": 0, "phase": "before", **figures}
        self._write({"step": 0, "phase": "before", "held_out": state.before})
        console.event("held_out", **state.before)
        console.note(f"before: {describe(figures)}")
        self._draw(0, lines)

    def keep(
        self, trainer: Trainer, state: State, figures: Mapping[str, Any], lines: list[Line], *, scheduled: bool
    ) -> dict[str, Any]:
        """Note the held-out `figures` of the trainer's purifier, and keep it if it is the best of its phase so far.

        An unscheduled validation does not change `state`: a training that is stopped and resumed must make the
        same choices as one that is not stopped. Returns the figures of the purifier that is kept.
        """
        step, phase = state.step, trainer.phase
        figures = {"step": step, "phase": phase.name, **figures}
        self._write({"step": step, "phase": phase.name, **self._progress(state), "held_out": figures})
        console.event("held_out", **figures)
        self._plot("held_out/score", score(figures), step)
        self._plot("held_out/purified_clean_top1", figures["purified_clean_top1"], step)
        for name, pair in figures["attacked"].items():
            self._plot(f"held_out/{name}", pair["purified_top1"], step)
        self._draw(step, lines)
        # the best of an earlier phase does not count: it may have been measured with other attacks
        better = state.best.get("phase") != phase.name or score(figures) > score(state.best)
        if better and (scheduled or not state.best):
            self._save_purifier(PURIFIER, trainer, figures)
        if scheduled:
            state.validations_since_best = 0 if better else state.validations_since_best + 1
            state.best = figures if better else state.best
        console.note(f"step {step}: {describe(figures)}{'' if better else ' (not the best so far)'}")
        self._save_purifier(LAST, trainer, figures)
        return state.best or figures

    def save(self, state: State, trainer: Trainer, seconds: float) -> None:
        """Save everything that a later call needs to resume. `seconds`: how long this call has been training."""
        total = state.seconds + seconds
        for phase in self.phases:
            if phase.name == state.best.get("phase"):
                write_card(
                    self.path / "card.md",
                    self._recipe,
                    phase,
                    self._source,
                    state,
                    self.weights,
                    total,
                    trainer.workers.device,
                )
        if self._board:
            self._board.flush()
        temporary = self.path / f".{STATE}.part"
        torch.save(state.to_save(trainer.state(), total), temporary)
        temporary.replace(self.path / STATE)

    def write_unreadable(self, why: Mapping[str, str]) -> Path:
        """Write which photographs could not be read. Returns the file."""
        file = self.path / "unreadable.txt"
        write_atomically(file, "".join(f"{name}: {text}\n" for name, text in sorted(why.items())).encode())
        return file

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        with (self.path / TRAINING_LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _plot(self, name: str, value: float, step: int) -> None:
        if self._board:
            self._board.add_scalar(name, value, step)

    def _draw(self, step: int, lines: list[Line]) -> None:
        folder = self.path / "pictures"
        folder.mkdir(exist_ok=True)
        picture = np.asarray(draw_strip(lines, f"Held-out photographs at step {step}"))
        file = bytes(encode(picture, "png"))
        (folder / f"step-{step:07d}.png").write_bytes(file)
        if self._board:
            from tensorboard.compat.proto.summary_pb2 import Summary

            height, width, _ = picture.shape
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file)
            # not add_image, which would encode the picture a second time, slowly
            self._board.file_writer.add_summary(Summary(value=[Summary.Value(tag="held_out", image=image)]), step)

    @cached_property
    def _sketch(self) -> str | None:
        return sketch_of(self._photographs, self._start)

    def _save_purifier(self, name: str, trainer: Trainer, figures: Mapping[str, Any]) -> None:
        about = about_purifier(
            self._recipe,
            self.phases[: trainer.phase.number + 1],
            figures,
            start=self._start,
            weights=self.weights,
            photographs=self._sketch,
            device=trainer.workers.device,
        )
        if not self._recipe.minutes:
            about["total_steps"] = int(self.phases[-1].end)
        save_purifier(self.path / name, trainer.purifier, self._recipe.network, about)


def _recipe_of(path: Path, recipe: Mapping[str, Any]) -> TrainConfig:
    """The recipe of an earlier call, perhaps of an earlier version."""
    try:
        return from_dict(TrainConfig, recipe)
    except ConfigError as error:
        raise ConfigError(f"{path} holds a training of another version: {error.message}", hint=_ELSEWHERE) from None


def _step_of(line: str) -> float:
    """The step of a logged line; infinite if a full disk or a lost machine cut the line short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
