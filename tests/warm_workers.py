"""Runs in the tests' own process have workers and decoders that start at once: most of their time is their start.

Commands that `subprocess` starts have real ones, and so have Ray's actors.
"""

import functools
import gc
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tests.forking import fork_for, fork_workers_by

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    *("numpy", "PIL.Image", "nvidia.dali.fn", "openvino", "rich.console", "rich.progress", "rich.table", "typer"),
    *("purifyctl.run.messages", "purifyctl.run.worker.whole", "purifyctl.engine.backends.openvino"),
    *("purifyctl.cli.app", "purifyctl.run"),
)


@contextmanager
def forked_workers() -> Iterator[None]:
    """Workers of this process are forked."""
    really_popen = subprocess.Popen
    fork_workers_by(_first)
    yield
    subprocess.Popen = really_popen  # type: ignore[misc]


@functools.cache
def _first() -> socket.socket:
    """A process that forks workers, and ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"from tests import warm_workers; warm_workers.main({theirs.fileno()})"
    with theirs:
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        ).returncode = 0  # nobody waits for it
    return ours


def main(descriptor: int) -> NoReturn:
    """Import, and fork."""
    from purifyctl.machine import hush_libraries

    hush_libraries()
    for library in LIBRARIES:
        importlib.import_module(library)
    assert len(list(Path("/proc/self/task").iterdir())) == 1  # no other thread would be in what is forked
    gc.collect()
    gc.freeze()  # collecting would copy this process's memory into each that it forks
    fork_for(socket.socket(fileno=descriptor))
