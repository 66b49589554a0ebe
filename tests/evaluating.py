"""What the tests of `evaluate` share."""

import dataclasses
from typing import Any

import torch

from purifyctl.config import AttackConfig
from purifyctl.evaluation.chunk import Chunk
from purifyctl.evaluation.defences import PURIFIER, classical_defences, eight_bits, network_defence
from purifyctl.evaluation.subject import Subject
from tests import tiny

FGSM, PGD = AttackConfig("fgsm"), AttackConfig("pgd", steps=3)
SIZE = 32
ALL = ("gray_box", "transfer", "black_box", "adaptive")


def subject(**changes: Any) -> Subject:
    """The tiny classifier behind the classical defences and a tiny purifier."""
    defences = {defence.name: defence for defence in classical_defences()}
    defences[PURIFIER] = network_defence(PURIFIER, tiny.purifier().requires_grad_(False))
    made = Subject(tiny.animals().eval().requires_grad_(False), defences, {}, torch.device("cpu"), 0)
    return dataclasses.replace(made, **changes)


def photographs_of(of: Subject, n: int = 4) -> Chunk:
    """A chunk of `n` photographs, whose labels are the classifier's predictions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 4, 4, generator=generator), (SIZE, SIZE), mode="bilinear")
    x = eight_bits(x).contiguous(memory_format=torch.channels_last)  # the order in memory that photographs have
    return Chunk(0, x, of.classifier(x).argmax(1), [f"{i}.png" for i in range(n)], of)
