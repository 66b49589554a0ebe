"""The model card: how a purifier was made, and what is known about it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from purifyctl import __version__
from purifyctl.config import TrainConfig, to_dict
from purifyctl.machine import machine
from purifyctl.training.classifier_view import validation_size
from purifyctl.training.objectives.perceptual import describe_perceptual
from purifyctl.training.phases import PlannedPhase
from purifyctl.training.state import State
from purifyctl.training.validation import comparison

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

{table}

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
    state: State,
    weights: Mapping[str, str],
    seconds: float,
    device: torch.device,
) -> None:
    """Write the card of the purifier that is kept, which `phase` made, after `seconds`.

    `weights`: the SHA-256 of each classifier's weights, by the classifier's name.
    """
    best = state.best
    columns, rows = comparison(state.before, best)
    labels = {"true": "true labels"}.get(best["labels"], "against the classifier's own predictions on clean images")
    facts = machine()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    text = _CARD.format(
        network=f"A {config.network.kind} network of width {config.network.width} and depth {config.network.depth}",
        version=__version__,
        source=source,
        share=config.held_out,
        step=state.step,
        best_step=best["step"],
        of_phase=f", in phase {phase.name}" if config.phases else "",
        minutes=seconds / 60,
        hardware=f"{gpu}{facts['cores']} cores of {facts['processor']}",
        torch=torch.__version__,
        seed=config.seed,
        classifiers=", ".join(
            f"{c.name} ({c.weights or 'its own weights'}, SHA-256 {weights[c.name][:12]})" for c in config.classifiers
        ),
        perceptual=describe_perceptual(config.objective),
        first=phase.config.classifiers[0].name,
        n=best["n"],
        labels=labels,
        size=validation_size(phase.config),
        table="\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)),
        recipe=json.dumps(to_dict(config), indent=2),
    )
    path.write_text(text)
