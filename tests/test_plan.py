"""A plan grows: whatever is added, killed, shared, each input is planned once and done once."""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purifyctl.config.run import PLAN
from purifyctl.errors import BusyError
from purifyctl.images.names import Naming
from purifyctl.labels import Labels
from purifyctl.run import plan as plans
from purifyctl.run.listed import Listed
from purifyctl.run.plan import Plan, write_plan
from purifyctl.run.rows import Row
from purifyctl.run.run_folder import RunFolder
from purifyctl.sources import Found
from purifyctl.sources.choice import Choice
from purifyctl.sources.local import LocalSource
from purifyctl.truth import planned_truth

NAMES = st.sampled_from(
    [f"{name}{ending}" for name in ("a", "b", "a.b", "c/a", "c/d") for ending in ("", ".jpg", ".png")]
)
GROW = st.tuples(st.just("grow"), st.lists(NAMES, min_size=1, max_size=4))
CALL = st.tuples(st.just("call"), st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]))
# where a call is killed: while it lists, before or after its addition gets its name, or in the middle of its parts
KILL = st.tuples(st.just("kill"), st.sampled_from(["listing", "before", "after", "parts"]))
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Killed(BaseException):
    """A call ends here."""


def call(
    source: Path, out: Path, shard: tuple[int, int] = (0, 1), *, packed: bool = False, killed: str = ""
) -> tuple[Plan, Listed | None]:
    """What `run` does with a folder, without networks. A row is made once: to make it again is an error."""

    def found() -> Iterator[Found]:
        for n, one in enumerate(LocalSource(source).inputs(Choice(strict=True))):
            if killed == "listing" and n:
                raise Killed
            yield one

    def make_plan(file: Path, earlier: Plan | None) -> Listed:
        naming, truth = Naming("png"), planned_truth("", Labels(()), None)
        return write_plan(
            file, found(), naming=naming, truth=truth, batch_size=2, archives=packed, earlier=earlier
        )  # fmt: skip

    link = os.link

    def linked(one: Path, other: Path) -> None:
        if killed == "before":
            raise Killed
        link(one, other)
        if killed == "after":
            raise Killed

    with RunFolder(source, out, shard) as folder, mock.patch.object(os, "link", linked):
        plan, listed = folder.begin_or_resume({"packed": packed}, "resume", make_plan)
        for number in range(shard[0], plan.parts, shard[1]):
            if not folder.is_committed(number):
                inputs = plan.part(number).inputs
                folder.commit(
                    number, {p: Row(str(one.image.path), output=str(one.output)) for p, one in enumerate(inputs)}
                )
                if killed == "parts":
                    raise Killed
        return plan, listed


def touch(source: Path, name: str) -> None:
    file = source / name
    with contextlib.suppress(OSError):  # a folder has this name, or a file the name of the folder
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.slow
@FEW
@given(st.lists(st.one_of(GROW, CALL, KILL), max_size=12), st.booleans())
def test_whatever_grows_and_is_killed_and_shared_ends_with_each_input_exactly_once(
    steps: list[tuple[str, object]], packed: bool
) -> None:
    with tempfile.TemporaryDirectory() as name, mock.patch.object(plans, "PART_SIZE", 2):
        source, out = Path(name, "source"), Path(name, "out")
        source.mkdir()
        touch(source, "first.jpg")
        outputs: dict[str, str] = {}
        for what, more in steps:
            if what == "grow":
                for file in more:
                    touch(source, file)
            else:
                with contextlib.suppress(Killed):
                    shard = more if what == "call" else (0, 1)
                    call(source, out, shard, packed=packed, killed=more if what == "kill" else "")
            now = rows_of(out)
            assert outputs.items() <= now.items()  # what was done stays
            outputs = now
        plan, _ = call(source, out, packed=packed)
        files = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
        planned = [one for number in range(plan.parts) for one in plan.part(number).inputs]
        assert sorted(str(one.image.path) for one in planned) == sorted(files)
        assert len({one.output for one in planned}) == len(planned)
        assert rows_of(out) == {str(one.image.path): str(one.output) for one in planned}
        again, listed = call(source, out, packed=packed)
        assert (again.parts, listed and listed.added) == (plan.parts, 0)


def rows_of(out: Path) -> dict[str, str]:
    """The output of each committed row, by path. Each path has one row."""
    from purifyctl.run.rows import read_rows

    rows = [row for part in sorted(out.glob("rows/part-*")) for row in read_rows(part)]
    assert not [path for path, n in Counter(row["path"] for row in rows).items() if n > 1]
    return {row["path"]: row["output"] for row in rows}


def test_where_nothing_is_locked_the_second_of_two_calls_that_extend_a_plan_at_once_is_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    touch(source, "1.jpg")
    call(source, out)
    touch(source, "2.jpg")
    link = os.link

    def another_first(one: Path, other: Path) -> None:
        link(one, other.with_name("theirs"))
        other.with_name("theirs").rename(other)
        link(one, other)

    with mock.patch.object(os, "link", another_first), RunFolder(source, out, (0, 1)) as folder:
        plan = Plan(out / PLAN)
        addition = lambda file, earlier: _added(source, file, earlier)  # noqa: E731
        with pytest.raises(BusyError, match="at the same moment"):
            folder._extend(plan, addition)
    assert [one.image.path.name for one in Plan(out / PLAN).part(1).inputs] == ["2.jpg"]
    assert not list(out.glob(".0-of-1.plan*"))


def _added(source: Path, file: Path, earlier: Plan | None) -> Listed:
    found = LocalSource(source).inputs()
    return write_plan(
        file, found, naming=Naming("png"), truth=planned_truth("", Labels(()), None), batch_size=2, earlier=earlier
    )


def test_a_call_that_waited_for_another_ones_listing_does_not_list_again(tmp_path: Path) -> None:
    import fcntl
    import threading

    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    touch(source, "1.jpg")
    call(source, out, (0, 2))
    with (out / ".plan.lock").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        release = threading.Timer(0.2, fcntl.flock, (stream, fcntl.LOCK_UN))
        release.start()
        assert call(source, out, (1, 2))[1] is None
        release.join()
    assert call(source, out, (1, 2))[1] is not None
