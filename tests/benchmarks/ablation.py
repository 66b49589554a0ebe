"""What each part of the training recipe buys: short trainings that differ in one thing, then one evaluation of all.

    python -m tests.benchmarks.ablation --photos DIR --test DIR --out runs/ablation [--epochs 2] [--seeds 0,1]

Every variant sees the same photographs, as many of them, at the same size; the last two go on from another one's
weights for as long again. Trainings that are done are not done again, and one that was stopped is gone on with.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from purifyctl import console
from purifyctl.config import (
    AttackConfig,
    ClassifierConfig,
    NetworkConfig,
    ObjectiveConfig,
    TrainConfig,
    TrainingAttack,
    read_recipe,
)
from purifyctl.evaluation import EvaluateOptions, evaluate
from purifyctl.training import train

RECIPE = Path(__file__).parents[2] / "train" / "fast.toml"
FGSM = TrainingAttack("fgsm", eps=(8 / 255, 8 / 255))  # one attack with one budget, as the paper trains
ADAPTIVE = TrainingAttack("pgd", steps=3, eps=(4 / 255, 4 / 255), through="purifier")


def variants(base: TrainConfig, vgg19: str) -> dict[str, TrainConfig]:
    """The names say what differs from the variant before; `start` names the one that is gone on from."""
    one = (base.classifiers[0],)
    paper = ObjectiveConfig(gan=1.0, l1=100.0, perceptual=1.0, perceptual_backbone="vgg19", perceptual_weights=vgg19)
    guided = replace(base.objective, gan=0.0, perceptual=0.0)
    plain = replace(base, classifiers=one, attacks=(FGSM,), identity_share=0.0)
    return {
        "L1": replace(plain, objective=ObjectiveConfig(l1=100.0)),
        "L1 + cGAN": replace(plain, objective=ObjectiveConfig(gan=1.0, l1=100.0)),
        "L1 + cGAN + perceptual": replace(plain, objective=paper),
        "L1 + cGAN + perceptual, U-Net": replace(
            plain, objective=paper, network=NetworkConfig("unet", width=32, depth=5)
        ),
        "classifier-guided instead": replace(plain, objective=guided),
        "+ mixed attacks": replace(base, classifiers=one, identity_share=0.0, objective=guided),
        "+ identity pairs": replace(base, classifiers=one, objective=guided),
        "+ a second classifier": replace(base, objective=guided),
        "+ cGAN and perceptual": replace(base, objective=replace(guided, gan=0.1, perceptual=0.1)),
        "without them, U-Net": replace(base, objective=guided, network=NetworkConfig("unet", width=32, depth=5)),
        "a second classifier, as long again": replace(base, objective=guided, start="+ a second classifier"),
        "a second classifier, then adaptive": replace(
            base, objective=guided, start="+ a second classifier", attacks=(ADAPTIVE, *base.attacks)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="to train on")
    parser.add_argument("--test", type=Path, required=True, help="to measure on, in folders named by WordNet ids")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2, help="of each training")
    parser.add_argument("--limit", type=int, default=256, help="photographs to measure on")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="of MobileNetV2")
    parser.add_argument("--vgg19", default="", help="weights for the perceptual term; default: download")
    arguments = parser.parse_args()

    recipe = read_recipe(RECIPE, TrainConfig)
    classifiers = (recipe.classifiers[0], ClassifierConfig("mobilenet_v2", arguments.weights))
    short = {"epochs": arguments.epochs, "cached_attacks": 0, "ema": 0.0, "validation_images": 64, "patience": 0}
    base = replace(recipe, classifiers=classifiers, **short)
    checkpoints = []
    for seed in map(int, arguments.seeds.split(",")):
        made: dict[str, Path] = {}
        for name, config in variants(base, arguments.vgg19).items():
            run = arguments.out / f"{name}, seed {seed}".replace(" ", "_")
            console.note(f"== {name}, seed {seed}")
            if config.start:
                config = replace(config, start=str(made[config.start]))
            train(replace(config, seed=seed), arguments.photos, run)
            made[name] = run / "last.safetensors"
        checkpoints += [(f"{name}, seed {seed}", path) for name, path in made.items()]
    first, *others = checkpoints
    evaluate(
        arguments.test,
        arguments.out / "evaluation",
        EvaluateOptions(
            checkpoint=first[1],
            classifier=classifiers[0].name,
            weights=classifiers[0].weights,
            against=tuple(others),
            threat_models=("clean", "gray_box", "adaptive"),
            attacks=(AttackConfig("fgsm"), AttackConfig("pgd")),
            eps=("4/255", "8/255"),
            limit=arguments.limit,
        ),
    )


if __name__ == "__main__":
    main()
