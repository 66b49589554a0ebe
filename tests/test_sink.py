from pathlib import Path, PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from purifyctl.files import write_atomically
from purifyctl.images.sink import output_paths, printable

FORMATS = ("png", "webp", "jpeg")
NAMES = st.text("aB.", min_size=1, max_size=3).filter(lambda n: n.strip("."))
ENDINGS = st.sampled_from(["", ".jpg", ".JPG", ".png", ".png.png", ".jpg.png", ".webp"])
PATHS = st.builds(
    lambda folders, name, ending: PurePosixPath(*folders, name + ending), st.lists(NAMES, max_size=2), NAMES, ENDINGS
)


@given(st.lists(PATHS, unique=True, max_size=12), st.sampled_from(FORMATS))
def test_no_two_inputs_share_an_output_and_each_stays_in_its_folder(paths: list[PurePosixPath], kind: str) -> None:
    outputs = output_paths(paths, kind)
    assert len(set(outputs)) == len(paths)
    folders = {folder for path in paths for folder in path.parents}
    for path, output in zip(paths, outputs, strict=True):
        assert output.parent == path.parent
        assert output.name.startswith(path.name)
        assert output == path or output not in folders


def test_outputs_keep_names_that_fit_and_extend_the_others() -> None:
    paths = [PurePosixPath(p) for p in ("a/1.jpg", "a/1.png", "a/2.JPG", "a/2.JPG.png")]
    assert [str(p) for p in output_paths(paths, "png")] == ["a/1.jpg.png", "a/1.png", "a/2.JPG.png.png", "a/2.JPG.png"]
    assert [str(p) for p in output_paths(paths, "jpeg")][:3] == ["a/1.jpg", "a/1.png.jpg", "a/2.JPG"]


def test_a_name_as_long_as_names_can_be_is_written(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 251 + ".png")
    write_atomically(file, b"data")
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_names_that_are_no_utf8_become_printable() -> None:
    assert printable(PurePosixPath("a\udcff/ü\n.jpg")) == "a\\xff/ü\n.jpg"
