"""What each part of the training recipe buys: short trainings that differ in one thing, then one evaluation of all.

    python -m tests.benchmarks.ablation --photos DIR --test DIR --out runs/ablation [--seeds 0,1] [--only NAME]

Every variant sees the same photographs, the same number of them, at the same size. The last two begin with another
variant's weights and train for as long again. Finished trainings are not repeated, and a stopped one is resumed. It
prints one table, as Markdown.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import (
    AttackConfig,
    ClassifierConfig,
    NetworkConfig,
    ObjectiveConfig,
    Phase,
    TrainConfig,
    TrainingAttack,
    read_recipe,
)
from purifyctl.evaluation import EvaluateOptions, evaluate
from purifyctl.evaluation.defences import PURIFIER
from purifyctl.evaluation.summary import WORST
from purifyctl.machine import keep_freed_memory
from purifyctl.report.percent import share
from purifyctl.training import train

RECIPE = Path(__file__).parents[2] / "train" / "shipped.toml"
FGSM = TrainingAttack("fgsm", eps=(8 / 255, 8 / 255))  # one attack with one budget, as the paper trains
ADAPTIVE = TrainingAttack("pgd", steps=2, eps=(1 / 255, 4 / 255), through="purifier", share=2.0)
UNET = NetworkConfig("unet", width=32, depth=5)
CROP = 128  # pixels; smaller than the recipe's, for speed
GAN = 0.1  # of the cGAN and the perceptual term, where they stand beside the guidance


def variants(base: TrainConfig, vgg19: str) -> dict[str, TrainConfig]:
    """The recipes by name; `start` names the variant whose weights one begins with.

    `base` is the recipe that ships, with two classifiers, and two phases of the same length: `denoise` and `guide`.
    """
    guide = (replace(base.phases[1], epochs=sum(phase.epochs for phase in base.phases), continues_schedule=False),)
    one = (base.classifiers[0],)
    l1 = ObjectiveConfig(l1=100.0, discriminator_width=32)
    gan = replace(l1, gan=1.0)
    perceptual = replace(gan, perceptual=1.0, perceptual_backbone="vgg19", perceptual_weights=vgg19)
    both = replace(base.objective, gan=GAN, perceptual=GAN, discriminator_width=32)
    plain = replace(base, classifiers=one, attacks=(FGSM,), identity_share=0.0, phases=guide)
    pix2pix = replace(plain, learning_rate=2e-4, beta1=0.5, beta2=0.999)  # the paper's optimiser
    guided = replace(plain, objective=base.objective, phases=base.phases)
    return {
        "L1": replace(pix2pix, objective=l1),
        "L1 + cGAN": replace(pix2pix, objective=gan),
        "L1 + cGAN + perceptual": replace(pix2pix, objective=perceptual),
        "the same, U-Net": replace(pix2pix, objective=perceptual, network=UNET),
        "squared error": replace(plain, objective=ObjectiveConfig(l1=0.0, l2=base.objective.l2)),
        "+ classifier-guided": replace(guided, phases=guide),
        "+ denoising first": guided,
        "+ mixed attacks": replace(guided, attacks=base.attacks),
        "+ identity pairs": replace(base, classifiers=one),
        "+ a second classifier": base,
        "+ cGAN and perceptual": replace(base, objective=both),
        "without them, U-Net": replace(base, network=UNET),
        "a second classifier, as long again": replace(base, start="+ a second classifier", phases=guide),
        "a second classifier, then adaptive": replace(
            base, start="+ a second classifier", phases=guide, attacks=(ADAPTIVE, *base.attacks)
        ),
    }


def purifier_of(out: Path, name: str, seed: int) -> Path:
    """Where this variant's weights are, once it is trained."""
    return out / f"{name}, seed {seed}".replace(" ", "_") / "last.safetensors"


def table(cells: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One row per variant: top-1 and its interval, clean and on each rung; a dash where it was not measured."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        attacked = cell["attack"] != "clean"
        rung = f"{cell['attack']} {cell['eps_text']}, {cell['threat_model'].replace('_', '-')}" if attacked else "clean"
        column = found.setdefault(f"{rung}, n={cell['n']}", {})
        alone = "clean_top1" if cell["purified_clean_top1"] is None else "purified_clean_top1"
        column[cell["defence"]] = share(cell, "robust_top1" if attacked else alone)
    yield f"| | {' | '.join(found)} |"
    yield f"|{'---|' * (len(found) + 1)}"
    for name in dict.fromkeys(name for column in found.values() for name in column):
        yield f"| {name} | {' | '.join(column.get(name, '-') for column in found.values())} |"


def measure(purifiers: Mapping[str, Path], photos: Path, out: Path, options: EvaluateOptions) -> list[dict[str, Any]]:
    """Cells of one evaluation with these purifiers side by side, by name."""
    (first, checkpoint), *others = purifiers.items()
    result = evaluate(photos, out, replace(options, checkpoint=checkpoint, against=tuple(others)))
    if result.exit_code == 130:
        raise SystemExit(130)
    cells = (cell for cell in result.document["cells"] if cell["attack"] != WORST)
    return [{**cell, "defence": first if cell["defence"] == PURIFIER else cell["defence"]} for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="to train on")
    parser.add_argument("--test", type=Path, required=True, help="to measure on, in folders named by WordNet ids")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--epochs", type=int, default=2, help="of each training, at least 2; half of them denoise, where some do"
    )
    parser.add_argument("--limit", type=int, default=256, help="photographs to measure on")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", action="append", help="this variant; repeatable. Default: all")
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="of MobileNetV2")
    parser.add_argument("--vgg19", default="", help="weights for the perceptual term; default: download")
    arguments = parser.parse_args()

    keep_freed_memory()
    recipe = read_recipe(RECIPE, TrainConfig)
    base = replace(
        recipe,
        classifiers=(recipe.classifiers[0], ClassifierConfig("mobilenet_v2", arguments.weights)),
        phases=(
            Phase("denoise", arguments.epochs // 2, terms=("l2",)),
            Phase("guide", arguments.epochs - arguments.epochs // 2, continues_schedule=True),
        ),
        image_size=CROP,
        validation_images=64,
        validate_every=arguments.epochs,
    )
    known = variants(base, arguments.vgg19)
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"--only {min(unknown)!r}: there are {', '.join(map(repr, known))}.")
    made: dict[str, Path] = {}
    for seed in map(int, arguments.seeds.split(",")):
        for name in arguments.only or known:
            config = known[name]
            title = f"{name}, seed {seed}"
            console.note(f"== {title}")
            if config.start:
                config = replace(config, start=str(purifier_of(arguments.out, config.start, seed)))
            made[title] = purifier_of(arguments.out, name, seed)
            if train(replace(config, seed=seed), arguments.photos, made[title].parent).interrupted:
                raise SystemExit(130)
    options = EvaluateOptions(
        checkpoint=RECIPE,  # each of them in turn, below
        classifier=base.classifiers[0].name,
        weights=base.classifiers[0].weights,
        threat_models=("gray_box",),
        attacks=(AttackConfig("fgsm"), AttackConfig("pgd")),
        eps=("4/255", "8/255"),
        limit=arguments.limit,
    )
    cells = measure(made, arguments.test, arguments.out / "gray-box", options)
    # attackers who know the purifier too: expensive, and only for the variants that were made against them
    adaptive = replace(options, threat_models=("adaptive",), attacks=(AttackConfig("pgd"),), eps=("4/255",), limit=64)
    last = {name: path for name, path in made.items() if "as long again" in name or "adaptive" in name}
    if last:
        found = measure(last, arguments.test, arguments.out / "adaptive", adaptive)
        cells += [cell for cell in found if cell["attack"] != "clean"]
    print("\n".join(table(cells)))


if __name__ == "__main__":
    main()
