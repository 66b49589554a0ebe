"""What a training leaves on disk, and finds there again.

training.json            recipe and photographs
log.jsonl, tensorboard/  losses and held-out figures
pictures/                held-out photographs, clean, attacked and purified, at every look
purifier.safetensors     the best purifier by its held-out figures; card.md says how it was made
last.safetensors         the purifier of the last look
state.pt                 everything that going on needs
"""

import hashlib
import json
import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl import console
from purifyctl.checkpoint import save_purifier
from purifyctl.config import TrainConfig, from_dict, to_dict
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.files import write_atomically, write_json
from purifyctl.settings import differences
from purifyctl.sources import ImageFile
from purifyctl.sources.sketch import merge, sketch
from purifyctl.strip import Line, draw_strip
from purifyctl.training.card import write_card
from purifyctl.training.trainer import Trainer
from purifyctl.training.validation import describe, score

CHECKPOINT, STATE = "purifier.safetensors", "state.pt"
_ELSEWHERE = "choose another --out"


class RunFolder:
    """The run folder of one training, as its leading process keeps it.

    Attributes
    ----------
    step
        Steps that are done and saved.
    best
        The held-out figures of the best purifier so far; empty before the first look.
    looks_since_best
        How many looks have passed since.
    """

    def __init__(
        self, path: Path, config: TrainConfig, trainer: Trainer, photographs: Sequence[ImageFile], photos: Path
    ) -> None:
        """Load what an earlier call left in `path`, if anything. `photographs` are all that lie under `photos`.

        Raises
        ------
        ConfigError
            The folder holds a training with another recipe or other photographs.
        TrainingError
            What it holds cannot be read.
        """
        self.path = path
        self.step = 0
        self.best: dict[str, Any] = {}
        self.looks_since_best = 0
        self.seconds = 0.0  # of earlier calls
        self._config, self._trainer = config, trainer
        self._source = f"{len(photographs)} photographs in {photos}"
        self._photographs = photographs
        self._board: Any = None
        # as it reads back; where the photographs lie does not matter
        names = "\n".join(str(photograph.path) for photograph in photographs)
        self._begun = {
            "recipe": json.loads(json.dumps({**to_dict(config), "photos": ""})),
            "photographs": hashlib.sha256(names.encode(errors="replace")).hexdigest(),
        }
        if (path / STATE).exists():
            self._go_on()
        elif (path / CHECKPOINT).exists():
            raise ConfigError(
                f"{path} holds a purifier, and no {STATE} to go on from: it would be written over.",
                hint="choose another --out",
            )
        self.digest = hashlib.sha256(json.dumps(self._begun).encode()).hexdigest()  # of recipe and photographs

    def _go_on(self) -> None:
        try:
            earlier = json.loads((self.path / "training.json").read_text())
            # keys that came to be since then have their defaults
            recipe = json.loads(json.dumps(to_dict(from_dict(TrainConfig, earlier["recipe"]))))
            if changed := "; ".join(differences(recipe, self._begun["recipe"])):
                raise ConfigError(f"{self.path} holds a training with another recipe: {changed}.", hint=_ELSEWHERE)
            if earlier["photographs"] != self._begun["photographs"]:
                raise ConfigError(f"{self.path} holds a training with other photographs.", hint=_ELSEWHERE)
            self._begun = earlier
            saved = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
            self._trainer.load_state(saved["networks"])
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
            self.best, self.looks_since_best = json.loads(saved["best"]), int(saved["looks_since_best"])
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path} cannot be gone on with: {error!r}", hint=_ELSEWHERE) from None

    def begin(self) -> None:
        """Make the folder ready to write into. Logged lines that came after the last save are taken back."""
        log = self.path / "log.jsonl"
        if self.step:
            lines = [line for line in log.read_text().splitlines() if _step_of(line) <= self.step]
            write_atomically(log, "".join(f"{line}\n" for line in lines).encode())
            console.note(f"Going on with {self.path} from step {self.step} of {self._trainer.total_steps}.")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "training.json", self._begun)
            log.unlink(missing_ok=True)
            console.note(f"Training on {self._source}, {self._trainer.total_steps} steps, into {self.path}.")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            console.note("TensorBoard is not installed, so log.jsonl is the only log: pip install 'purifyctl[track]'")
        else:
            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=self.step + 1)

    def log(self, step: int, losses: Mapping[str, float]) -> None:
        """Losses of one step, each before it is weighted; "generator" is their weighted sum."""
        self._write({"step": step, **losses})
        for name, value in losses.items():
            self._plot(f"loss/{name}", value, step)

    def look(self, step: int, figures: Mapping[str, Any], lines: list[Line], *, scheduled: bool) -> dict[str, Any]:
        """Note the held-out `figures` of the purifier at `step`, and keep it if it is the best so far.

        A look that the schedule has no place for does not count towards `best`: a training that is stopped and gone on
        with must not choose differently from one that is not. Returns the figures of the purifier that is kept.
        """
        figures = {"step": step, **figures}
        self._write({"step": step, "held_out": figures})
        console.event("held_out", **figures)
        self._plot("held_out/score", score(figures), step)
        self._plot("held_out/purified_clean_top1", figures["purified_clean_top1"], step)
        for name, pair in figures["attacked"].items():
            self._plot(f"held_out/{name}", pair["purified_top1"], step)
        self._draw(step, lines)
        better = not self.best or score(figures) > score(self.best)
        if better and (scheduled or not self.best):
            self._save_purifier(CHECKPOINT, figures)
        if scheduled:
            self.looks_since_best = 0 if better else self.looks_since_best + 1
            self.best = figures if better else self.best
        console.note(f"step {step}: {describe(figures)}{'' if better else ' (not the best so far)'}")
        self._save_purifier("last.safetensors", figures)
        return self.best or figures

    def save(self, step: int, seconds: float) -> None:
        """Save what going on needs. `seconds`: how long this call has been training."""
        self.step = step
        write_card(self.path / "card.md", self._config, self._source, self.best, self.seconds + seconds, step)
        saved = {
            "networks": self._trainer.state(),
            "step": step,
            "seconds": self.seconds + seconds,
            "best": json.dumps(self.best),
            "looks_since_best": self.looks_since_best,
        }
        if self._board:
            self._board.flush()
        temporary = self.path / f".{STATE}.part"
        torch.save(saved, temporary)
        temporary.replace(self.path / STATE)

    def tell_unreadable(self, why: Mapping[str, str]) -> Path:
        """Leave on record which photographs could not be read. Returns the file."""
        file = self.path / "unreadable.txt"
        write_atomically(file, "".join(f"{name}: {text}\n" for name, text in sorted(why.items())).encode())
        return file

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        with (self.path / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _plot(self, name: str, value: float, step: int) -> None:
        if self._board:
            self._board.add_scalar(name, value, step)

    def _draw(self, step: int, lines: list[Line]) -> None:
        folder = self.path / "pictures"
        folder.mkdir(exist_ok=True)
        picture = draw_strip(lines, f"Held-out photographs at step {step}")
        picture.save(folder / f"step-{step:07d}.png")
        if self._board:
            import numpy as np

            self._board.add_image("held_out", np.asarray(picture), step, dataformats="HWC")

    @cached_property
    def _sketch(self) -> str | None:
        """Of all photographs that ever shaped the purifier; None where it started from one that does not tell."""
        mine = sketch(self._photographs)
        if start := self._trainer.start:
            return merge([mine, start.photographs]) if start.photographs is not None else None
        return mine

    def _save_purifier(self, name: str, figures: Mapping[str, Any]) -> None:
        before = self._trainer.start.guided_by if self._trainer.start else []
        guides = list(dict.fromkeys([*before, *(classifier.name for classifier in self._config.classifiers)]))
        about = {
            "recipe": to_dict(_without_places(self._config)),
            "step": figures["step"],
            "total_steps": self._trainer.total_steps,
            "held_out": dict(figures),
            "versions": {
                "purifyctl": purifyctl.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "device": str(self._trainer.workers.device),
            "guided_by": guides,
            "photographs": self._sketch,
        }
        save_purifier(self.path / name, self._trainer.purifier, self._config.network, about)


def _without_places(config: TrainConfig) -> TrainConfig:
    """The recipe with the names of files instead of their paths: a checkpoint travels, and folders do not."""

    def name(file: str) -> str:
        return Path(file).name if Path(file).exists() else file

    objective = replace(config.objective, perceptual_weights=name(config.objective.perceptual_weights))
    classifiers = tuple(replace(classifier, weights=name(classifier.weights)) for classifier in config.classifiers)
    return replace(config, photos="", start=name(config.start), classifiers=classifiers, objective=objective)


def _step_of(line: str) -> float:
    """The step of a logged line; infinite for one that was cut short by a full disk or a lost machine."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
