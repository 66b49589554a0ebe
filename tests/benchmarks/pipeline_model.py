"""A simulation of the pipeline's stages: batches go through them, and everything that runs at once shares what the
machine has.

A stage is what `purifyctl/run/worker` makes a pool of threads of. A step of it needs so much of one or several
resources for each image: core-seconds, bytes of a link, seconds of a GPU. Steps that run at once are slowed by the same
factor until the resource that is in shortest supply is full, as threads are on the cores of a machine. Steps that do
not use that resource run faster, until the next one is full.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EMPTY = 1e-9  # images; less than this is nothing
FULL = 0.9  # of a resource


@dataclass(frozen=True)
class Need:
    """What a step needs of one resource."""

    resource: str
    per_image: float  # core-seconds, seconds of a device, bytes
    most: float = float("inf")  # what it can use at once: threads; infinite: all there is


@dataclass(frozen=True)
class Stage:
    """One stage: its steps, one after the other, and how many batches are in it at once."""

    name: str
    steps: tuple[tuple[Need, ...], ...]  # each step needs all its resources at the same time
    at_once: int = 1


@dataclass(eq=False)
class _Work:
    """A batch in a stage."""

    stage: int
    left: float  # images
    step: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a simulated run did."""

    images_per_s: float
    busy: Mapping[str, float]  # share of each resource's capacity that was used, in [0, 1]
    occupied: Mapping[str, float]  # share of the batches that each stage may work on at once, in [0, 1]

    @property
    def limited_by(self) -> str:
        """The resource that was used most, if it was nearly full. If none was: the stage that was."""
        resource, stage = (max(found, key=lambda name: found[name]) for found in (self.busy, self.occupied))
        return resource if self.busy[resource] >= FULL else f"stage {stage}"


def simulate(
    stages: Sequence[Stage], capacity: Mapping[str, float], *, batch: int, window: int, batches: int = 200
) -> Outcome:
    """Run batches through the stages of one worker.

    Parameters
    ----------
    capacity
        Units per second of each resource: cores, bytes/s, 1 for a device.
    batch
        Images in a batch.
    window
        Batches that the worker has in hand at once.
    """
    waiting = [0] * len(stages)  # batches in front of each stage
    running: list[_Work] = []
    held = tuple(sorted(capacity.items()))
    sent = done = 0
    now, used, occupied = 0.0, dict.fromkeys(capacity, 0.0), dict.fromkeys((stage.name for stage in stages), 0.0)
    while done < batches:
        more = min(batches, done + window) - sent
        waiting[0] += more
        sent += more
        for i, stage in enumerate(stages):
            started = min(waiting[i], stage.at_once - sum(work.stage == i for work in running))
            waiting[i] -= started
            running += [_Work(i, batch) for _ in range(started)]
        steps = tuple(stages[work.stage].steps[work.step] for work in running)
        speed = speeds(steps, held)
        passed = min(work.left / images for work, images in zip(running, speed, strict=True))
        now += passed
        for work, step, images in zip(running, steps, speed, strict=True):
            work.left -= images * passed
            occupied[stages[work.stage].name] += passed / stages[work.stage].at_once
            for need in step:
                used[need.resource] += need.per_image * images * passed
        for work in [work for work in running if work.left < EMPTY]:
            work.step, work.left = work.step + 1, batch
            if work.step == len(stages[work.stage].steps):
                running.remove(work)
                if work.stage + 1 < len(stages):
                    waiting[work.stage + 1] += 1
                else:
                    done += 1
    return Outcome(
        batches * batch / now,
        {name: used[name] / (amount * now) for name, amount in capacity.items()},
        {name: seconds / now for name, seconds in occupied.items()},
    )


@functools.lru_cache(maxsize=4096)
def speeds(steps: tuple[tuple[Need, ...], ...], capacity: tuple[tuple[str, float], ...]) -> list[float]:
    """Images/s of each of the steps that run at the same time."""
    left = dict(capacity)
    alone = [1 / max(need.per_image / min(need.most, left[need.resource]) for need in step) for step in steps]
    found = [0.0] * len(steps)
    growing = set(range(len(steps)))
    while growing:
        load = dict.fromkeys(left, 0.0)
        for i in growing:
            for need in steps[i]:
                load[need.resource] += need.per_image * alone[i]
        factors = {name: max(left[name], 0.0) / load[name] for name in load if load[name]}
        factor = min(1.0, *factors.values())
        full = {name for name, each in factors.items() if each <= factor * (1 + EMPTY)}
        fixed = {i for i in growing if factor == 1 or any(need.resource in full for need in steps[i])}
        for i in fixed:
            found[i] = alone[i] * factor
            for need in steps[i]:
                left[need.resource] -= need.per_image * found[i]
        growing -= fixed
    return found


@dataclass(frozen=True)
class Cost:
    """Processor time of one stage, by itself."""

    core_s: float  # per image
    cores: float  # that it kept busy


@dataclass(frozen=True)
class Rest:
    """Processor time for each image beside decode, engine and encode, in seconds."""

    worker: float
    parent: float


def on_cores(costs: Mapping[str, Cost], rest: Rest, *, requests: int) -> list[Stage]:
    """The stages of a run on a CPU. `requests`: batches that the engine works on at once."""

    def core(seconds: float, most: float) -> tuple[Need, ...]:
        return (Need("cores", seconds, most),)

    def one_thread(process: str, seconds: float) -> tuple[Need, ...]:  # a process's Python code runs in one thread
        return (Need("cores", seconds, 1), Need(process, seconds, 1))

    decode, engine, encode = costs["decode"], costs["engine"], costs["encode"]
    return [
        Stage("decode", (core(decode.core_s, decode.cores),)),
        Stage("infer", (core(engine.core_s, max(1.0, engine.cores / requests)),), at_once=requests),
        Stage("write", (core(encode.core_s, encode.cores), one_thread("worker", rest.worker))),
        Stage("commit", (one_thread("parent", rest.parent),)),
    ]


def predict(costs: Mapping[str, Cost], rest: Rest, *, requests: int, batch: int, images: int, cores: float) -> Outcome:
    """A run over `images` photographs on this many cores."""
    scale = cores / max(cost.cores for cost in costs.values())  # the machine may have been busier then
    found = on_cores({name: Cost(c.core_s, c.cores * scale) for name, c in costs.items()}, rest, requests=requests)
    capacity = {"cores": cores, "worker": 1.0, "parent": 1.0}
    return simulate(found, capacity, batch=batch, window=requests + 4, batches=images // batch)
