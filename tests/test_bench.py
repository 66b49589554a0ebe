import itertools
import json
from functools import partial
from pathlib import Path

import pytest
import torch._inductor.config

from purifyctl.bench import BenchOptions, bench, timing
from purifyctl.bench.loops import open_loop
from purifyctl.bench.networks import networks_of
from purifyctl.bench.peers import peer
from purifyctl.config.bench import Peer
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, ConfigError
from purifyctl.images.synthetic import natural_images
from purifyctl.metrics import PERCENTILES
from purifyctl.report.bench import plot_bench, show_bench
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images
from tests import tiny

PEERS_HERE: tuple[Peer, ...] = ("torch", "onnxruntime", "loop", "loop-openvino")


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WINDOW_S", 0.02)


@pytest.fixture
def own_checkpoint(tiny_bundle: Bundle) -> Path:
    return tiny_bundle.path.parent / "run"


@pytest.mark.slow
def test_a_bundle_is_measured_alone_in_stages_and_against_its_peers(
    tiny_bundle: Bundle, own_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "notes.txt").write_text("no photograph")
    options = BenchOptions(photos=photos, against=PEERS_HERE, checkpoint=own_checkpoint, rounds=1)
    figures = bench(tiny_bundle, options)
    engine = figures["engine"]
    assert list(engine["by_batch"]) == [1, 2, 4]
    networks = tiny_bundle.manifest.networks
    chain = ("purifier", "classifier")  # without the gate, which only `run --gate` uses
    assert engine["multiply_adds_per_image"] == sum(networks[name].multiply_adds for name in chain) > 0
    assert engine["of_matrix_product"] > 0
    stages = figures["stages"]
    slowest = min(stages["images_per_s"][name] for name in ("decode", "engine", "encode"))
    assert 0 < stages["ceiling_images_per_s"] < slowest  # on a CPU they share the cores
    assert figures["photographs"] == 8  # whole batches of those that can be read
    assert tuple(figures["against"]) == PEERS_HERE
    assert figures["against"]["loop"]["precision"] == figures["against"]["torch"]["precision"] == "fp32"
    assert figures["against"]["loop-openvino"]["precision"] in ("fp32", "bf16")  # OpenVINO chooses
    for found in figures["against"].values():
        assert found["times_faster"] == pytest.approx(found["ours_images_per_s"] / found["images_per_s"], rel=0.05)
    json.dumps(figures)
    show_bench(figures)
    shown = capsys.readouterr().out
    assert "of the ceiling" in shown
    assert "loop-openvino" in shown
    plot_bench(figures, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_compiled_peer_leaves_the_uncompiled_one_unchanged(
    tiny_bundle: Bundle, own_checkpoint: Path, photos: Path
) -> None:
    networks = networks_of(tiny_bundle, own_checkpoint)
    images = natural_images(4, tiny.SIZE)
    with peer("torch-compile", networks, images, "cpu") as compiled, peer("torch", networks, images, "cpu") as plain:
        compiled()
        plain()
    assert networks.purifier._compiled_call_impl is None


@pytest.mark.slow
def test_the_compiled_loop_runs_and_says_so_when_there_is_no_compiler(
    tiny_bundle: Bundle, own_checkpoint: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled before needs no compiler
    open_compiled = partial(
        open_loop,
        "loop-compile",
        networks_of(tiny_bundle, own_checkpoint),
        image_size=tiny.SIZE,
        batch=2,
        image_format="png",
        device="cpu",
    )
    without = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.raises(BackendError, match="No working C") as refused:
        open_compiled()
    assert refused.value.hint == "install g++, or leave out --against loop-compile"
    torch.compiler.reset()
    loop = open_compiled()
    assert loop.precision == "fp32"
    assert loop.images_per_s([Path(image.file) for image in list_images(samples)[:4]]) > 0


def test_peers_run_the_bundles_own_networks_or_none(tiny_bundle: Bundle, photos: Path) -> None:
    with pytest.raises(ConfigError, match="was not built from") as caught:
        bench(tiny_bundle, BenchOptions(photos=photos, against=("torch",), checkpoint=shipped_checkpoint()))
    assert tiny_bundle.manifest.networks["purifier"].source in caught.value.hint


def test_what_cannot_be_measured_is_refused_before_any_time_is_spent(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes 1 to 4"):
        bench(tiny_bundle, BenchOptions(batch_sizes=(1, 8)))
    with pytest.raises(ConfigError, match="none is named"):
        BenchOptions(checkpoint=shipped_checkpoint())
    (tmp_path / "broken.jpg").write_text("no photograph")
    with pytest.raises(ConfigError, match="None of 1 files"):
        bench(tiny_bundle, BenchOptions(photos=tmp_path))


def test_a_latency_counts_the_windows_that_agree_and_not_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.chain([0.5] * 2, itertools.repeat(0.02))  # seconds; two slow calls, then steady ones
    now = 0.0

    def call() -> None:
        nonlocal now
        now += next(times)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    found = timing.latency(call)
    assert found.steady
    assert found.calls == timing.STEADY  # one call to a window
    assert found.ms == {f"p{p}": pytest.approx(20) for p in PERCENTILES}


def test_times_that_never_become_steady_are_reported_as_not_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    now, step = 0.0, 0.02

    def call() -> None:
        nonlocal now, step
        step *= 1.5
        now += step

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert not timing.latency(call).steady


def test_what_is_compared_is_measured_in_turns() -> None:
    order: list[str] = []

    def named(name: str) -> float:
        order.append(name)
        return len(order)

    figures = timing.in_turns({"a": lambda: named("a"), "b": lambda: named("b")}, rounds=2)
    assert order == ["a", "b", "a", "b"]
    assert figures == {"a": [1, 3], "b": [2, 4]}
