"""The names of outputs: they join with the inputs' names, and no two are the same, also when inputs come later."""

import os
from pathlib import PurePosixPath

from hypothesis import assume, given
from hypothesis import strategies as st

from purifyctl.config.formats import format_of
from purifyctl.images.names import Naming, name_outputs, output_paths

PNG = Naming("png")
NAMINGS = st.builds(Naming, st.sampled_from(("png", "webp", "jpeg")), st.booleans())
NAMES = st.text("aB.-", min_size=1, max_size=3).filter(lambda n: n.strip("."))
ENDINGS = st.sampled_from(["", ".jpg", ".JPG", ".png", ".png.png", ".jpg.png", ".webp", ".gif"])
FOLDERS = st.builds(str.__add__, NAMES, st.sampled_from(["", "", ".png", ".jpg"]))
PATHS = st.builds(
    lambda folders, name, ending: PurePosixPath(*folders, name + ending), st.lists(FOLDERS, max_size=2), NAMES, ENDINGS
)
# an object store may have an object beside a "folder" of the same name
SOURCES = st.lists(PATHS, unique=True, max_size=12)


def named(*paths: str, naming: Naming = PNG) -> list[str]:
    return [str(path) for path in output_paths([PurePosixPath(path) for path in paths], naming)]


def test_an_output_has_its_inputs_name_with_the_ending_of_its_own_format() -> None:
    assert named("a/chickadee.jpg", "b.PNG", "c", "d.e.TIFF", "v1.5") == [
        "a/chickadee.png", "b.PNG", "c.png", "d.e.png", "v1.5.png",
    ]  # fmt: skip


def test_inputs_that_would_share_a_name_all_keep_their_own_with_one_more_ending() -> None:
    assert named("a.jpg", "a.webp", "a") == ["a.jpg.png", "a.webp.png", "a.png"]
    assert named("a.jpg", "a.webp") == ["a.jpg.png", "a.webp.png"]
    assert named("a.jpg", "a.png") == ["a.jpg.png", "a.png"]
    assert named("a.jpg", "a.png", "a.jpg.png") == ["a.jpg.png.png", "a.png", "a.jpg.png"]
    assert named("a.jpg", "a.png/1.jpg") == ["a.jpg.png", "a.png/1.png"]
    assert named("x/a.jpg", "y/a.webp") == ["x/a.png", "y/a.png"]


def test_names_can_be_kept_where_the_format_can_be_written() -> None:
    keep = Naming("png", keep=True)
    assert named("a.jpg", "a.JPEG", "a.webp", "b.gif", naming=keep) == ["a.jpg", "a.JPEG", "a.webp", "b.png"]
    assert named("a.png", "a.gif", naming=keep) == ["a.png", "a.gif.png"]


@given(SOURCES, NAMINGS)
def test_no_two_inputs_share_an_output_and_each_stays_in_its_folder(paths: list[PurePosixPath], naming: Naming) -> None:
    outputs = output_paths(paths, naming)
    assert len(set(outputs)) == len(paths)
    folders = {folder for path in paths for folder in path.parents}
    for path, output in zip(paths, outputs, strict=True):
        assert output.parent == path.parent
        assert output.name.startswith(path.stem)
        assert output not in folders
        assert format_of(output.name) is not None


@given(SOURCES, st.data(), NAMINGS)
def test_inputs_that_come_later_get_names_that_no_earlier_one_has_and_the_earlier_ones_stay(
    paths: list[PurePosixPath], data: st.DataObject, naming: Naming
) -> None:
    ordered = sorted(os.fsencode(path) for path in paths)
    ages = data.draw(st.lists(st.integers(0, 2), min_size=len(ordered), max_size=len(ordered)))
    made: dict[bytes, bytes] = {}
    for age in range(3):
        there = [path for path, born in zip(ordered, ages, strict=True) if born <= age]
        outputs = dict(zip(there, name_outputs(((path, made.get(path)) for path in there), naming), strict=True))
        assert made.items() <= outputs.items()
        assert len(set(outputs.values())) == len(outputs)
        made = outputs


@given(SOURCES, NAMINGS)
def test_names_do_not_depend_on_inputs_in_other_folders(paths: list[PurePosixPath], naming: Naming) -> None:
    folders = {folder for path in paths for folder in path.parents}
    endings = ("", ".png", ".webp", ".jpg", ".jpeg")
    made = {path.parent / (name + ending) for path in paths for name in (path.stem, path.name) for ending in endings}
    # a store may have a file and a folder of one name; a folder also takes the name of an output
    assume(not folders & made)
    together = dict(zip(paths, output_paths(paths, naming), strict=True))
    for folder in {path.parent for path in paths}:
        alone = [path for path in paths if path.is_relative_to(folder)]
        assert output_paths(alone, naming) == [together[path] for path in alone]


def test_many_files_of_one_name_up_to_the_first_dot_are_named_in_time_that_grows_with_their_number() -> None:
    paths = [b"frame.%06d.jpg" % i for i in range(50_000)]
    assert list(name_outputs(((path, None) for path in paths), PNG))[-1] == b"frame.049999.png"
