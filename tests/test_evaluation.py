import dataclasses
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from purifyctl.attacks import make
from purifyctl.checkpoint import save_purifier
from purifyctl.config import AttackConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.errors import ConfigError, MissingDependencyError, WeightsError
from purifyctl.evaluation import EvaluateOptions, EvaluateResult, evaluate, loop
from purifyctl.evaluation.chunk import Chunk, climb
from purifyctl.evaluation.defences import GATED, NONE, PURIFIER
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.plan import make_plan
from purifyctl.evaluation.records import read_tables
from purifyctl.evaluation.subject import load_subject
from purifyctl.evaluation.summary import WORST
from purifyctl.labels import Labels
from purifyctl.report.evaluation import describe
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images
from purifyctl.sources.sketch import sketch
from purifyctl.truth import TruthFromFolder
from tests import tiny
from tests.evaluating import ALL, FGSM, PGD, SIZE

pytestmark = pytest.mark.usefixtures("one_thread")


def options_for(checkpoint: Path) -> EvaluateOptions:
    """Every threat model, on tiny networks."""
    return EvaluateOptions(
        checkpoint=checkpoint,
        classifier="tests.tiny:animals",
        surrogates=(("tests.tiny:birds", ""),),
        attacks=(FGSM, PGD, AttackConfig("square", steps=5)),
        eps=("4/255", "8/255"),
        labels="predicted",
        image_size=SIZE,
        batch_size=4,
        expensive_limit=6,
    )


@pytest.fixture
def options(tmp_path: Path) -> EvaluateOptions:
    return options_for(tiny.checkpoint(tmp_path / "run"))


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs in two folders. Read only."""
    return tiny.photographs(tmp_path_factory.mktemp("ten"), 10, labelled=True)


@pytest.fixture(scope="module")
def whole(ten: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluateResult]:
    """An evaluation of `ten` on every rung, and its folder. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "out", evaluate(ten, folder / "out", options_for(tiny.checkpoint(folder / "run")))


def test_photographs_are_spread_evenly_over_the_classes(photos: Path) -> None:
    (photos / "unknown").mkdir()
    shutil.copy(photos / "cats" / "1.jpg", photos / "unknown")
    (photos / "cats" / "gone.jpg").symlink_to("nowhere")
    truth, sizes = TruthFromFolder(Labels(("cats", "dogs"))), {"expensive_limit": 3, "chunk_size": 2}
    plan = make_plan(list_images(photos), truth, limit=5, seed=0, **sizes)
    assert sorted(photograph.true_index for photograph in plan.photographs[:4]) == [0, 0, 1, 1]
    assert plan.photographs[0].true_index != plan.photographs[1].true_index
    orders = {
        tuple(
            str(photograph.image.path)
            for photograph in make_plan(list_images(photos), truth, limit=5, seed=s, **sizes).photographs
        )
        for s in range(8)
    }
    assert len(orders) > 4  # the seed decides which photographs come first, and of which class
    assert len({order[0].split("/")[0] for order in orders}) == 2
    assert plan.sha256
    assert plan.unlabelled == 1
    assert [plan.climbing(Rung("adaptive", PGD, 0.1, pipeline=PURIFIER), n) for n in range(3)] == [2, 1, 0]
    assert [plan.climbing(Rung("gray_box", PGD, 0.1), n) for n in range(3)] == [2, 2, 1]
    with pytest.raises(ConfigError, match="No photograph has a true label"):
        make_plan(list_images(photos), TruthFromFolder(Labels(())), limit=None, seed=0, **sizes)


@pytest.mark.slow
def test_every_rung_and_defence_is_reported(whole: tuple[Path, EvaluateResult]) -> None:
    result = whole[1]
    assert result.exit_code == 0
    cells = result.document["cells"]
    found = {(c["threat_model"], c["attack"], c["eps_text"], c["defence"]) for c in cells}
    assert len(found) == len(cells)
    assert {c["threat_model"] for c in cells} == {"clean", *ALL}
    for cell in cells:
        under_attack = cell["threat_model"] != "clean"
        if cell["attack"] == WORST:
            several = [c for c in cells if all(c[k] == cell[k] for k in ("threat_model", "pipeline", "eps", "defence"))]
            assert cell["robust_top1"] <= min(c["robust_top1"] for c in several)
        assert cell["n"] == (6 if cell["threat_model"] in ("black_box", "adaptive") else 10)
        assert cell["seed"] == 0
        assert (cell["robust_top1"] is not None) == under_attack
        assert (cell["purified_clean_top1"] is None) == (cell["defence"] == NONE)
        assert (cell["psnr"] is not None) == (cell["defence"] == PURIFIER)
        if under_attack:
            assert 0 < cell["max_delta"] <= cell["eps"] + 1e-6
            low, high = cell["robust_top1_interval"]
            assert low <= cell["robust_top1"] <= high
            assert cell["clean_top1"] == 1  # labels are the predictions on clean photographs
    assert result.document["settings"]["labels"] == "predicted"
    assert set(result.document["surrogate_clean_top1"]) == {"tests.tiny:birds"}


def test_true_labels_come_from_the_folders(photos: Path, options: EvaluateOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(options, labels="folder", attacks=(FGSM,), threat_models=("gray_box",))
    evaluate(photos, tmp_path / "out", options)
    table = read_tables(tmp_path / "out" / "records", "clean")[NONE]
    assert {path.split("/")[0]: int(i) for path, i in zip(table["path"], table["true_index"], strict=True)} == {
        "cats": 0,
        "dogs": 1,
    }


class _Interrupt:
    """Presses Ctrl-C when `after` chunks have climbed a rung."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, rung: Rung, of: Chunk) -> Any:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return climb(rung, of)


@pytest.mark.slow
def test_an_interrupted_evaluation_continues_to_the_same_rows(
    ten: Path,
    whole: tuple[Path, EvaluateResult],
    options: EvaluateOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, uninterrupted = whole
    for after in (3, 4):
        monkeypatch.setattr(loop, "climb", _Interrupt(after))
        stopped = evaluate(ten, tmp_path / "parts", options)
        assert (stopped.exit_code, stopped.document["finished"]) == (130, False)
    monkeypatch.setattr(loop, "climb", climb)
    resumed = evaluate(ten, tmp_path / "parts", options)
    assert resumed.exit_code == 0
    assert resumed.document["cells"] == uninterrupted.document["cells"]
    files = [sorted((folder / "records").rglob("*.parquet")) for folder in (out, tmp_path / "parts")]
    assert len(files[0]) == len(files[1]) > 20
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_finished_evaluation_is_not_made_again(
    photos: Path, options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(options, attacks=(FGSM,), threat_models=("gray_box",))
    first = evaluate(photos, tmp_path / "out", options)
    monkeypatch.setattr(loop, "climb", None)
    assert evaluate(photos, tmp_path / "out", options).document["cells"] == first.document["cells"]


def test_other_settings_are_refused_and_the_difference_is_spelled_out(
    photos: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    options = dataclasses.replace(options, attacks=(FGSM,), threat_models=("gray_box",))
    evaluate(photos, tmp_path / "out", options)
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        evaluate(photos, tmp_path / "out", dataclasses.replace(options, seed=1))
    with pytest.raises(ConfigError, match=r"ladder is now with gray_box-pgd_3-4, gray_box-pgd_3-8 new"):
        evaluate(photos, tmp_path / "out", dataclasses.replace(options, attacks=(FGSM, PGD)))
    with pytest.raises(ConfigError, match=r"photographs\.n was 10, is 3"):
        evaluate(photos, tmp_path / "out", dataclasses.replace(options, limit=3))


def test_an_attack_whose_library_is_missing_is_refused_before_any_time_is_spent(
    photos: Path, options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "installed", {}.get)
    with pytest.raises(MissingDependencyError, match="AutoAttack needs the package pyautoattack"):
        evaluate(photos, tmp_path / "out", dataclasses.replace(options, attacks=(AttackConfig("autoattack"),)))
    assert not (tmp_path / "out").exists()


def test_photographs_that_cannot_be_read_are_named_and_not_counted(
    photos: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    (photos / "cats" / "bad.jpg").write_bytes(tiny.hostile_files()["truncated.jpg"][0])
    options = dataclasses.replace(options, attacks=(FGSM,), threat_models=("gray_box",))
    result = evaluate(photos, tmp_path / "out", options)
    assert result.exit_code == 3
    assert list(result.document["unreadable"]) == ["cats/bad.jpg"]
    assert {cell["n"] for cell in result.document["cells"]} == {10}


def test_what_cannot_work_is_refused_before_anything_is_attacked(
    photos: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="multiples of 4 pixels"):
        evaluate(photos, out, dataclasses.replace(options, image_size=33))
    with pytest.raises(ConfigError, match="gray-box"):
        dataclasses.replace(options, surrogates=(("tests.tiny:animals", ""),))
    with pytest.raises(WeightsError):
        evaluate(photos, out, dataclasses.replace(options, against=(("pix2pix", tmp_path / "nothing"),)))
    for taken in (PURIFIER, NONE, GATED):
        with pytest.raises(ConfigError, match="the name is taken"):
            evaluate(photos, out, dataclasses.replace(options, against=((taken, tmp_path / "nothing"),)))
    assert not out.exists()
    (out / "records").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no evaluation made it"):
        evaluate(photos, out, options)


def test_the_report_knows_which_classifiers_guided_the_purifier(tmp_path: Path) -> None:
    file = tmp_path / "purifier.safetensors"
    about = {"recipe": {"classifiers": [{"name": "one"}, {"name": "two"}]}}
    save_purifier(file, tiny.purifier(), tiny.NETWORK, about)
    options = EvaluateOptions(checkpoint=file, classifier="tests.tiny:classifier", image_size=tiny.SIZE)
    assert load_subject(options)[1]["purifiers"][PURIFIER]["guided_by"] == ["one", "two"]


def test_the_report_says_how_many_photographs_the_purifier_was_trained_with(
    photos: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    file = tmp_path / "purifier.safetensors"
    options = dataclasses.replace(options, checkpoint=file, attacks=(FGSM,), threat_models=("gray_box",))
    some = list_images(photos)[:3]
    for about, said in (
        (
            {"photographs": sketch(some)},
            "3 of these photographs have the name and size of photographs that it was trained or",
        ),
        ({"photographs": ""}, "trained with none of these photographs."),
        ({}, "its checkpoint does not name its photographs."),
    ):
        save_purifier(file, tiny.purifier(), tiny.NETWORK, about)
        document = evaluate(photos, tmp_path / str(len(about.get("photographs", "-"))), options).document
        assert said in "\n".join(describe(document))


def test_a_surrogate_with_the_classifiers_own_weights_is_refused(tmp_path: Path) -> None:
    same = ("tests.tiny:classifier", "")
    options = EvaluateOptions(
        checkpoint=tiny.checkpoint(tmp_path), classifier="tests.tiny:again", surrogates=(same,), image_size=tiny.SIZE
    )
    with pytest.raises(ConfigError, match="gray-box"):
        load_subject(options)


@pytest.mark.slow
def test_an_honest_purifier_raises_no_alarm(whole: tuple[Path, EvaluateResult]) -> None:
    raised = {warning["check"] for cell in whole[1].document["cells"] for warning in cell["warnings"]}
    assert not raised & {"randomness", "softmax", "zero gradients"}


@pytest.mark.slow
def test_the_shipped_purifier_helps_against_an_attacker_who_does_not_know_it(samples: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(
        checkpoint=shipped_checkpoint(),
        classifier=CLASSIFIER,
        weights=WEIGHTS,
        threat_models=("gray_box", "adaptive"),
        attacks=(AttackConfig("pgd", steps=5),),
        eps=("4/255",),
        expensive_limit=4,
    )
    result = evaluate(samples, tmp_path / "out", options)
    top1 = {(c["threat_model"], c["defence"]): c["robust_top1"] for c in result.document["cells"]}
    (clean,) = (c for c in result.document["cells"] if (c["threat_model"], c["defence"]) == ("clean", PURIFIER))
    assert clean["n"] == 20
    assert clean["clean_top1"] >= 0.7
    assert clean["psnr"] > 25
    assert top1["gray_box", PURIFIER] > top1["gray_box", NONE] + 0.2
    assert top1["adaptive", PURIFIER] <= top1["gray_box", PURIFIER]
    assert result.examples is not None
    assert len(result.examples.restored) > 0
