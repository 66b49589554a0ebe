"""Commands in processes of their own that start at once, because one that has imported the libraries forks them."""

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from purifyctl.engine.staging import one_at_a_time

ROOT = Path(__file__).parents[1]
Call = Callable[..., bytes]  # as the fixture `call` of conftest
LAUNCHER = """#!{python} -IS
import json, os, socket, sys
words = json.dumps({{"words": ["", "purifyctl", *sys.argv[1:]], "cwd": os.getcwd(), "environment": dict(os.environ)}})
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    socket.send_fds(link, [len(words.encode()).to_bytes(8)], [0, 1, 2])
    link.sendall(words.encode())
    code = int(link.recv(16) or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


@functools.cache
def _server() -> str:
    """Where the process that forks is listening. The processes of a test session share it, and it ends with them."""
    address = Path(os.environ["PURIFYCTL_TESTS"]) / "warm"
    with one_at_a_time(address):
        if not address.exists():
            _start_server(str(address))
    return str(address)


def _start_server(address: str) -> None:
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    environment.pop("PYTHONPATH", None)
    session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    words = [sys.executable, "-m", "tests.warm", address, str(session)]
    server = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True)
    while not Path(address).exists():
        assert server.poll() is None
        time.sleep(0.02)
    server.returncode = 0  # nobody waits for it


def python(
    *words: object, cwd: Path = ROOT, timeout: float = 600, check: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python WORDS`, where they begin with -c or -m, with this checkout and more of an environment."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    request = json.dumps(
        {
            "words": [str(word) for word in words],
            "cwd": str(cwd),
            "environment": {**os.environ, "PYTHONPATH": path, **environment},
        }
    ).encode()
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        open(os.devnull) as nothing,  # noqa: PTH123
        socket.socket(socket.AF_UNIX) as link,
    ):
        link.connect(_server())
        link.settimeout(timeout)
        socket.send_fds(link, [len(request).to_bytes(8)], [stream.fileno() for stream in (nothing, out, err)])
        link.sendall(request)
        code = int(link.recv(16) or 1)
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(list(words), code, out.read(), err.read())
    if check:
        done.check_returncode()
    return done


def purifyctl(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command, without colours, on lines that are long enough for its messages."""
    return python("-m", "purifyctl", *words, **{"NO_COLOR": "1", "COLUMNS": "200", **environment})


def purifyctl_anew(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that imports everything itself, for tests of what is imported."""
    return subprocess.run(
        [sys.executable, "-m", "purifyctl", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
        timeout=600,
        check=False,
    )


def launcher(folder: Path) -> Path:
    """`folder` for a shell's PATH: with a program `purifyctl`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "purifyctl"
    file.write_text(LAUNCHER.format(python=sys.executable, address=_server()))
    file.chmod(0o755)
    return folder
