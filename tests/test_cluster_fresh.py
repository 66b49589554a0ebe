"""A fresh Ray that `run --ray` starts on this machine."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from purifyctl.engine.bundle import Bundle
from tests import tiny
from tests.kills import actors, children

pytest.importorskip("ray")


def below(pid: int) -> list[int]:
    """A process and all processes below it."""
    return [pid, *(process for child in children(pid) for process in below(child))]


def listening_elsewhere(pids: list[int]) -> list[str]:
    """Addresses other than 127.0.0.1 and ::1 that these processes listen on, as the kernel writes them."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended since
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(link))  # noqa: PTH115 (it leads to no path)
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets and not local.partition(":")[0].endswith("0100007F"):
                found.append(local)
    return found


@pytest.mark.slow
def test_a_fresh_ray_listens_on_this_machine_alone_and_ends_with_the_command(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        (photos / f"{i}.jpg").write_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG"))
    words = ["run", photos, "--engine", tiny_bundle.path, "--out", tmp_path / "out", "--ray", "--workers", "2"]
    command = [sys.executable, "-m", "purifyctl", *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        looked: list[int] = []
        elsewhere: list[str] = []
        while process.poll() is None and not looked:
            pids = below(process.pid)
            if set(actors()) & set(pids):
                looked, elsewhere = pids, listening_elsewhere(pids)
            time.sleep(0.2)
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert len(looked) > 3  # this process, Ray's two servers, and at least one actor
    assert elsewhere == []
    assert actors() == []
