"""The paper's Tables 2 to 5 in their layout, its figures beside ours (Zhang and Sakurai, IEEE Access 9, 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any

from purifyctl.config import EpsSpace, format_eps
from purifyctl.evaluation.defences import NONE, PIX2PIX, PURIFIER
from purifyctl.evaluation.ladder import PAPER_ATTACKS, SPACES
from purifyctl.metrics import percent
from purifyctl.report.percent import share

NOT_MEASURED = "not measured"
_FGSM, _PGD = (attack.name for attack in PAPER_ATTACKS)

# Published, in percent, on MobileNetV2.
_TABLE_2 = (
    ("Ground-truth", "54.83 %"),
    ("FGSM-attacked", "24.64 %"),
    ("Pix2pix", "44.78 %"),
    ("Our method", "50.34 %"),
)
_TABLE_3 = (("FGSM-attacked", "46.66 %"), ("Pix2pix", "29.22 %"), ("Our method", "14.09 %"))
_TABLE_4 = (("Ground-truth", "76.1 %"), ("FGSM-attacked", "37.32 %"), ("Pix2pix", "53.57 %"), ("Our method", "69.2 %"))
# Published on Inception_V3 and on ResNet_101.
_TABLE_5 = (
    ("Ground-truth", "55.35 %", "61.50 %"),
    ("PGD-attacked", "0.9 %", "29.45 %"),
    ("ALP", "27.9 %", "-"),
    ("Xie et al.", "-", "49.7 %"),
    ("Our method", "48.12 %", "58.99 %"),
)
_DEFENCE = {"FGSM-attacked": NONE, "PGD-attacked": NONE, "Pix2pix": PIX2PIX, "Our method": PURIFIER}

Table = tuple[str, Sequence[str], Sequence[Sequence[str]], Sequence[str]]  # title, columns, rows, notes


def paper_tables(document: Mapping[str, Any]) -> list[Table]:
    """Tables 2 to 5. Our figures have one column for each reading of the paper's eps; a missing one says so."""
    readings: Mapping[EpsSpace, float] = document["paper_eps"]
    name = document["settings"]["classifier"]["name"]
    ours = [f"ours, eps {format_eps(eps)} in {SPACES[space]}" for space, eps in readings.items()]

    def rows(published: Sequence[Sequence[str]], attack: str, figure: str) -> list[list[str]]:
        return [
            [*row, *(_figure(document["cells"], row[0], attack, eps, figure) for eps in readings.values())]
            for row in published
        ]

    eps_note = f"The paper's eps 0.3 names no range of pixel values; each column is one reading of it. Ours: {name}."
    return [
        (
            "The paper's Table 2: accuracy, FGSM",
            ("method", "published, MobileNetV2", *ours),
            rows(_TABLE_2, _FGSM, "top1"),
            [eps_note],
        ),
        (
            "The paper's Table 3: misclassification, FGSM",
            ("method", "published, MobileNetV2", *ours),
            rows(_TABLE_3, _FGSM, "misclassification_rate"),
            ["Ours: the prediction differs from the undefended one on the clean image."],
        ),
        (
            "The paper's Table 4: average confidence, FGSM",
            ("method", "published, MobileNetV2", *ours),
            rows(_TABLE_4, _FGSM, "confidence"),
            ["Ours: of the true class / of the predicted class. The paper does not say which of the two it means."],
        ),
        (
            "The paper's Table 5: accuracy, PGD with 10 iterations",
            ("method", "published, Inception_V3", "published, ResNet_101", *ours),
            rows(_TABLE_5, _PGD, "top1"),
            ["The paper's text gives 54.83 % for Inception_V3 on real images; this is the table's figure."],
        ),
    ]


def _figure(cells: Sequence[Mapping[str, Any]], row: str, attack: str, eps: float, figure: str) -> str:
    """Our figure for one row of a table."""
    clean = row == "Ground-truth"
    defence = NONE if clean else _DEFENCE.get(row)
    for cell in cells:
        key = ("clean", "clean", 0.0) if clean else ("gray_box", attack, eps)
        if (cell["threat_model"], cell["attack"], cell["eps"]) == key and cell["defence"] == defence:
            if figure == "confidence":
                return f"{percent(cell['true_confidence'])} / {percent(cell['top1_confidence'])}"
            if figure == "top1":
                figure = "clean_top1" if clean else "robust_top1"
            return share(cell, figure)
    return NOT_MEASURED
