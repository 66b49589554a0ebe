"""Adversarial examples under an L-infinity budget, through any composition of networks.

`model` maps RGB NCHW float in [0, 1] to logits. What it is made of (a classifier, or a purifier and a classifier
together) decides the threat model. Every attack returns x_adv with |x_adv - x| <= eps and values in [0, 1], detached.

The list of attacks is `purifyctl.config.attacks.ATTACKS`; each record there names its function.

make.py              `make_attack` finds an attack's function and calls it; how every attack is called
gradient.py          attacks that step along the gradient's sign
square.py            an attack by queries
noise.py             random patterns, without a model
*_attacks.py, autoattack.py, library.py   attacks of libraries, and what they share: they need the extra "attacks"
model.py, budget.py  what is attacked, and how far its images may move
best.py              the best of several starts
"""

from purifyctl.attacks.best import Best
from purifyctl.attacks.budget import Budget, project, within_budget
from purifyctl.attacks.gradient import ascent, bim, dim, fgsm, least_likely, mi_fgsm, pgd
from purifyctl.attacks.make import AttackFunction, check_installed, function_of, make_attack
from purifyctl.attacks.model import Model, behind, round_straight_through
from purifyctl.attacks.noise import noise
from purifyctl.attacks.square import square

__all__ = [
    "AttackFunction",
    "Best",
    "Budget",
    "Model",
    "ascent",
    "behind",
    "bim",
    "check_installed",
    "dim",
    "fgsm",
    "function_of",
    "least_likely",
    "make_attack",
    "mi_fgsm",
    "noise",
    "pgd",
    "project",
    "round_straight_through",
    "square",
    "within_budget",
]
