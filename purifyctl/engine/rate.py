"""How often a call can be made."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WINDOW_S = 1.0  # seconds; a window holds at least one call


def per_second(call: Callable[[], Any], threads: int = 1, *, seconds: float = WINDOW_S) -> float:
    """Calls per second from this number of threads, over one window, after one call that does not count."""
    call()
    with ThreadPoolExecutor(threads) as pool:
        return rate(call, threads, pool, seconds)


def rate(call: Callable[[], Any], threads: int, pool: ThreadPoolExecutor, seconds: float = WINDOW_S) -> float:
    """Calls per second from `threads` threads of `pool`, over one window."""
    start = time.perf_counter()
    counts = list(pool.map(lambda _: _calls_until(call, start + seconds), range(threads)))
    return sum(counts) / (time.perf_counter() - start)


def _calls_until(call: Callable[[], Any], end: float) -> int:
    count = 0
    while True:
        call()
        count += 1
        if time.perf_counter() >= end:
            return count
