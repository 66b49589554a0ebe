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
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl import console
from purifyctl.checkpoint import save_purifier
from purifyctl.config import TrainConfig, to_dict
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.images import ImageFile
from purifyctl.images.sink import write_atomically
from purifyctl.images.sketch import sketch
from purifyctl.strip import Line, draw_strip
from purifyctl.training.card import write_card
from purifyctl.training.trainer import Trainer
from purifyctl.validation import describe, score

CHECKPOINT = "purifier.safetensors"


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
        self._sketch = sketch(photographs)
        self._board: Any = None
        # as it reads back; where the photographs lie does not matter
        recipe = json.loads(json.dumps({**to_dict(config), "photos": ""}))
        names = "\n".join(str(photograph.path) for photograph in photographs)
        self._begun = {
            "recipe": recipe,
            "photographs": hashlib.sha256(names.encode(errors="replace")).hexdigest(),
        }
        self.digest = hashlib.sha256(json.dumps(self._begun).encode()).hexdigest()  # of recipe and photographs
        if (path / "state.pt").exists():
            self._go_on()

    def _go_on(self) -> None:
        try:
            earlier = json.loads((self.path / "training.json").read_text())
            for key, what in (("recipe", "another recipe"), ("photographs", "other photographs")):
                if earlier.get(key) != self._begun[key]:
                    raise ConfigError(f"{self.path} holds a training with {what}.", hint="choose another --out")
            saved = torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)
            self._trainer.load_state(saved["networks"])
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
            self.best, self.looks_since_best = json.loads(saved["best"]), int(saved["looks_since_best"])
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path} cannot be gone on with: {error!r}", hint="choose another --out") from None

    def begin(self) -> None:
        """Make the folder ready to write into. Logged lines that came after the last save are taken back."""
        log = self.path / "log.jsonl"
        if self.step:
            lines = [line for line in log.read_text().splitlines() if _step_of(line) <= self.step]
            write_atomically(log, "".join(f"{line}\n" for line in lines).encode())
            console.note(f"Going on with {self.path} from step {self.step} of {self._trainer.total_steps}.")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "training.json").write_text(json.dumps(self._begun, indent=2) + "\n")
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
        if better:
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
        temporary = self.path / ".state.pt.part"
        torch.save(saved, temporary)
        temporary.replace(self.path / "state.pt")

    def tell_unreadable(self, names: Sequence[str]) -> None:
        """Leave on record which photographs could not be read."""
        write_atomically(self.path / "unreadable.txt", "".join(f"{name}\n" for name in names).encode(errors="replace"))

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

    def _save_purifier(self, name: str, figures: Mapping[str, Any]) -> None:
        about = {
            "recipe": to_dict(self._config),
            "step": figures["step"],
            "total_steps": self._trainer.total_steps,
            "held_out": dict(figures),
            "versions": {
                "purifyctl": purifyctl.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "device": str(self._trainer.workers.device),
            "photographs": self._sketch,
        }
        save_purifier(self.path / name, self._trainer.purifier, self._config.network, about)


def _step_of(line: str) -> float:
    """The step of a logged line; infinite for one that was cut short by a full disk or a lost machine."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
