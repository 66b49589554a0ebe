"""Adversarial examples made with gradients. Each attack is a small function: step, project, clip.

`model` maps RGB NCHW float in [0, 1] to logits; what it is made of (classifier, or purifier and classifier together)
decides the threat model. Every attack returns x_adv with |x_adv - x| <= eps and values in [0, 1].
"""

from purifyctl.attacks.gradient import fgsm, pgd

__all__ = ["fgsm", "pgd"]
