"""The process that decodes for a worker: what a file does to it costs that file alone."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from purifyctl.config.picture_options import DEFAULTS
from purifyctl.errors import BackendError
from purifyctl.images import Decoded, Decoder
from purifyctl.images.damage import Encoded
from purifyctl.run.worker import decoding
from purifyctl.run.worker.decoding import DecoderProcess
from tests import tiny

MARK = b"kills its decoder"
SIZE = 32


def never() -> None: ...


@contextmanager
def opened(timeout: float = 60.0) -> Iterator[DecoderProcess]:
    with DecoderProcess(size=SIZE, batch_size=4, threads=2, options=DEFAULTS, timeout=timeout) as process:
        yield process


def as_bytes(data: bytes) -> Encoded:
    return np.frombuffer(data, np.uint8)


def files(*, bad: bool = True) -> list[Encoded]:
    good = [tiny.encoded(tiny.photograph(seed=i), kind) for i, kind in enumerate(("JPEG", "PNG", "BMP"))]
    return [as_bytes(data) for data in (good[0], good[1] + MARK * bad, b"no picture", good[2])]


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str, once: object = "") -> None:
    command = (sys.executable, "-m", "tests.faulty_decoder", fault, MARK.decode(), str(once))
    monkeypatch.setattr(decoding, "COMMAND", command)


def assert_same(one: Decoded, other: Decoded) -> None:
    assert np.array_equal(one.images, other.images)
    assert (one.positions, one.facts) == (other.positions, other.facts)
    assert {i: (e.status, str(e)) for i, e in one.errors.items()} == {
        i: (e.status, str(e)) for i, e in other.errors.items()
    }


def here(batch: list[Encoded]) -> Decoded:
    with Decoder(size=SIZE, batch_size=4, threads=2) as decoder:
        return decoder.decode(batch)


def test_it_decodes_as_a_decoder_in_this_process_does() -> None:
    with opened() as process:
        for batch in (files(), files()[:1], [as_bytes(b"no picture")]):
            assert_same(process.decode(batch, never), here(batch))


@pytest.mark.parametrize(
    ("fault", "status", "why"),
    [("segfault", "crashed", "SIGSEGV"), ("oom", "crashed", "memory"), ("hang", "timeout", "1 s")],
)
def test_a_file_that_kills_or_hangs_it_costs_no_other_file(
    fault: str, status: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty(monkeypatch, fault)
    signs: list[None] = []
    with opened(timeout=1.0 if fault == "hang" else 60.0) as process:
        process.decode(files(bad=False), never)
        found = process.decode(files(), lambda: signs.append(None))
        assert found.errors[1].status == status
        assert why in str(found.errors[1])
        without = here(files())
        assert found.positions == [0, 3]
        assert np.array_equal(found.images, without.images[[0, 2]])
        assert found.errors[2].status == "not_an_image"
        assert_same(process.decode(files(bad=False), never), here(files(bad=False)))
    assert bool(signs) == (fault == "hang")  # the parent hears that it is alive


def test_what_happens_once_costs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faulty(monkeypatch, "segfault", tmp_path / "struck")
    with opened() as process:
        assert_same(process.decode(files(), never), here(files()))
    assert (tmp_path / "struck").exists()


def test_it_is_there_again_if_the_process_that_forks_is_killed() -> None:
    with opened() as process:
        process.decode(files(), never)
        process._process.kill()
        assert_same(process.decode(files(), never), here(files()))


def test_another_one_is_there_at_once() -> None:
    with opened() as process:
        process.decode(files(), never)
        began = time.monotonic()
        process.decode(files(), never)
        usual = time.monotonic() - began
        os.kill(process._decoder, signal.SIGKILL)
        began = time.monotonic()
        process.decode(files(), never)
        assert time.monotonic() - began < 1.0 + 20 * usual  # loading the libraries would take longer


def test_nothing_is_left_of_it_even_if_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "hang")
    with opened() as process:
        process.decode(files(bad=False), never)
        connection, decoder = process._connection, process._decoder
        assert connection is not None
        connection.send(files())
        forks = process._process.pid
    for pid in (forks, decoder):
        end = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and _state(pid) != "Z" and time.monotonic() < end:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists() or _state(pid) == "Z"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "Z"


def test_one_that_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-c", "raise SystemExit(7)"))
    with opened() as process, pytest.raises(BackendError, match="did not start: exit code 7"):
        process.decode(files(), never)


def test_a_machine_on_which_every_file_kills_it_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "segfault")
    monkeypatch.setattr(decoding, "HOPELESS", 3)
    with opened() as process, pytest.raises(BackendError, match="died 3 times"):
        process.decode([as_bytes(MARK)] * 4, never)
