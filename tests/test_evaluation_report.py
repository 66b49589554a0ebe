import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from purifyctl.config import AttackConfig
from purifyctl.evaluation import EvaluateOptions, EvaluateResult, evaluate
from purifyctl.evaluation.defences import NONE, PIX2PIX, PURIFIER
from purifyctl.report.evaluation import as_csv, as_markdown, write_evaluation
from purifyctl.report.evaluation_tables import sections
from purifyctl.report.folder import write_report_of
from purifyctl.report.paper import NOT_MEASURED, paper_tables
from purifyctl.report.percent import share
from tests import tiny
from tests.report_page import Page, assert_harmless

SIZE = 32


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluateResult, Path]:
    """A small evaluation with its files. Read only."""
    folder = tmp_path_factory.mktemp("evaluated")
    for i in range(6):
        file = folder / "photos" / ("cats" if i % 2 else "dogs") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiny.encoded(tiny.photograph(seed=i), "PNG"))
    options = EvaluateOptions(
        checkpoint=tiny.checkpoint(folder / "run"),
        against=((PIX2PIX, tiny.checkpoint(folder / "pix2pix", tiny.NETWORK)),),
        classifier="tests.tiny:animals",
        attacks=(AttackConfig("fgsm"), AttackConfig("pgd", steps=2), AttackConfig("square", steps=5)),
        eps=("4/255", "16/255"),
        labels="predicted",
        image_size=SIZE,
        paper=True,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = evaluate(folder / "photos", folder / "out", options)
    torch.set_num_threads(threads)
    write_evaluation(result, folder / "out")
    return result, folder / "out"


def test_a_page_shows_the_ladder_with_intervals_the_checks_and_the_examples(
    evaluated: tuple[EvaluateResult, Path], tmp_path: Path
) -> None:
    result, out = evaluated
    figures = write_report_of(out, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert_harmless(page)
    assert (figures["kind"], figures["finished"], figures["n"]) == ("evaluation", True, 6)
    for section in sections(result.document):
        assert section.title in page.text
        for row in section.rows:
            assert " ".join(row) in page.text
    raised = {warning["check"] for cell in result.document["cells"] for warning in cell["warnings"]}
    assert page.text.count("not raised Raised if") == len(result.document["checks"]) - len(raised)
    assert len(page.pictures()) == len(list(out.glob("*.png")))
    assert "gray-box, 16/255" in page.text


def test_markdown_csv_and_json_agree_with_each_other(evaluated: tuple[EvaluateResult, Path]) -> None:
    result, out = evaluated
    document = json.loads((out / "evaluation.json").read_text())
    assert document == json.loads(json.dumps(result.document))
    rows = list(csv.DictReader(io.StringIO((out / "evaluation.csv").read_text())))
    text = (out / "evaluation.md").read_text()
    assert len(rows) == len(document["cells"])
    for row, cell in zip(rows, document["cells"], strict=True):
        for name in ("threat_model", "attack", "defence"):
            assert row[name] == cell[name]
        for name in ("robust_top1", "clean_top1", "recovery", "attack_success_rate"):
            assert row[name] == ("" if cell[name] is None else str(cell[name]))
        if cell["robust_top1"] is not None:
            assert float(row["robust_top1_low"]) == cell["robust_top1_interval"][0]
            line = next(
                line
                for line in text.splitlines()
                if line.startswith(f"| {cell['attack']} | {cell['eps_text']} | {cell['n']} |")
                and share(cell, "robust_top1") in line
            )
            assert line.count("%") >= 1


def test_the_report_has_one_table_per_threat_model_and_the_price_first(
    evaluated: tuple[EvaluateResult, Path],
) -> None:
    result, out = evaluated
    titles = [section.title for section in sections(result.document)]
    assert [title.split(":")[0].split()[0] for title in titles[:4]] == ["Clean", "Gray-box", "Black-box", "Adaptive"]
    text = (out / "evaluation.md").read_text()
    for section in sections(result.document):
        assert f"## {section.title}" in text
        assert all(len(row) == len(section.columns) for row in section.rows)
    assert "labels: predicted by the classifier" in text
    for name in result.document["checks"]:
        assert f"- {name} (" in text


def test_a_warning_stands_beside_the_number_it_concerns(evaluated: tuple[EvaluateResult, Path]) -> None:
    document: dict[str, Any] = json.loads(json.dumps(evaluated[0].document))
    for cell in document["cells"]:
        cell["warnings"] = []
    shown = ("gray_box", "FGSM", "4/255", "JPEG-75")
    (cell,) = (c for c in document["cells"] if (c["threat_model"], c["attack"], c["eps_text"], c["defence"]) == shown)
    cell["warnings"] = [{"check": "label leak", "text": "6 of 6 are right when attacked, 3 of 6 when clean"}]
    text = as_markdown(document)
    marked = [line for line in text.splitlines() if line.startswith("|") and "†1" in line]
    assert len(marked) == 1
    assert marked[0].startswith("| FGSM | 4/255 |")
    assert marked[0].split("|")[5].strip() == f"{share(cell, 'robust_top1')} †1"
    assert "†1 label leak: 6 of 6 are right when attacked, 3 of 6 when clean." in text
    assert "- label leak (**raised**)" in text
    assert "label leak: 6 of 6" in as_csv(document["cells"])


def test_figures_are_pictures_of_the_expected_size(evaluated: tuple[EvaluateResult, Path]) -> None:
    _, out = evaluated
    text = (out / "evaluation.md").read_text()
    names = ["accuracy-gray_box.png", "accuracy-black_box.png", "accuracy-adaptive.png", "confidence.png"]
    names += [path.name for path in out.glob("strip-*.png")]
    assert len(names) > 4
    for name in names:
        with Image.open(out / name) as image:
            width, height = image.size
            assert width >= 780
            assert height >= 300
            assert len(image.convert("L").resize((100, 100)).getcolors()) > 5  # not a blank sheet
        assert f"({name})" in text
    with Image.open(out / "confidence.png") as image:
        assert image.size == (1230, 540)


def test_the_papers_tables_stand_in_their_layout_with_ours_beside(evaluated: tuple[EvaluateResult, Path]) -> None:
    document = evaluated[0].document
    tables = paper_tables(document)
    assert [title.split(":")[0] for title, *_ in tables] == [f"The paper's Table {n}" for n in (2, 3, 4, 5)]
    assert [row[:2] for row in tables[0][2]] == [
        ["Ground-truth", "54.83 %"],
        ["FGSM-attacked", "24.64 %"],
        ["Pix2pix", "44.78 %"],
        ["Our method", "50.34 %"],
    ]
    assert tables[0][1][2:] == ("ours, eps 76.5/255 in [0, 1]", "ours, eps 38.25/255 in [-1, 1]")
    (cell,) = (
        cell
        for cell in document["cells"]
        if (cell["threat_model"], cell["attack"], cell["eps_text"], cell["defence"])
        == ("gray_box", "FGSM", "76.5/255", PURIFIER)
    )
    assert tables[0][2][3][2] == share(cell, "robust_top1")
    by_name = {row[0]: row for row in tables[3][2]}
    assert by_name["ALP"][1:] == ["27.9 %", "-", NOT_MEASURED, NOT_MEASURED]
    without = dict(document, cells=[cell for cell in document["cells"] if cell["defence"] == NONE])
    assert {row[0]: row[2] for row in paper_tables(without)[0][2]}["Pix2pix"] == NOT_MEASURED
    assert PIX2PIX in {cell["defence"] for cell in document["cells"]}


def test_every_share_is_printed_with_one_decimal_and_its_interval() -> None:
    cell = {"top1": 0.3359, "top1_interval": [0.281, 0.396], "none": None, "none_interval": None}
    assert share(cell, "top1") == "33.6 % [28.1, 39.6]"
    assert share(cell, "none") == "-"
    assert re.fullmatch(r"[\d.]+ % \[[\d.]+, [\d.]+\]", share(cell, "top1"))
