"""`report` recognises what a folder holds, and makes a page of it. A run's page has its own tests."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from purifyctl.attacking import AttackOptions, attack_folder
from purifyctl.errors import ConfigError
from purifyctl.gate import save_gate
from purifyctl.metrics import percent
from purifyctl.nn.gate import GateNetwork
from purifyctl.report.folder import MARKS, write_report_of
from purifyctl.report.plots import losses_plot
from purifyctl.shipped import shipped_gate
from purifyctl.training import train
from tests import tiny
from tests.commands import purifyctl
from tests.report_page import HOSTILE, Page, assert_harmless
from tests.tiny_training import config

pytestmark = pytest.mark.usefixtures("one_thread")


def page_of(folder: Path) -> tuple[dict[str, Any], Page]:
    figures = write_report_of(folder)
    page = Page(folder / "report.html")
    assert_harmless(page)
    return figures, page


def test_an_attacks_page_gives_its_success_its_budget_and_examples(tmp_path: Path) -> None:
    for i, name in enumerate(HOSTILE[:2]):
        tiny.photographs(tmp_path / "photos" / name, 2, labelled=bool(i))
    (tmp_path / "photos" / "empty.jpg").touch()
    out = tmp_path / "attacked"
    options = AttackOptions(steps=2, classifier="tests.tiny:animals", image_size=tiny.SIZE)
    manifest = attack_folder(tmp_path / "photos", out, options).manifest
    figures, page = page_of(out)
    assert figures["kind"] == "attack"
    assert (figures["flipped"], figures["correct_when_clean"]) == (manifest["flipped"], manifest["correct_when_clean"])
    assert f"{manifest['flipped']} of {manifest['correct_when_clean']} right predictions flipped" in page.text
    assert "at eps 8/255 on tests.tiny:animals" in page.text
    assert "empty.jpg empty: The file is empty." in page.text
    assert page.pictures() == ["clean", "attacked", "change ×8"] * 4
    (out / "manifest.json").unlink()  # as while it is at work
    lines = (out / "rows.jsonl").read_text().splitlines()
    (out / "rows.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:20]]))
    figures, page = page_of(out)
    assert not figures["finished"]
    assert f"Not finished: {len(lines) - 1} inputs are done." in page.text


def test_a_trainings_page_shows_losses_held_out_figures_and_the_recipe(tmp_path: Path) -> None:
    photos = tiny.photographs(tmp_path / "photos", 10)
    run = tmp_path / "run"
    train(config(), photos, run)
    figures, page = page_of(run)
    assert figures["kind"] == "training"
    assert figures["finished"]
    held_out = figures["held_out"]
    assert f"{100 * held_out['purified_clean_top1']:.1f}".rstrip("0").rstrip(".") in page.text
    for words in ("FGSM 8/255", "Held-out accuracy over the steps", "generator", "identity_share 0.3", "(kept)"):
        assert words in page.text
    assert page.pictures() == ["clean, attacked and purified photographs"]
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "gen')  # it is being written
    (run / "purifier.safetensors").unlink()
    assert "No purifier has been measured yet." in page_of(run)[1].text


def test_a_gates_page_says_what_it_finds_at_which_thresholds(tmp_path: Path) -> None:
    shutil.copy(shipped_gate(), tmp_path / "gate.safetensors")
    figures, page = page_of(tmp_path)
    assert figures["kind"] == "gate"
    attacked = figures["held_out"]["attacked"]
    rate = min(figures["held_out"]["thresholds"], key=float)
    hardest, found = min(attacked.items(), key=lambda pair: (pair[1]["tpr"][rate], pair[0]))
    assert f"Finds at least {percent(found['tpr'][rate])} of each kind" in page.text.replace("\u00a0", " ")
    assert f"The hardest kind is {hardest}." in page.text
    for name, one in attacked.items():
        assert f"{name} {one['n']} {one['auroc']:.4f}" in page.text
    for rate, threshold in figures["held_out"]["thresholds"].items():
        assert f"{percent(float(rate))} {threshold:.6g}" in page.text.replace("\u00a0", " ")


def test_the_page_of_a_gate_that_no_attack_got_past_says_that_nothing_was_measured(tmp_path: Path) -> None:
    about = {
        "held_out": {"n_clean": 3, "thresholds": {}, "attacked": {"FGSM 4/255": {"n": 0}}},
        "recipe": {"x": HOSTILE[0]},
    }
    save_gate(tmp_path / "gate.safetensors", GateNetwork(), {}, about)
    assert "Nothing was measured" in page_of(tmp_path)[1].text


def test_the_plot_of_losses_shows_losses_alone() -> None:
    lines = [{"step": n, "phase": "near", "progress": n / 2, "generator": 1.0, "l2": 0.1} for n in range(3)]
    plot = str(losses_plot(lines))
    assert "generator" in plot
    assert "l2" in plot
    assert "progress" not in plot


def test_a_folder_that_is_none_of_them_gets_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")  # another program's
    with pytest.raises(ConfigError, match="holds no run, attack, training, gate or evaluation"):
        write_report_of(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        write_report_of(tmp_path / "nowhere")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("mark", [mark for mark in MARKS if mark != "run.json"])
def test_a_damaged_folder_is_an_expected_failure(mark: str, tmp_path: Path) -> None:
    (tmp_path / mark).write_text("{")
    (tmp_path / "records").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        write_report_of(tmp_path)


def test_the_command_says_which_page_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    settings = {"ladder": ["clean"], "photographs": {"n": 5}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    page = tmp_path / "page.html"
    done = purifyctl("report", tmp_path, "--out", page, "--verbose")
    assert done.returncode == 0
    assert f"Page about the evaluation, not finished: {page}" in " ".join(done.stderr.split())
    assert "0 of 1 rungs have rows; 5 photographs are to be attacked" in Page(page).text
