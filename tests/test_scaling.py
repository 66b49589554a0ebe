"""The simulation of the pipeline, and the page of predictions that is made with it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl.engine.bundle import Bundle
from tests.benchmarks import scaling
from tests.benchmarks.pipeline_model import Cost, Need, Rest, Stage, predict, simulate, speeds

MANY = 400  # batches: enough that filling and emptying the pipeline hardly count


def step(seconds: float, resource: str = "cores", most: float = 1) -> tuple[Need, ...]:
    return (Need(resource, seconds, most),)


def rate(*stages: Stage, cores: float = 2, window: int = 20, batch: int = 4, **others: float) -> float:
    return simulate(stages, {"cores": cores, **others}, batch=batch, window=window, batches=MANY).images_per_s


def test_one_thread_does_one_image_after_the_other() -> None:
    assert rate(Stage("decode", (step(0.01),))) == pytest.approx(100)


def test_threads_of_one_stage_fill_the_cores_and_no_more() -> None:
    assert rate(Stage("encode", (step(0.01, most=8),)), cores=2) == pytest.approx(200)
    assert rate(Stage("encode", (step(0.01, most=8),)), cores=16) == pytest.approx(800)


def test_stages_that_share_cores_take_as_long_as_all_of_them_together() -> None:
    stages = (
        Stage("decode", (step(0.002, most=2),)),
        Stage("infer", (step(0.02),), 2),
        Stage("write", (step(0.003, most=2),)),
    )
    assert rate(*stages) == pytest.approx(2 / 0.025, rel=0.01)


def test_of_stages_with_resources_of_their_own_the_slowest_counts() -> None:
    stages = Stage("decode", (step(0.01, "decoder"),)), Stage("infer", (step(0.02, "gpu"),))
    assert rate(*stages, decoder=1, gpu=1) == pytest.approx(50, rel=0.01)


def test_with_one_batch_in_hand_nothing_overlaps() -> None:
    stages = Stage("decode", (step(0.01, "decoder"),)), Stage("infer", (step(0.02, "gpu"),))
    assert rate(*stages, decoder=1, gpu=1, window=1) == pytest.approx(1 / 0.03)


def test_a_stage_that_waits_for_one_batch_at_a_time_is_named_when_no_resource_is_full() -> None:
    steps = step(0.01, "decoder"), step(0.01, "gpu")
    found = simulate([Stage("decode", steps)], {"decoder": 1, "gpu": 1}, batch=4, window=20, batches=MANY)
    assert found.limited_by == "stage decode"
    assert found.images_per_s == pytest.approx(50)


def test_who_does_not_use_what_is_full_is_not_slowed_down() -> None:
    given_steps = (step(1.0, most=2), step(1.0, most=2), step(1.0, "gpu"))
    assert speeds(given_steps, (("cores", 2.0), ("gpu", 1.0))) == pytest.approx([1, 1, 1])


@given(
    needs=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.01, 10)), min_size=1, max_size=3), min_size=1, max_size=4
    ),
    at_once=st.integers(1, 3),
    window=st.integers(1, 6),
)
def test_no_resource_is_used_beyond_its_capacity(
    needs: list[list[tuple[str, float]]], at_once: int, window: int
) -> None:
    stages = [
        Stage(str(i), tuple(step(amount, name) for name, amount in each), at_once) for i, each in enumerate(needs)
    ]
    found = simulate(stages, {"a": 1.0, "b": 2.0, "c": 3.0}, batch=2, window=window, batches=12)
    assert max([*found.busy.values(), *found.occupied.values()]) <= 1 + 1e-6
    for name, capacity in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        used = sum(amount for each in needs for resource, amount in each if resource == name)
        assert found.busy[name] * capacity == pytest.approx(found.images_per_s * used)


def test_a_run_on_cores_is_bounded_by_the_processor_time_of_its_parts() -> None:
    costs = {"decode": Cost(0.002, 2.0), "engine": Cost(0.024, 2.0), "encode": Cost(0.006, 2.0)}
    found = predict(costs, Rest(0.001, 0.0005), requests=2, batch=16, images=16 * MANY, cores=2)
    assert found.images_per_s == pytest.approx(2 / 0.0335, rel=0.02)
    assert found.limited_by == "cores"


def test_more_machines_never_do_less() -> None:
    one, node, ten, shards = (scaling.total(setting) for setting in scaling.MACHINES.values())
    assert one <= node <= ten <= shards
    assert shards <= 10 * node * 1.001


def test_the_page_holds_what_the_simulation_says() -> None:
    page = scaling.PAGE.read_text()
    assert page == scaling.filled(page), "python -m tests.benchmarks.scaling --write"


@pytest.mark.slow
def test_the_rooflines_are_those_of_the_networks() -> None:
    from tests.benchmarks.roofline import chains, seconds

    found = {name: seconds(layers, scaling.FLOP_PER_S, scaling.MEMORY_PER_S) for name, layers in chains().items()}
    assert found == pytest.approx(scaling.ROOFLINE_S, rel=0.01)


def test_the_simulation_gives_what_was_measured_on_an_idle_machine_within_a_tenth() -> None:
    assert scaling.predicted_here() == pytest.approx(scaling.RUN_HERE, rel=0.1)


@pytest.mark.slow
def test_the_simulation_is_compared_with_a_run_here(tmp_path: Path, tiny_bundle: Bundle, many: Path) -> None:
    """Roughly, because other tests run at the same time: `python -m tests.benchmarks.scaling_here` measures it."""
    from tests.benchmarks.scaling_here import measure

    (one,) = measure(tiny_bundle, many, "png", 1)
    assert all(cost.core_s > 0 and cost.cores > 0 for cost in one.costs.values())
    found = predict(one.costs, Rest(0.0002, 0.0002), requests=2, batch=4, images=28, cores=2)
    assert 0.1 < found.images_per_s / one.images_per_s < 20
