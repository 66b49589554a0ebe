"""Runs in which something goes wrong: another call resumes them, and ends where an undisturbed run does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, OutputError
from purifyctl.run import RunOptions, run
from tests import hostile
from tests.kills import ROOT, assert_same, command, faulty, harass, rows_of

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "why"),
    [("segfault", "crashed", "SIGSEGV"), ("oom", "crashed", "memory"), ("hang", "timeout", "3 s")],
)
def test_an_image_that_kills_the_worker_gets_its_row_and_the_run_continues(
    fault: str, status: str, why: str, many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(
        many,
        tiny_bundle,
        tmp_path / "out",
        RunOptions(image_timeout=3),
        worker=faulty(f"{fault}=05.jpg", f"{fault}=06.jpg"),
    )
    assert result.exit_code == 3
    assert result.summary["statuses"] == {"ok": 28, status: 2}
    for row, expected in zip(rows_of(tmp_path / "out"), rows_of(undisturbed), strict=True):
        if row["path"] in ("05.jpg", "06.jpg"):
            assert row["status"] == status
            assert why in row["error"]
        else:
            assert row == expected
    # another machine, another day
    again = run(many, tiny_bundle, tmp_path / "out", RunOptions(retry_failed=True))
    assert (again.exit_code, again.summary["this_call"]["rows"]) == (0, 2)
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "status", "why"), [("segfault", "crashed", "SIGSEGV"), ("hang", "timeout", "3 s")])
def test_an_image_that_kills_or_hangs_the_decoder_gets_its_row_and_the_engine_is_not_started_again(
    fault: str,
    status: str,
    why: str,
    many: Path,
    undisturbed: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(many, tmp_path / "source")
    hostile.mark(tmp_path / "source" / "05.jpg")
    options = RunOptions(image_timeout=3)
    worker = faulty(f"decoder={fault}={hostile.MARK}")
    result = run(tmp_path / "source", tiny_bundle, tmp_path / "out", options, worker=worker)
    assert result.exit_code == 3
    assert "started again" not in capfd.readouterr().err
    for row, expected in zip(rows_of(tmp_path / "out"), rows_of(undisturbed), strict=True):
        if row["path"] == "05.jpg":
            assert row["status"] == status
            assert why in row["error"]
        else:
            assert row == expected


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["segfault", "oom", "hang"])
def test_what_happens_once_costs_no_image(
    fault: str, many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = RunOptions(image_timeout=3)
    assert (
        run(
            many, tiny_bundle, tmp_path / "out", options, worker=faulty(f"{fault}=13.jpg@{tmp_path / 'struck'}")
        ).exit_code
        == 0
    )
    assert (tmp_path / "struck").exists()
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_an_engine_that_fails_stops_the_run_and_another_call_resumes_it(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match="device is gone"):
        run(many, tiny_bundle, tmp_path / "out", worker=faulty("engine-fails=4"))
    assert 0 < sum(pq.read_metadata(p).num_rows for p in (tmp_path / "out" / "rows").iterdir()) < 30
    assert run(many, tiny_bundle, tmp_path / "out").exit_code == 0
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_another_call_resumes_it(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="No space left") as caught:
        run(many, tiny_bundle, tmp_path / "out", worker=faulty("disk-full=15"))
    assert "make room" in caught.value.hint
    assert run(many, tiny_bundle, tmp_path / "out").exit_code == 0
    assert_same(tmp_path / "out", undisturbed)


def test_a_worker_that_does_not_start_says_why(many: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"did not start: exit code 1.*No module named tests\.no_such"):
        run(many, tiny_bundle, tmp_path / "out", worker=(sys.executable, "-m", "tests.no_such"))


@pytest.mark.slow
def test_a_file_that_vanishes_after_it_was_planned_gets_its_row(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(many, source)
    run(source, tiny_bundle, tmp_path / "out", RunOptions(shard=(0, 4)))
    (source / "29.jpg").unlink()
    (source / "28.jpg").write_bytes(b"")
    result = run(source, tiny_bundle, tmp_path / "out")
    assert result.summary["statuses"] == {"ok": 28, "empty": 1, "unreadable": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("more", "grows"), [((), False), (("--gate",), False), ((), True)])
def test_runs_that_are_killed_at_random_points_end_as_an_undisturbed_one(
    more: tuple[str, ...], grows: bool, many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    subprocess.run(command(many, tiny_bundle, tmp_path / "whole", *more), cwd=ROOT, check=True)
    done = harass(many, tiny_bundle, tmp_path, tmp_path / "whole", *more, kills=5, seed=0, grows=grows)
    assert done.pop("runs") >= 1
    assert done.total() == 5


@pytest.mark.slow
def test_every_file_of_a_hostile_folder_ends_as_a_row_with_the_right_status(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    expected = hostile.build(many, tmp_path / "source", n=60, share=0.8, seed=0)
    crasher = os.fsdecode(min(path for path, statuses in expected.items() if statuses == {"ok"}))
    expected[os.fsencode(crasher)] = frozenset({"crashed"})
    options = RunOptions(strict=True)  # files that are called and begin like no picture get rows, too
    result = run(tmp_path / "source", tiny_bundle, tmp_path / "out", options, worker=faulty(f"segfault={crasher}"))
    assert result.exit_code == 3
    statuses = hostile.check(tmp_path / "out", expected)
    assert statuses["crashed"] == 1
    assert {"ok", "empty", "decode_failed", "not_an_image", "unsupported_format", "too_large"} <= set(statuses)


@pytest.mark.slow
def test_slow_storage_takes_time_and_nothing_else_and_is_named_as_what_limits_the_run(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(many, tiny_bundle, tmp_path / "out", RunOptions(image_timeout=3), worker=faulty("slow-read=0.4"))
    assert result.exit_code == 0
    assert result.summary["this_call"]["limited_by"] == "read"
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_batches_that_are_encoded_together_leave_the_images_that_single_ones_do(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    jpeg = RunOptions(image_format="jpeg")
    assert run(many, tiny_bundle, tmp_path / "single", jpeg).exit_code == 0
    assert run(many, tiny_bundle, tmp_path / "together", jpeg, worker=faulty("gpu-jpeg=cpu")).exit_code == 0
    assert rows_of(tmp_path / "together") == rows_of(tmp_path / "single")
    for file in (tmp_path / "single" / "images").iterdir():
        one, two = (np.asarray(Image.open(f)).astype(int) for f in (file, tmp_path / "together" / "images" / file.name))
        assert np.abs(one - two).mean() < 0.5


def test_a_disk_without_room_for_the_plan_is_named_without_a_traceback(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    words = ["prlimit", "--fsize=1000", *command(many, tiny_bundle, tmp_path / "out")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "File too large" in done.stderr
    assert "make room, and give the same command again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_file_system_quota_stops_the_run_and_another_call_resumes_it(
    many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "whole"
    subprocess.run(command(many, tiny_bundle, undisturbed), cwd=ROOT, check=True)
    sizes = sorted(file.stat().st_size for file in (undisturbed / "images").iterdir())
    words = command(many, tiny_bundle, tmp_path / "out")
    limited = ["prlimit", f"--fsize={sizes[-3]}", *words]  # the largest images do not fit
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "make room, and give the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.part"))
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0
    assert_same(tmp_path / "out", undisturbed)
