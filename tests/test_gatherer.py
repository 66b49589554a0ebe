"""The gatherer: flagged images from several batches are purified together."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.run.worker.flagged import Gatherer


@given(batches=st.lists(st.integers(0, 5), max_size=30), size=st.integers(1, 8), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_every_flagged_image_is_purified_once_in_batches_that_are_full_while_others_come(
    batches: list[int], size: int, seed: int
) -> None:
    done: list[list[tuple[int, int]]] = []
    lock = threading.Lock()

    def process(batch: list[tuple[int, int]]) -> None:
        with lock:
            done.append(batch)

    gatherer = Gatherer(size, 3, process)
    with ThreadPoolExecutor(3) as pool:
        for number, n in enumerate(batches):
            gatherer.enter()
            pool.submit(gatherer.leave, [(number, k) for k in range(n)])
    assert sorted(one for batch in done for one in batch) == [(i, k) for i, n in enumerate(batches) for k in range(n)]
    assert all(len(batch) <= size for batch in done)


def test_gathered_batches_are_full_while_more_batches_come() -> None:
    done: list[list[int]] = []
    gatherer = Gatherer(4, 2, done.append)
    gatherer.enter()
    for number in range(9):
        gatherer.enter()
        gatherer.leave([number])
    assert done == [[0, 1, 2, 3], [4, 5, 6, 7]]
    gatherer.leave()
    assert done[2:] == [[8]]
