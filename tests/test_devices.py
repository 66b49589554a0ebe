"""Several devices on one stream of batches."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from purifyctl.config.run import RunOptions
from purifyctl.errors import BackendError
from purifyctl.run.messages import InputBatch, Setup
from purifyctl.run.parent import devices
from purifyctl.run.parent.blame import InHand
from purifyctl.run.parent.devices import RESULTS, Batches, LostDeviceError, process_all
from purifyctl.run.parent.supervisor import Supervisor
from purifyctl.run.parent.worker_process import REACHED
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row

BATCHES = [InputBatch(0, i, (i,), ()) for i in range(100)]


class Fake:
    """A device that counts what it does; `before` each batch it may stop."""

    ready_at = 0.0
    threads: Mapping[str, int] = {}

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self.done = 0
        self._before = before

    def process(self, batches: Batches) -> Iterator[tuple[InputBatch, list[Row]]]:
        for batch in batches:
            try:
                self._before(self.done)
            except LostDeviceError:
                batches.give_back([batch])
                raise
            self.done += 1
            yield batch, [Row(str(batch.number))]

    def close(self) -> None:
        pass


def test_a_caller_that_waits_for_slow_devices_can_show_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "AWAKE_S", 0.01)
    seen = threading.Event()
    slow = Fake(lambda _: seen.wait(10) and None)
    found = []
    for batch, rows in process_all([slow], iter(BATCHES[:1])):
        found.append(None if batch is None else len(rows))
        seen.set()
    assert found[0] is None
    assert found[-1] == 1


def test_a_batch_moves_the_bar_when_it_comes_to_a_stage() -> None:
    supervisor = Supervisor(Setup(None, (), None, Path(), Path(), False, "", RunOptions()))
    assert supervisor.under_way == 0
    inputs = [Input(None, None, None)] * 10
    held = [InHand(InputBatch(0, n, tuple(range(10)), inputs), share=REACHED[stage]) for n, stage in enumerate(REACHED)]
    supervisor._worker = SimpleNamespace(in_hand=dict(enumerate(held)))
    assert supervisor.under_way == pytest.approx(10 * sum(REACHED.values()))
    assert list(REACHED.values()) == sorted(REACHED.values())
    assert max(REACHED.values()) < 1  # a batch whose rows have not come is not done


def lost(after: int) -> Callable[[int], None]:
    def before(done: int) -> None:
        if done == after:
            raise LostDeviceError("gone")

    return before


def test_devices_share_out_all_batches() -> None:
    all_three = [Fake(), Fake(), Fake()]
    numbers = [batch.number for batch, _ in process_all(all_three, iter(BATCHES)) if batch]
    assert sorted(numbers) == list(range(100))
    assert sum(device.done for device in all_three) == 100


def test_what_a_lost_device_had_in_hand_is_done_by_another_that_was_through_already() -> None:
    waited = threading.Event()

    def lost_when_nothing_is_left(_done: int) -> None:
        assert waited.wait(10)
        time.sleep(0.1)  # the other one has asked for more, and found nothing
        raise LostDeviceError("gone")

    good, bad = Fake(lambda done: waited.set() if done == 98 else None), Fake(lost_when_nothing_is_left)
    numbers = [batch.number for batch, _ in process_all([bad, good], iter(BATCHES)) if batch]
    assert sorted(numbers) == list(range(100))
    assert (good.done, bad.done) == (100, 0)


def test_the_last_device_that_is_lost_ends_it() -> None:
    with pytest.raises(LostDeviceError, match="gone"):
        list(process_all([Fake(lost(3)), Fake(lost(5))], iter(BATCHES)))


def test_an_error_of_one_device_ends_it() -> None:
    def fail(_done: int) -> None:
        raise BackendError("broken")

    with pytest.raises(BackendError, match="broken"):
        list(process_all([Fake(), Fake(fail)], iter(BATCHES)))


def test_devices_wait_when_nobody_takes_their_results() -> None:
    device = Fake()
    stream = process_all([device], iter(BATCHES))
    next(stream)
    time.sleep(0.3)
    assert device.done <= 1 + RESULTS + 1  # taken, waiting, and the one in its hands
    stream.close()
