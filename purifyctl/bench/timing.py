"""Calls repeated until their times are steady; several things timed in turns."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from purifyctl.engine.rate import WINDOW_S, rate
from purifyctl.metrics import percentiles

STEADY = 3  # windows in a row that must agree
WITHIN = 0.05  # relative; figures that differ by no more are steady
MOST_WINDOWS = 12


@dataclass(frozen=True)
class Latency:
    """Times of single calls, one after the other, over the windows that agreed."""

    calls: int
    ms: dict[str, float]  # p50, p90, p95, p99
    steady: bool  # False: `MOST_WINDOWS` were not enough


@dataclass(frozen=True)
class Throughput:
    """Calls per second from as many threads as keep the engine busy, over the windows that agreed."""

    per_s: float
    steady: bool


def latency(call: Callable[[], Any]) -> Latency:
    """Times of `call`, once the windows' medians are steady. The windows before are the warm-up."""
    windows: list[list[float]] = []
    medians: list[float] = []
    while len(windows) < MOST_WINDOWS and not _steady(medians):
        windows.append(_window(call))
        medians.append(statistics.median(windows[-1]))
    kept = [ms for window in windows[-STEADY:] for ms in window]
    return Latency(len(kept), percentiles(kept), _steady(medians))


def throughput(call: Callable[[], Any], threads: int) -> Throughput:
    """Calls per second of `call` from `threads` threads, once the windows' figures are steady."""
    rates: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        while len(rates) < MOST_WINDOWS and not _steady(rates):
            rates.append(rate(call, threads, pool))
    return Throughput(statistics.mean(rates[-STEADY:]), _steady(rates))


def in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """A figure of each call, per round: A B C, A B C, ... Machines are noisy: compared figures must share the noise."""
    figures: dict[str, list[float]] = {name: [] for name in calls}
    for _, (name, call) in itertools.product(range(rounds), calls.items()):
        figures[name].append(call())
    return figures


def _window(call: Callable[[], Any]) -> list[float]:
    """Times in ms of the calls of one window."""
    times: list[float] = []
    end = time.perf_counter() + WINDOW_S
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _steady(figures: list[float]) -> bool:
    last = figures[1:][-STEADY:]  # the first window is the warm-up
    return len(last) == STEADY and max(last) <= min(last) * (1 + WITHIN)
