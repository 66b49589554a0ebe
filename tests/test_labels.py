from pathlib import PurePosixPath

import pytest

from purifyctl.labels import Labels, imagenet_labels, numbered
from purifyctl.truth import TruthFromFolder


def test_imagenet_has_a_thousand_classes_in_the_order_of_their_ids() -> None:
    labels = imagenet_labels()
    assert len(labels.names) == len(set(labels.names)) == 1000
    assert list(labels.wnids) == sorted(labels.wnids)
    assert (labels.wnids[0], labels.names[0]) == ("n01440764", "tench")


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("n01440764/a.jpg", 0),
        ("val/n01440764/more/a.jpg", 0),
        ("tench/a.jpg", 0),
        ("great_white-Shark/a.jpg", 2),
        ("n01440764/goldfish/a.jpg", 1),  # the nearest folder wins
        ("a.jpg", None),
        ("holiday/n01440764.jpg", None),
    ],
)
def test_the_nearest_folder_named_after_a_class_gives_the_truth(path: str, index: int | None) -> None:
    assert TruthFromFolder(imagenet_labels())(PurePosixPath(path)) == index


def test_a_name_that_two_classes_share_gives_no_truth() -> None:
    truth = TruthFromFolder(Labels(("crane", "crane", "dog")))
    assert truth(PurePosixPath("crane/1.jpg")) is None
    assert truth(PurePosixPath("dog/1.jpg")) == 2


def test_classes_without_names_go_by_their_number() -> None:
    assert Labels(()).name(7) == numbered(10).name(7) == "class 7"
    assert numbered(3).are_numbers
    assert not Labels(("a",)).are_numbers
