"""The model card: how a purifier was made, and what is known about it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from purifyctl import __version__
from purifyctl.config import TrainConfig, to_dict
from purifyctl.machine import machine
from purifyctl.metrics import Share
from purifyctl.training.objectives.perceptual import describe_perceptual
from purifyctl.training.phases import PlannedPhase

_CARD = """# Purifier card

{network}, trained by purifyctl {version} on {source},
{share:.0%} of them held out. Step {step}; the purifier that is kept is that of step {best_step}{of_phase}.
{minutes:.0f} minutes on {hardware}; torch {torch}; seed {seed}.

- Classifiers that were attacked and guided it: {classifiers}.
- Features of the perceptual loss: {perceptual}.

## Held-out figures

Top-1 of {first} on {n} held-out photographs of the same folder, {labels}, at {size}x{size},
with 95 % Wilson intervals. Gray-box attacks know the classifier, not the purifier; attacks in rows that say "adaptive"
go through both. These figures chose the step that was kept, so they flatter it: measure with `purifyctl evaluate` on
photographs from elsewhere.

| | unpurified | purified |
|---|---|---|
{rows}

**An attacker who knows the purifier can attack through it.** `purifyctl evaluate` measures that too.

## Recipe

```json
{recipe}
```
"""


def write_card(
    path: Path,
    config: TrainConfig,
    phase: PlannedPhase,
    source: str,
    best: Mapping[str, Any],
    seconds: float,
    step: int,
) -> None:
    """Write the card of the purifier with held-out figures `best`, of `phase`, after `step` steps and `seconds`."""
    n = best["n"]
    pairs = {"clean": (best["clean_top1"], best["purified_clean_top1"])}
    pairs |= {name: (pair["attacked_top1"], pair["purified_top1"]) for name, pair in best["attacked"].items()}
    labels = {"true": "true labels"}.get(best["labels"], "against the classifier's own predictions on clean images")
    facts = machine()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    text = _CARD.format(
        network=f"A {config.network.kind} network of width {config.network.width} and depth {config.network.depth}",
        version=__version__,
        source=source,
        share=config.held_out,
        step=step,
        best_step=best["step"],
        of_phase=f", in phase {phase.name}" if config.phases else "",
        minutes=seconds / 60,
        hardware=f"{gpu}{facts['cores']} cores of {facts['processor']}",
        torch=torch.__version__,
        seed=config.seed,
        classifiers=", ".join(f"{c.name} ({c.weights or 'its own weights'})" for c in config.classifiers),
        perceptual=describe_perceptual(config.objective),
        first=phase.config.classifiers[0].name,
        n=n,
        labels=labels,
        size=config.image_size,
        rows="\n".join(
            f"| {name} | {Share(round(a * n), n)} | {Share(round(b * n), n)} |" for name, (a, b) in pairs.items()
        ),
        recipe=json.dumps(to_dict(config), indent=2),
    )
    path.write_text(text)
