"""Processes that are forked from one that has imported their libraries: they work at once. `Popen` has workers forked.

Only the start is another. Such a process has the words, environment, folder, streams and connections that
`subprocess.Popen` would give it, and it is a child of the process that asked, which waits for it and kills it as ever.

This module imports nothing of purifyctl.
"""

import atexit
import ctypes
import fcntl
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

WORKERS = ("purifyctl.run.worker.process", "tests.faulty_worker")
FORKED = (*WORKERS, "purifyctl.run.worker.decoder", "tests.faulty_decoder")
COMMAND = "purifyctl"
NAME, ADOPT = 15, 36  # PR_SET_NAME; PR_SET_CHILD_SUBREAPER: a process whose parent has ended becomes its child
FORKER = b"forker"  # the name of a process that forks
FREE = 500  # no process has this many descriptors
LONGEST_REQUEST = 1 << 17  # bytes

Request = dict[str, Any]
prctl = ctypes.CDLL(None).prctl
_asking = threading.Lock()
_links: list[Callable[[], socket.socket]] = []  # to the process that forks for this one


class Popen(subprocess.Popen[Any]):
    """Has workers and decoders forked, and starts anything else as ever."""

    modules: tuple[str, ...] = FORKED

    def _execute_child(self, args: Sequence[str], *more: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(args, *more).arguments
        if not isinstance(args, list) or args[:2] != [sys.executable, "-m"] or args[2] not in self.modules:
            super()._execute_child(args, *more)
            return
        streams = (given["p2cread"], given["c2pwrite"], given["errwrite"])
        request: Request = {
            "words": list(map(str, args[1:])),
            "cwd": str(given["cwd"] or Path.cwd()),
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "descriptors": given["pass_fds"],
            "group": given["process_group"],
            "ignored": [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is signal.SIG_IGN],
        }
        own = [stream if stream >= 0 else number for number, stream in enumerate(streams)]
        self.pid = _ask(request, [*own, *given["pass_fds"]])
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[pipe] for pipe in pipes))


class CommandPopen(Popen):
    """Has commands forked, too, if this process has workers forked."""

    modules = (*FORKED, COMMAND)

    def _execute_child(self, *given: Any) -> None:
        self.modules = self.modules if _links else ()
        super()._execute_child(*given)


def fork_workers_by(link: Callable[[], socket.socket]) -> None:
    """From now on, this process has workers forked by the one at the other end, which may be started on demand."""
    _links[:] = [link]
    subprocess.Popen = Popen  # type: ignore[misc]


def _ask(request: Request, descriptors: list[int]) -> int:
    """The process id of a new child of this process."""
    with _asking:
        link = _links[0]()
        prctl(ADOPT, 1, 0, 0, 0)
        try:
            socket.send_fds(link, [json.dumps(request).encode()], descriptors)
            return int(link.recv(16))
        finally:
            prctl(ADOPT, 0, 0, 0, 0)


def fork_for(link: socket.socket) -> NoReturn:
    """Fork a process for each request, until nobody can ask any more."""
    prctl(NAME, FORKER, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    answers, answer = os.pipe()
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, LONGEST_REQUEST, 32)
        if not message:
            os._exit(0)
        if (middle := os.fork()) == 0:
            middle = os.getpid()
            if child := os.fork():
                os.write(answer, str(child).encode())
                os._exit(0)  # so that its child becomes one of the process that asked
            while os.getppid() == middle:
                time.sleep(0.0002)
            for own in (link.detach(), answers, answer):
                os.close(own)
            _become(json.loads(message), descriptors)
        os.waitpid(middle, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        link.send(os.read(answers, 16))


def _become(request: Request, received: list[int]) -> NoReturn:
    """What `subprocess` and the interpreter would have made of a request."""
    if request["group"] >= 0:
        os.setpgid(0, request["group"])
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FREE) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(moved, (0, 1, 2, *request["descriptors"]), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    prctl(NAME, b"python", 0, 0, 0)
    if request["words"][1] in (*WORKERS, COMMAND):
        fork_another_that_forks(request["descriptors"])
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
    run_as(request["words"], request["cwd"], request["environment"])


def fork_another_that_forks(connections: list[int]) -> None:
    """Before this process has threads. Its own children are its workers, or its decoders."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        for connection in connections:  # the worker alone must hold them: they close when it dies
            os.close(connection)
        fork_for(theirs)
    theirs.close()
    fork_workers_by(lambda: ours)


def become(words: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Do what `python WORDS` does: -c CODE, or -m MODULE; or what the module's installed program does: "" MODULE."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # closefd: as an interpreter does, so that a command may put another stream in place of one, and 2 stays open
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=buffering, errors=errors, closefd=False)  # noqa: SIM115 (descriptors)
        for number, mode, buffering, errors in ((0, "r", -1, None), (1, "w", -1, None), (2, "w", 1, "backslashreplace"))
    )
    kind, what, *arguments = words
    sys.argv = ["-c" if kind == "-c" else what, *arguments]
    if kind:
        sys.path.insert(0, "")
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def end(code: int) -> NoReturn:
    """End as an interpreter does, without taking apart what the other process has made: that costs seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_as(words: list[str], cwd: str, environment: dict[str, str]) -> NoReturn:
    """`become`, and end with the exit code that an interpreter would have."""
    try:
        become(words, cwd, environment)
    except SystemExit as exit_:
        if not isinstance(exit_.code, int | None):
            print(exit_.code, file=sys.stderr)
        end(exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None))
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)
