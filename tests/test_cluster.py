"""Runs on Ray: a real one, on this machine."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import typer
from ray.cluster_utils import Cluster

from purifyctl import cli
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, ConfigError
from purifyctl.files import file_sha256
from purifyctl.run import RunOptions, plan, run
from purifyctl.run.messages import InputBatch, MachineSetup, Setup
from purifyctl.run.parent import cluster
from purifyctl.run.parent.ray_actor import Purifier
from purifyctl.run.plan import Plan
from tests import tiny
from tests.kills import actors, assert_same, children

N = 120


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "PART_SIZE", 40)
        yield


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Cluster]:
    """A cluster of one machine with two CPUs, and this process at work on it."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=machines.address, logging_level="ERROR", log_to_driver=False)
    yield machines
    ray.shutdown()
    machines.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for i in range(N):
        (folder / f"{i:03}.jpg").write_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(many, tiny_bundle, out).exit_code == 3
    return out


@pytest.mark.slow
def test_two_workers_on_ray_make_the_same_rows_and_images_as_a_plain_run(
    on_ray: Cluster, many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(many, tiny_bundle, tmp_path / "out", RunOptions(ray="", workers=2))
    assert result.exit_code == 3
    assert result.summary["statuses"] == {"ok": N, "not_an_image": 1}
    assert_same(tmp_path / "out", undisturbed)
    assert list((tmp_path / "out" / "images").glob(".*")) == []


@pytest.mark.slow
def test_whole_pictures_on_ray_are_those_of_a_plain_run(
    on_ray: Cluster, many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    for name, options in (
        ("here", RunOptions(size="original")),
        ("ray", RunOptions(size="original", ray="", workers=2)),
    ):
        result = run(many, tiny_bundle, tmp_path / name, options)
        assert result.summary["statuses"] == {"ok": N, "not_an_image": 1}
    assert_same(tmp_path / "ray", tmp_path / "here")


@pytest.mark.slow
def test_an_actor_that_is_killed_during_its_work_changes_nothing(
    on_ray: Cluster, many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", []

    def kill() -> None:
        while not killed:
            busy = [pid for pid in actors() if children(pid)] if any(out.glob("images/*.png")) else []
            if busy:
                os.kill(busy[0], signal.SIGKILL)
                killed.append(busy[0])
            time.sleep(0.005)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert run(many, tiny_bundle, out, RunOptions(ray="", workers=2)).exit_code == 3
    thread.join(1)
    assert killed
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_machines_that_lose_every_worker_stop_the_run_with_the_reason(
    on_ray: Cluster, many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    kills_its_actor = (sys.executable, "-c", "import os, time; os.kill(os.getppid(), 9); time.sleep(9)")
    with pytest.raises(BackendError, match="3 Ray workers were lost in a row"):
        run(many, tiny_bundle, tmp_path / "out", RunOptions(ray="", workers=1), worker=kills_its_actor)


@pytest.mark.slow
def test_a_machine_that_is_lost_for_good_leaves_its_work_to_the_others(
    on_ray: Cluster,
    many: Path,
    undisturbed: Path,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, out = on_ray.add_node(num_cpus=1), tmp_path / "out"

    def remove() -> None:
        while not any(out.glob("images/*.png")):
            time.sleep(0.01)
        monkeypatch.setattr(cluster, "PLACE_S", 5.0)  # now that all have a place
        on_ray.remove_node(other, allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    assert run(many, tiny_bundle, out, RunOptions(ray="", workers=3)).exit_code == 3
    thread.join()
    assert_same(out, undisturbed)
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        time.sleep(0.1)


@pytest.mark.slow
def test_what_fails_in_a_worker_far_away_is_reported_here(
    on_ray: Cluster, many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=r"No module named tests\.no_such"):
        run(
            many,
            tiny_bundle,
            tmp_path / "out",
            RunOptions(ray="", workers=1),
            worker=(sys.executable, "-m", "tests.no_such"),
        )


@pytest.mark.slow
def test_a_cluster_without_room_is_refused_at_once(
    on_ray: Cluster, many: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="1 machines with a CPU, 2 CPUs in all: 9 workers") as caught:
        run(many, tiny_bundle, tmp_path / "out", RunOptions(ray="", workers=9))
    assert "--workers 2" in caught.value.hint


@pytest.mark.slow
def test_a_cluster_that_is_busy_is_given_up_with_the_reason(
    on_ray: Cluster, many: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PLACE_S", 1.0)
    others = ray.remote(num_cpus=2)(type("Others", (), {})).remote()
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(BackendError, match="It asks for 2 CPU; free in the cluster: 0 CPU"):
        run(many, tiny_bundle, tmp_path / "out", RunOptions(ray=""))
    ray.kill(others)


def test_rays_client_is_refused_because_it_cannot_stream(many: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is for Ray's client") as caught:
        run(many, tiny_bundle, tmp_path / "out", RunOptions(ray="ray://head:10001"))
    assert "--ray auto" in caught.value.hint


def test_a_password_is_not_given_to_ray_which_would_note_it(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\n")
    options = RunOptions(ray="", files_from=tmp_path / "list.txt")
    with pytest.raises(ConfigError, match="holds a password or a signature") as caught:
        run("http://me:sesame@127.0.0.1:9/photos", tiny_bundle, tmp_path / "out", options)
    assert "sesame" not in str(caught.value)


def test_an_engine_for_gpus_is_refused_where_there_are_none() -> None:
    machine = {"Alive": True, "Resources": {"CPU": 8.0}}
    with pytest.raises(ConfigError, match="0 machines with a GPU") as caught:
        cluster._share_out([machine], on_gpu=True, workers=None)
    assert "build-engine cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("on_gpu", "workers", "expected"),
    [
        (False, None, (2, {"num_cpus": 4})),  # a machine each; the head has no CPU to give
        (False, 4, (4, {"num_cpus": 2})),
        (True, None, (6, {"num_gpus": 1, "num_cpus": 1})),
        (True, 3, (3, {"num_gpus": 1, "num_cpus": 1})),
    ],
)
def test_workers_are_shared_out_among_machines(
    on_gpu: bool, workers: int | None, expected: tuple[int, dict[str, float]]
) -> None:
    machines = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"memory": 1e9}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert cluster._share_out(machines, on_gpu=on_gpu, workers=workers) == expected


@pytest.fixture
def machine_setup(many: Path, tiny_bundle: Bundle, undisturbed: Path, tmp_path: Path) -> MachineSetup:
    setup = Setup(tiny_bundle, ("purifier",), None, undisturbed, tmp_path / "partial", False, many, RunOptions())
    marker = undisturbed / "run.json"
    probe = Plan(undisturbed / "plan.parquet").part(0).inputs[0].image
    return MachineSetup(setup, probe, marker, file_sha256(marker), None)


def test_a_machine_that_sees_another_output_is_refused(machine_setup: MachineSetup) -> None:
    with pytest.raises(BackendError, match="is not the folder that the run was begun in"):
        Purifier().open(replace(machine_setup, marker_sha256="0"), {})


def test_a_machine_that_cannot_read_what_the_first_one_can_is_refused(machine_setup: MachineSetup) -> None:
    assert machine_setup.probe is not None
    elsewhere = replace(machine_setup.probe, file=Path("/nowhere/000.jpg"))
    with pytest.raises(BackendError, match=r"cannot read 000\.jpg, which can be read where the run was started"):
        Purifier().open(replace(machine_setup, probe=elsewhere), {})


def test_a_machine_that_cannot_write_there_is_refused(machine_setup: MachineSetup, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    setup = replace(machine_setup.setup, partial=tmp_path / "file")
    with pytest.raises(BackendError, match=r"cannot write .*/file/"):
        Purifier().open(replace(machine_setup, setup=setup), {})


def test_a_machine_with_another_version_is_refused(machine_setup: MachineSetup) -> None:
    with pytest.raises(BackendError, match=r"the run was started by 9\.9"):
        Purifier().open(replace(machine_setup, version="9.9"), {})


def test_the_engine_travels_to_machines_that_do_not_have_it(machine_setup: MachineSetup, many: Path) -> None:
    files = cluster._files(machine_setup.setup.bundle)
    elsewhere = replace(machine_setup.setup.bundle, path=Path("/nowhere"))
    for _ in range(2):  # the second one finds it there
        actor = Purifier()
        actor.open(replace(machine_setup, setup=replace(machine_setup.setup, bundle=elsewhere)), files)
        assert actor._supervisor is not None
        here = actor._supervisor._setup.bundle
        assert here.sha256 == elsewhere.sha256
        assert here.path != elsewhere.path
        here.check_runs_here()


def test_what_is_left_of_a_batch_is_what_has_no_rows_yet(undisturbed: Path) -> None:
    inputs = Plan(undisturbed / "plan.parquet").part(0).inputs[:4]
    left = cluster._without(InputBatch(0, 0, (0, 1, 2, 3), inputs), {1, 2})
    assert left == InputBatch(0, 0, (0, 3), [inputs[0], inputs[3]])
    assert cluster._without(left, {0, 3}) is None


@pytest.mark.parametrize(
    ("words", "address"),
    [(["--ray"], ""), (["--ray", "--csv"], ""), (["--ray", "auto"], "auto"), (["--ray=a:1"], "a:1"), ([], None)],
)
def test_the_address_of_ray_may_be_left_out(words: list[str], address: str | None) -> None:
    command = typer.main.get_command(cli.app).commands["run"]
    assert command.make_context("run", ["photos", "--out", "clean", *words]).params["ray"] == address
