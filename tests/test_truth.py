"""Where true classes come from."""

from pathlib import Path, PurePosixPath

import pytest

from purifyctl.config.attack import AttackOptions
from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.errors import ConfigError
from purifyctl.labels import Labels, imagenet_labels, numbered, read_labels
from purifyctl.truth import PlannedTruth, TruthFromFile, TruthFromFolder, planned_truth

ANIMALS = Labels(("cat", "great dane", "crane"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat\ngreat dane\ncrane\n", "labels.txt"),
        ("\ufeffcat\r\ngreat dane\r\ncrane\r\n\r\n", "labels.txt"),
        ('["cat", "great dane", "crane"]', "labels.json"),
        ('{"0": "cat", "2": "crane", "1": "great dane"}', "labels.json"),
        ('{"crane": 2, "cat": 0, "great dane": 1}', "labels.json"),
        ('{"0": ["n1", "cat"], "1": ["n2", "great dane"], "2": ["n3", "crane"]}', "keras.json"),
    ],
)
def test_labels_are_read_from_every_form_of_file(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_labels(str(tmp_path / name), 3) == ANIMALS


def test_labels_as_wordnet_ids_get_names(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("n01440764\nn01443537\n")
    labels = read_labels(str(tmp_path / "ids.txt"), 2)
    assert labels.names == ("tench", "goldfish")
    assert labels.find("n01443537") == labels.find("Goldfish") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat\ndog\n", "has 2 names, and the classifier has 3 classes"),
        ("cat\n\ndog\n", "line 2: the name is empty"),
        ('{"0": "cat", "5": "dog", "1": "bird"}', "do not count from 0 to 2"),
        ("[1,", "no JSON"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_labels(str(tmp_path / "labels"), 3)


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("0/a.jpg", 0),
        ("2/a.jpg", 2),
        ("Great_Dane/a.jpg", 1),
        ("7/a.jpg", None),
        ("02/a.jpg", None),  # a month
        ("2024/2/a.jpg", None),  # a month, too
        ("holiday 2024/2/a.jpg", 2),
    ],
)
def test_folders_are_named_after_classes_by_name_or_index(path: str, index: int | None) -> None:
    assert TruthFromFolder(ANIMALS)(PurePosixPath(path)) == index


def test_as_many_folders_as_classes_without_names_stand_for_them_in_order(tmp_path: Path) -> None:
    for name in ("wolf", "ape", "bee"):
        (tmp_path / name).mkdir()
    truth = TruthFromFolder(numbered(3), tmp_path)
    assert [truth(PurePosixPath(f"{name}/1.jpg")) for name in ("ape", "bee", "wolf")] == [0, 1, 2]
    assert "order" in truth.where
    assert TruthFromFolder(numbered(4), tmp_path)(PurePosixPath("ape/1.jpg")) is None
    assert TruthFromFolder(ANIMALS, tmp_path)(PurePosixPath("ape/1.jpg")) is None


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.jpg,cat\nsub/b.jpg,2\n",
        "a.jpg,0\nsub/b.jpg,crane\n",
        "\ufefflabel;filename\ncat;./a.jpg\nCrane;sub\\b.jpg\n",
        "a.jpg\tcat\n\nsub/b.jpg\tcrane\n",
        "id,image,class\n7,a.jpg,cat\n8,sub/b.jpg,crane\n",
    ],
)
def test_a_file_gives_classes_by_path(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    truth = TruthFromFile(tmp_path / "t.csv", ANIMALS)
    assert [truth(PurePosixPath(path)) for path in ("a.jpg", "sub/b.jpg", "b.jpg")] == [0, 2, None]
    truth.check_used()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.jpg,cat\nb.jpg,fish\n", r"1 classes that the classifier does not have: 'fish' \(line 3\)"),
        ("a.jpg,cat\na.jpg,crane\n", "two classes, in lines 1 and 2"),
        ("a.jpg\n", "line 1: a path and a class are needed"),
        ("", "gives no classes"),
    ],
)
def test_a_file_that_cannot_be_true_is_refused_with_its_lines(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        TruthFromFile(tmp_path / "t.csv", ANIMALS)


def test_lines_that_name_no_input_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("file,label\na.jpg,cat\ngone.jpg,cat\n")
    truth = TruthFromFile(tmp_path / "t.csv", ANIMALS)
    with pytest.raises(ConfigError, match="names no file of the source"):
        truth.check_used()
    assert truth.of(b"a.jpg") == 0
    truth.check_used()
    assert "'gone.jpg' (line 3)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("said", "paths", "kept"), [("", 1, False), ("", 3, True), ("folders", 1, True)])
def test_folders_called_like_a_class_count_if_most_inputs_lie_in_such(said: str, paths: int, kept: bool) -> None:
    truth = planned_truth(said, imagenet_labels(), None)
    for i in range(4):
        truth.of(b"church/%d.jpg" % i if i < paths else b"zoo trip/%d.jpg" % i)
    facts = truth.facts()
    assert facts == {"from": "folder names" if kept else "none", "labelled": paths if kept else 0, "inputs": 4}


def test_nothing_has_a_true_class_when_none_is_asked_for_or_nothing_is_classified() -> None:
    assert planned_truth("none", ANIMALS, None) == planned_truth("", Labels(()), None) == PlannedTruth(None, False)
    with pytest.raises(ConfigError, match="nothing is classified"):
        planned_truth("folders", Labels(()), None)


def test_what_version_0_1_0_said_with_labels_is_understood() -> None:
    assert (AttackOptions().truth_from, EvaluateOptions().truth_from) == ("predicted", "folders")
    assert AttackOptions(labels="folder").truth_from == "folders"
    assert EvaluateOptions(labels="predicted").truth_from == "predicted"
    assert EvaluateOptions(labels="predicted").defended.labels == ""
    assert EvaluateOptions(labels="mine.txt", truth="t.csv").defended.labels == "mine.txt"
    assert EvaluateOptions(truth="t.csv").truth_file == Path("t.csv")
