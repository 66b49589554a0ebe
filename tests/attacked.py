"""What the tests of attacks share."""

import torch

from purifyctl.config import AttackConfig
from tests import tiny

MODEL = tiny.classifier().eval().requires_grad_(False)
GREY = 1 / 255
ROUNDING = 1e-6  # error of float32 in [0, 1]

# Each kind, with as few steps as show what it does.
EVERY_ATTACK = {
    "fgsm": AttackConfig("fgsm"),
    "bim": AttackConfig("bim", steps=2),
    "least-likely": AttackConfig("least-likely", steps=2),
    "pgd": AttackConfig("pgd", steps=2, restarts=2, eot=2),
    "mi-fgsm": AttackConfig("mi-fgsm", steps=2),
    "dim": AttackConfig("dim", steps=3),
    "square": AttackConfig("square", steps=20),
    "noise": AttackConfig("noise"),
    "deepfool": AttackConfig("deepfool", steps=5),
    "jsma": AttackConfig("jsma", steps=2),
    "universal": AttackConfig("universal", steps=1),
    "one-pixel": AttackConfig("one-pixel", steps=1),
    "cw": AttackConfig("cw", steps=5),
    "autoattack": AttackConfig("autoattack"),
}


def images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (3, 3, 16, 16), generator=generator) / 255
    return x, MODEL(x).argmax(1)


def few(n: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(4)) / 255
    return x, MODEL(x).argmax(1)
