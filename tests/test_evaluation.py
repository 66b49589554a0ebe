import dataclasses
import json
import shutil
import signal
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from purifyctl.attacks import behind, libraries, within_budget
from purifyctl.checkpoint import save_purifier, shipped_checkpoint
from purifyctl.config import AttackConfig
from purifyctl.engine.default import CLASSIFIER, WEIGHTS
from purifyctl.errors import ConfigError, MissingDependencyError, WeightsError
from purifyctl.evaluation import EvaluateOptions, evaluate, job
from purifyctl.evaluation.chunk import Chunk, attack_chunk, climb
from purifyctl.evaluation.defences import (
    NONE,
    PURIFIER,
    bpda_model,
    classical_defences,
    eight_bits,
    network_defence,
)
from purifyctl.evaluation.ladder import EPS, Rung, build_ladder, paper_eps, parse_attack, parse_threat_models
from purifyctl.evaluation.plan import make_plan
from purifyctl.evaluation.records import Record, Table, part_file, read_tables, write_records
from purifyctl.evaluation.subject import Subject, load_subject
from purifyctl.evaluation.summary import WORST, summarise
from purifyctl.labels import Labels
from purifyctl.photographs import to_pixels
from purifyctl.report.evaluation import describe
from purifyctl.sources import list_images
from purifyctl.sources.sketch import sketch
from tests import tiny

FGSM, PGD = AttackConfig("fgsm"), AttackConfig("pgd", steps=3)
SIZE = 32
ALL = ("gray_box", "transfer", "black_box", "adaptive")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose more to threads that wait for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def subject(**changes: Any) -> Subject:
    defences = {defence.name: defence for defence in classical_defences()}
    defences[PURIFIER] = network_defence(PURIFIER, tiny.purifier().requires_grad_(False))
    made = Subject(tiny.animals().eval().requires_grad_(False), defences, {}, torch.device("cpu"), 0)
    return dataclasses.replace(made, **changes)


def a_chunk(of: Subject, n: int = 4) -> Chunk:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 4, 4, generator=generator), (SIZE, SIZE), mode="bilinear")
    x = eight_bits(x).contiguous(memory_format=torch.channels_last)  # as photographs come
    return Chunk(0, x, of.classifier(x).argmax(1), [f"{i}.png" for i in range(n)], of)


@pytest.fixture
def options(tmp_path: Path) -> EvaluateOptions:
    return EvaluateOptions(
        checkpoint=tiny.checkpoint(tmp_path / "run"),
        classifier="tests.tiny:animals",
        surrogates=(("tests.tiny:birds", ""),),
        attacks=(FGSM, PGD, AttackConfig("square", steps=5)),
        eps=("4/255", "8/255"),
        labels="predicted",
        image_size=SIZE,
        batch_size=4,
        expensive_limit=6,
    )


# the ladder


def test_the_default_ladder_has_every_rung_of_the_protocol() -> None:
    pipelines = (NONE, PURIFIER)
    ladder = build_ladder(threat_models=ALL, eps=EPS, surrogates=("other",), pipelines=pipelines)
    assert ladder[0] == Rung("clean")
    names = {model: {rung.name for rung in ladder if rung.threat_model == model} for model in ALL}
    assert names["gray_box"] == {"FGSM", "PGD-10", "PGD-100", "MI-FGSM-10", "DeepFool-50", "C&W-100"}
    assert names["transfer"] == {"PGD-10 on other", "MI-FGSM-10 on other", "DIM-10 on other"}
    assert names["black_box"] == {"Square-5000"}
    assert names["adaptive"] == {"PGD-10", "PGD-100 x5", "AutoAttack", "PGD-100 (BPDA identity)"}
    for threat_model in ("black_box", "adaptive"):  # no defence is attacked just as hard, or the figures say nothing
        for attack in names[threat_model] - {"PGD-100 (BPDA identity)"}:
            assert {r.pipeline for r in ladder if (r.threat_model, r.name) == (threat_model, attack)} == set(pipelines)
    assert len({rung.key for rung in ladder}) == len(ladder)
    assert {round(rung.eps * 255) for rung in ladder[1:]} == {2, 4, 8, 16}


def test_random_defences_get_their_gradients_averaged_over_20_passes() -> None:
    ladder = build_ladder(threat_models=("adaptive",), eps=(4 / 255,), pipelines=(PURIFIER,), random=(PURIFIER,))
    assert {rung.attack.eot for rung in ladder if rung.attack} == {20}


def test_the_papers_eps_is_read_in_every_space_once() -> None:
    assert paper_eps((0.229, 0.224, 0.225), "unit") == pytest.approx(
        {"unit": 0.3, "signed": 0.15, "mean-std": 0.3 * 0.224}
    )
    assert list(paper_eps((1.0, 1.0, 1.0), "signed")) == ["signed", "unit"]
    assert list(paper_eps((0.5, 0.5, 0.5), "unit")) == ["unit", "signed"]  # mean/std units are [-1, 1] here
    ladder = build_ladder(threat_models=("gray_box",), eps=(2 / 255,), attacks=(FGSM,), paper_eps=(0.3, 0.15))
    assert [(rung.name, rung.eps) for rung in ladder[1:]] == [
        *(("FGSM", 2 / 255), ("FGSM", 0.3)),
        *(("PGD-10", 0.3), ("FGSM", 0.15), ("PGD-10", 0.15)),
    ]


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("fgsm", FGSM),
        ("pgd-100", AttackConfig("pgd", steps=100)),
        ("PGD-100x5", AttackConfig("pgd", steps=100, restarts=5)),
        ("mi-fgsm-20", AttackConfig("mi-fgsm", steps=20)),
        ("one-pixel", AttackConfig("one-pixel")),
    ],
)
def test_attacks_are_read_from_text(text: str, attack: AttackConfig) -> None:
    assert parse_attack(text) == attack


@pytest.mark.parametrize("text", ["", "pdg", "pgd-", "pgd-x", "fgsm-7", "autoattackx2", "autoattack-3"])
def test_attacks_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_attack(text)


def test_threat_models_are_read_from_text() -> None:
    assert parse_threat_models("gray-box, adaptive") == ("gray_box", "adaptive")
    with pytest.raises(ConfigError, match="no rung 'grey'"):
        parse_threat_models("grey")


def test_a_ladder_without_a_rung_that_was_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="transfer"):
        build_ladder(threat_models=("transfer",), eps=(4 / 255,))
    with pytest.raises(ConfigError, match="less than a grey level"):
        build_ladder(threat_models=("gray_box",), eps=(0.5 / 255,))
    left = build_ladder(
        threat_models=ALL, eps=(4 / 255,), attacks=(AttackConfig("square"),), pipelines=(PURIFIER,), explicit=False
    )
    assert [rung.threat_model for rung in left] == ["clean", "black_box"]


# defences and attacked models


@pytest.mark.parametrize("name", [d.name for d in classical_defences()] + [PURIFIER])
def test_every_defence_returns_whole_grey_levels_of_the_same_shape(name: str) -> None:
    it = subject()
    x = torch.rand(2, 3, SIZE, SIZE)
    out = it.defences[name].apply(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out * 255, torch.round(out * 255), atol=1e-4, rtol=0)


def test_the_classical_defences_do_what_they_are_called() -> None:
    jpeg, bits, median = (defence.apply for defence in classical_defences()[1:])
    spot = torch.zeros(1, 3, SIZE, SIZE)
    spot[..., 5, 5] = 1
    assert median(spot).max() == 0
    assert len(bits(torch.linspace(0, 1, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE)).unique()) == 32
    noise = eight_bits(torch.rand(1, 3, SIZE, SIZE))
    assert 0.01 < (jpeg(noise) - noise).abs().mean() < 0.5


def test_a_png_file_is_what_rounding_to_grey_levels_stands_for(tmp_path: Path) -> None:
    x = torch.rand(1, 3, SIZE, SIZE)
    Image.fromarray(to_pixels(x)[0]).save(tmp_path / "x.png")
    back = torch.from_numpy(np.asarray(Image.open(tmp_path / "x.png")).copy()).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(back, eight_bits(x))


def test_adaptive_attacks_differentiate_through_the_purifier() -> None:
    it = subject()
    net, classifier = it.defences[PURIFIER].net, it.classifier
    assert net is not None
    x, y = a_chunk(it).x, a_chunk(it).y

    def gradient(model: Any) -> torch.Tensor:
        image = x.clone().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(model(image), y, reduction="sum")
        return torch.autograd.grad(loss, image)[0]

    exact, identity = gradient(behind(net, classifier)), gradient(bpda_model(net, classifier))
    unrounded = gradient(lambda image: classifier(net(image)))
    assert exact.abs().max() > 0
    alike = torch.nn.functional.cosine_similarity
    assert alike(exact.flatten(1), unrounded.flatten(1)).min() > 0.95  # rounding is passed straight through
    assert alike(exact.flatten(1), identity.flatten(1)).max() < 0.95
    seen = it.defences[PURIFIER].apply(x)
    for model in (behind(net, classifier), bpda_model(net, classifier)):
        torch.testing.assert_close(model(x), classifier(seen), atol=1e-5, rtol=1e-5)


def test_all_defences_face_the_same_gray_box_examples() -> None:
    it = subject()
    rows = climb(Rung("gray_box", PGD, 8 / 255), a_chunk(it))
    by_defence = {name: [row.max_delta for row in rows if row.defence == name] for name in it.defences}
    assert len({tuple(deltas) for deltas in by_defence.values()}) == 1
    made = attack_chunk(Rung("gray_box", PGD, 8 / 255), a_chunk(it))
    assert torch.equal(made.images, attack_chunk(Rung("gray_box", PGD, 8 / 255), a_chunk(it)).images)
    predictions = it.classifier(it.defences["JPEG-75"].apply(made.images)).argmax(1).tolist()
    assert predictions == [row.prediction for row in rows if row.defence == "JPEG-75"]


@pytest.mark.parametrize("eps", [1 / 255, 2.5 / 255, 8 / 255])
@pytest.mark.parametrize("pipeline", ["", PURIFIER])
def test_rungs_stay_within_their_budget_in_whole_grey_levels(eps: float, pipeline: str) -> None:
    it = subject()
    rung = Rung(
        "adaptive" if pipeline else "gray_box", AttackConfig("pgd", steps=3, restarts=2), eps, pipeline=pipeline
    )
    made, x = attack_chunk(rung, a_chunk(it)), a_chunk(it).x
    for images in (made.images, made.floats):
        assert images is not None
        assert 0.5 / 255 < (images - x).abs().max() <= eps + 1e-6
    torch.testing.assert_close(made.images * 255, torch.round(made.images * 255), atol=1e-4, rtol=0)


def test_rounding_keeps_to_a_budget_that_is_no_whole_grey_level() -> None:
    x = eight_bits(torch.rand(1, 3, 8, 8))
    attacked = torch.clamp(x + 2.5 / 255 * torch.randn_like(x).sign(), 0, 1)
    assert (within_budget(attacked, x, 2.5 / 255) - x).abs().max() <= 2 / 255 + 1e-6


def test_the_adaptive_attacker_leaves_images_alone_that_are_wrong_already() -> None:
    it = subject()
    clean = a_chunk(it)
    clean.y[:2] = (clean.clean[PURIFIER][:2] + 1) % 10
    clean.y[2:] = clean.clean[PURIFIER][2:]
    rows = climb(Rung("adaptive", PGD, 8 / 255, pipeline=PURIFIER), clean)
    assert [row.attacked for row in rows] == [False, False, True, True]
    assert [row.max_delta for row in rows[:2]] == [0, 0]
    assert all(row.prediction != row.true_index for row in rows[:2])
    assert {row.defence for row in rows} == {PURIFIER}


def test_restarts_leave_no_more_images_right_than_one_start() -> None:
    it = subject()
    clean = a_chunk(it, n=8)
    right = []
    for restarts in (1, 4):
        attack = AttackConfig("pgd", steps=2, restarts=restarts)
        made = attack_chunk(Rung("gray_box", attack, 2 / 255), clean)
        right.append(int((it.classifier(made.images).argmax(1) == clean.y).sum()))
    assert right[1] <= right[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deepfool", "cw", "autoattack"])
def test_attacks_of_libraries_go_through_the_whole_pipeline(kind: str) -> None:
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    it = subject()
    clean = a_chunk(it, n=2)
    clean.y[:] = clean.clean[PURIFIER]
    rung = Rung("adaptive", AttackConfig(kind), 32 / 255, pipeline=PURIFIER)
    made = attack_chunk(rung, clean)
    in_floats = kind == "autoattack"  # the others work on whole grey levels themselves
    assert (made.floats is not None) == in_floats
    assert 0 < (made.images - clean.x).abs().max() <= 32 / 255 + 1e-6
    torch.testing.assert_close(made.images * 255, torch.round(made.images * 255), atol=1e-4, rtol=0)
    rows = climb(rung, clean)
    assert all((row.float_prediction is not None) == in_floats and row.attacked for row in rows)


@pytest.mark.slow
def test_an_attack_without_a_budget_searches_once_for_all_budgets() -> None:
    pytest.importorskip("foolbox")
    rungs = [Rung("gray_box", AttackConfig("deepfool", steps=5), eps / 255) for eps in (2, 4)]
    shared, n = a_chunk(subject(), n=4), 3
    some = set(shared.paths[:n])
    together = [attack_chunk(rung, shared.only(some)).images for rung in rungs]
    assert len(shared.found) == 1
    attack_chunk(rungs[0], shared)  # more photographs: another search
    assert [len(x) for x in shared.found.values()] == [n, 4]
    alone = [attack_chunk(rung, a_chunk(subject(), n=4).only(some)).images for rung in rungs]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not torch.equal(*together)


# the job


def test_photographs_are_spread_evenly_over_the_classes(photos: Path) -> None:
    (photos / "unknown").mkdir()
    shutil.copy(photos / "cats" / "1.jpg", photos / "unknown")
    (photos / "cats" / "gone.jpg").symlink_to("nowhere")
    labels, sizes = Labels(("cats", "dogs")), {"expensive_limit": 3, "chunk_size": 2}
    plan = make_plan(list_images(photos), labels, "folder", limit=5, seed=0, **sizes)
    assert sorted(item.true_index for item in plan.items[:4]) == [0, 0, 1, 1]
    assert plan.items[0].true_index != plan.items[1].true_index
    orders = {
        tuple(
            str(item.image.path)
            for item in make_plan(list_images(photos), labels, "folder", limit=5, seed=s, **sizes).items
        )
        for s in range(8)
    }
    assert len(orders) > 4  # the seed draws which photographs come first, and of which class
    assert len({order[0].split("/")[0] for order in orders}) == 2
    assert plan.sha256
    assert plan.unlabelled == 1
    assert [plan.photographs(Rung("adaptive", PGD, 0.1, pipeline=PURIFIER), n) for n in range(3)] == [2, 1, 0]
    assert [plan.photographs(Rung("gray_box", PGD, 0.1), n) for n in range(3)] == [2, 2, 1]
    with pytest.raises(ConfigError, match="named after a class"):
        make_plan(list_images(photos), Labels(()), "folder", limit=None, seed=0, **sizes)


def test_every_rung_and_defence_is_reported(photos: Path, options: EvaluateOptions, tmp_path: Path) -> None:
    result = evaluate(photos, tmp_path / "out", options)
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
    """Presses Ctrl-C after so many chunks of rungs."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, rung: Rung, of: Chunk) -> Any:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return climb(rung, of)


def test_an_interrupted_evaluation_goes_on_to_the_same_rows(
    photos: Path, options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(photos, tmp_path / "whole", options)
    for after in (3, 4):
        monkeypatch.setattr(job, "climb", _Interrupt(after))
        stopped = evaluate(photos, tmp_path / "parts", options)
        assert (stopped.exit_code, stopped.document["finished"]) == (130, False)
    monkeypatch.setattr(job, "climb", climb)
    resumed = evaluate(photos, tmp_path / "parts", options)
    assert resumed.exit_code == 0
    assert resumed.document["cells"] == whole.document["cells"]
    files = [sorted((tmp_path / name / "records").rglob("*.parquet")) for name in ("whole", "parts")]
    assert len(files[0]) == len(files[1]) > 20
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_finished_evaluation_is_not_made_again(
    photos: Path, options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(options, attacks=(FGSM,), threat_models=("gray_box",))
    first = evaluate(photos, tmp_path / "out", options)
    monkeypatch.setattr(job, "climb", None)
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
    monkeypatch.setattr(libraries, "installed", {}.get)
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
    assert not out.exists()
    (out / "records").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no evaluation made it"):
        evaluate(photos, out, options)


class _Noise(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x + 0.2 * torch.randn_like(x), 0, 1)


class _Step(torch.nn.Module):
    """Gradients: none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x * 7) / 7


@pytest.mark.parametrize(
    ("net", "classifier", "check"),
    [
        (_Noise(), tiny.animals(), "randomness"),
        (_Step(), tiny.animals(), "zero gradients"),
        (tiny.purifier(), torch.nn.Sequential(tiny.animals(), torch.nn.Softmax(1)), "softmax"),
    ],
)
def test_masking_is_found_where_it_is_built_in(
    net: torch.nn.Module, classifier: Any, check: str, tmp_path: Path
) -> None:
    defences = {NONE: subject().defences[NONE], PURIFIER: network_defence(PURIFIER, net)}
    it = subject(defences=defences, classifier=classifier.eval())
    ladder = (Rung("clean"), Rung("adaptive", PGD, 8 / 255, pipeline=PURIFIER))
    for rung in ladder:
        write_records(climb(rung, a_chunk(it)), part_file(tmp_path, rung.key, 0))
    (cell,) = (cell for cell in summarise(tables(tmp_path, ladder), ladder, 0) if cell["threat_model"] == "adaptive")
    assert check in {warning["check"] for warning in cell["warnings"]}
    assert json.dumps(cell)


def tables(folder: Path, rungs: Iterable[Rung]) -> dict[str, dict[str, Table]]:
    return {rung.key: read_tables(folder, rung.key) for rung in rungs}


def by_hand(
    folder: Path, rung: Rung, right: dict[str, int], n: int = 10, *, wrong: Set[int] = frozenset(), sure: float = 0.5
) -> None:
    """Rows of a rung that leaves the first so many of `n` images right, by defence, but for those that are `wrong`."""
    rows = [
        Record(
            f"{i}.png",
            defence,
            true_index=0,
            prediction=0 if i < hits and i not in wrong else 1,
            float_prediction=0 if i < hits - 1 else 1,
            true_confidence=sure,
            top1_confidence=0.75,
            attacked=rung.attack is not None,
            max_delta=rung.eps,
            differs=False,
            probabilities=False,
            zero_gradient=False,
        )
        for defence, hits in right.items()
        for i in range(n)
    ]
    write_records(rows, part_file(folder, rung.key, 0))


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
        ({"photographs": sketch(some)}, "3 of these photographs have name and size of ones that it was trained or"),
        ({"photographs": ""}, "trained with none of these photographs."),
        ({}, "its checkpoint does not tell its photographs."),
    ):
        save_purifier(file, tiny.purifier(), tiny.NETWORK, about)
        document = evaluate(photos, tmp_path / str(len(about.get("photographs", "-"))), options).document
        assert said in describe(document)


def test_a_surrogate_with_the_classifiers_own_weights_is_refused(tmp_path: Path) -> None:
    same = ("tests.tiny:classifier", "")
    options = EvaluateOptions(
        checkpoint=tiny.checkpoint(tmp_path), classifier="tests.tiny:again", surrogates=(same,), image_size=tiny.SIZE
    )
    with pytest.raises(ConfigError, match="gray-box"):
        load_subject(options)


def test_cells_and_warnings_are_those_of_hand_made_rows(tmp_path: Path) -> None:
    eps = 8 / 255
    more = AttackConfig("pgd", steps=10)
    rights = {
        Rung("clean"): {NONE: 8, "JPEG-75": 5, PURIFIER: 7},
        Rung("gray_box", FGSM, eps): {NONE: 3, "JPEG-75": 7, PURIFIER: 6},
        Rung("gray_box", PGD, eps): {NONE: 2, "JPEG-75": 4, PURIFIER: 5},
        Rung("gray_box", more, eps): {NONE: 4, "JPEG-75": 4, PURIFIER: 6},
        Rung("black_box", AttackConfig("square"), eps, pipeline=PURIFIER): {PURIFIER: 1},
        Rung("adaptive", more, eps, pipeline=PURIFIER): {PURIFIER: 3},
        Rung("adaptive", PGD, eps, pipeline=PURIFIER, bpda=True): {PURIFIER: 3},
    }
    for rung, right in rights.items():
        by_hand(tmp_path, rung, right)
    cells = summarise(tables(tmp_path, rights), tuple(rights), seed=3)
    by_name = {(c["threat_model"], c["attack"], c["defence"]): c for c in cells}
    assert len(cells) == 3 + 3 * 3 + 3 + 3 + 1  # and the worst of the gray-box attacks, and of the adaptive ones
    assert [by_name["gray_box", WORST, name]["robust_top1"] for name in (NONE, "JPEG-75", PURIFIER)] == [0.2, 0.4, 0.5]
    assert by_name["adaptive", WORST, PURIFIER]["robust_top1"] == 0.3
    assert by_name["gray_box", WORST, PURIFIER]["clean_top1"] == 0.8
    purified = by_name["gray_box", "FGSM", PURIFIER]
    assert (purified["clean_top1"], purified["purified_clean_top1"], purified["robust_top1"]) == (0.8, 0.7, 0.6)
    assert purified["robust_top1_float"] == 0.5
    assert (purified["twice_right_top1_hits"], purified["twice_right_top1_n"]) == (6, 10)
    leaked = by_name["gray_box", "FGSM", "JPEG-75"]
    assert (leaked["robust_top1"], leaked["twice_right_top1"]) == (0.7, 0.5)
    assert purified["recovery"] == pytest.approx(6 / 8)
    assert (purified["attack_success_rate_hits"], purified["attack_success_rate_n"]) == (1, 7)
    assert purified["misclassification_rate"] == pytest.approx(0.2)
    assert (purified["true_confidence"], purified["top1_confidence"]) == (0.5, 0.75)
    assert by_name["clean", "clean", PURIFIER]["recovery"] == pytest.approx(7 / 8)
    warnings = {name: {w["check"]: w["text"] for w in c["warnings"]} for name, c in by_name.items() if c["warnings"]}
    assert warnings == {
        ("gray_box", "FGSM", "JPEG-75"): {
            "label leak": "7 of 10 are right when attacked, 5 of 10 when clean",
        },
        # bad examples flatter every defence that faces them
        **{
            ("gray_box", "PGD-10", defence): {
                "more steps do worse": "PGD-3 leaves 2 of 10 right, this attack 4 of 10",
            }
            for defence in (NONE, "JPEG-75", PURIFIER)
        },
        ("adaptive", WORST, PURIFIER): {
            "less knowledge does better": "Square-5000 (black_box) leaves 1 of 10 right, this attack 3 of 10",
        },
        ("adaptive", "PGD-10", PURIFIER): {
            "less knowledge does better": "Square-5000 (black_box) leaves 1 of 10 right, this attack 3 of 10",
        },
    }


def test_the_worst_of_several_attacks_is_taken_image_by_image(tmp_path: Path) -> None:
    ladder = (Rung("clean"), *(Rung("gray_box", attack, 4 / 255) for attack in (FGSM, PGD)))
    ladder += (Rung("gray_box", FGSM, 8 / 255),)  # alone with its budget: no choice, and no worst
    by_hand(tmp_path, ladder[0], {NONE: 4}, n=4)
    for rung, wrong, sure, n in zip(ladder[1:], ({0}, {1}, {2}), (0.4, 0.3, 0.2), (4, 3, 4), strict=True):
        by_hand(tmp_path, rung, {NONE: n}, n=n, wrong=wrong, sure=sure)
    cells = summarise(tables(tmp_path, ladder), ladder, seed=0)
    (worst,) = (cell for cell in cells if cell["attack"] == WORST)
    assert (worst["n"], worst["eps"]) == (4, 4 / 255)
    assert worst["robust_top1"] == 2 / 4
    # the first is fooled by FGSM, the second by PGD, the third least sure under PGD, the fourth has met FGSM alone
    assert worst["true_confidence"] == pytest.approx((0.4 + 0.3 + 0.3 + 0.4) / 4)


def test_an_honest_purifier_raises_no_alarm(photos: Path, options: EvaluateOptions, tmp_path: Path) -> None:
    document = evaluate(photos, tmp_path / "out", options).document
    raised = {warning["check"] for cell in document["cells"] for warning in cell["warnings"]}
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
