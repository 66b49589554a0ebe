"""A process that has imported the heavy libraries, and forks one for each command: it starts at once.

It imports nothing of purifyctl. The command's process imports that as any other does, from its PYTHONPATH. What the
command is given is its own, too: words, current folder, environment, standard streams; so is what it leaves behind.
If it needs workers, they are forked, too (`tests.forking`).
Used by `tests.commands`, which starts it: python -m tests.warm SOCKET PID
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

from tests.forking import fork_another_that_forks, run_as

LIBRARIES = (
    *("numpy", "PIL.Image", "pyarrow.parquet", "rich.console", "rich.progress", "rich.table", "typer", "safetensors"),
    *("torch", "torchvision", "timm", "torch.onnx", "onnxscript", "onnx"),
    *("matplotlib.pyplot", "jinja2"),
    *("nvidia.dali.fn", "openvino"),
)


def read_exporter_once() -> None:
    """Exporting a network takes a quarter less time: what torch reads of its exporter's source, this process keeps.

    The source of 1,491 functions is read anew for each network, which takes 0.4 s, and does not change.
    """
    from torch.onnx._internal._lazy_import import onnxscript_apis

    module = importlib.import_module(onnxscript_apis._name)
    if not hasattr(module.get_torchlib_ops, "cache_info"):
        module.get_torchlib_ops = functools.cache(module.get_torchlib_ops)


def serve(address: str, session: str) -> dict[str, object]:
    """Fork a process for each request, until the process `session` ends. Returns only in these: the request."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.part")
        server.listen()
        Path(f"{address}.part").rename(address)  # now it listens
        while Path(f"/proc/{session}").exists():
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not select.select([server], [], [], 1)[0]:
                continue
            client = server.accept()[0]
            with client:
                if os.fork() == 0:
                    server.close()
                    return answer(client)
    os._exit(0)


def answer(client: socket.socket) -> dict[str, object]:
    """Fork the command's process, and tell the client how it ended. Returns only in the command's process."""
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as stream:
        request: dict[str, object] = json.loads(stream.read(int.from_bytes(head)))
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):  # nobody listens any more
            client.sendall(str(code).encode())
        os._exit(0)
    client.close()
    for ours, theirs in enumerate(streams):
        os.dup2(theirs, ours)
        os.close(theirs)
    return request


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    del sys.path[0], sys.modules["tests"], sys.modules["tests.forking"]  # commands bring their own
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would start a thread
    for library in LIBRARIES:
        importlib.import_module(library)
    read_exporter_once()
    importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis.get_torchlib_ops()
    gc.collect()
    gc.freeze()  # collecting would copy this process's memory into each that it forks
    request = serve(*sys.argv[1:])
    if {"run", "demo"} & {*request["words"][2:3]}:  # type: ignore[misc]
        fork_another_that_forks([])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_as(**request)  # type: ignore[arg-type]
