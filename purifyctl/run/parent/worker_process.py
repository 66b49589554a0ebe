"""A worker process, from the parent's side: start it, send to it, listen to it, end it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from purifyctl.run.messages import Entered, Failed, Ready, Setup
from purifyctl.run.parent.blame import InHand

COMMAND = (sys.executable, "-m", "purifyctl.run.worker.process")
START_S = 600.0  # a worker loads engines, and may compile some; if it is not ready by then, it never will be
REACHED = {"read": 0.0, "decode": 0.1, "infer": 0.25, "write": 0.9}  # share of a batch's work before each stage, about
FINISH_S = 30.0  # for a worker to close what it has open


class DiedError(Exception):
    """The worker is gone. `hung`: it was late and has to be killed; `killed`: by a signal, not by itself."""

    def __init__(self, how: str, *, hung: bool = False, killed: bool = False) -> None:
        super().__init__(how)
        self.hung, self.killed = hung, killed


class WorkerProcess:
    """One process, and the batches that it has in hand, by the number that they were sent under.

    Parameters
    ----------
    gpu
        Which of the GPUs that this process sees; None: the CPU.

    Raises
    ------
    DiedError
        The worker died before it was ready.
    PurifyctlError
        The engine does not start.
    """

    def __init__(self, setup: Setup, command: Sequence[str], gpu: int | None) -> None:
        ours, theirs = socket.socketpair()
        # in memory: there may be no temporary folder; ours until the worker ends
        self._stderr = open(os.memfd_create("stderr"), "w+b")  # noqa: PTH123, SIM115
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if setup.verbose else self._stderr,
                process_group=0,  # Ctrl-C is for the parent
                env={**os.environ, **_environment(gpu)},
            )
        self._connection = Connection(ours.detach())
        self.in_hand: dict[int, InHand] = {}
        self._sent = 0
        try:
            self._send(setup)
            if (message := self._hear(START_S)) is None:
                raise DiedError(f"it was not ready after {START_S:.0f} s", hung=True)
        except DiedError as death:
            self._stderr.seek(0)
            said = " / ".join(self._stderr.read()[-2000:].decode(errors="replace").split("\n")).strip(" /")
            self.kill()
            raise DiedError(f"{death}. {said}", killed=death.killed) from None
        if isinstance(message, Failed):
            self.kill()
            raise message.error
        assert isinstance(message, Ready)
        self.ready = message

    def send(self, held: InHand) -> None:
        self._sent += 1
        self.in_hand[self._sent] = held
        self._send((self._sent, held.batch))

    def listen(self, timeout: float) -> Any:
        """The next message. Messages that a batch has come to a stage are only noted.

        Raises
        ------
        DiedError
            The process is gone, or a batch has been in one stage for `timeout` seconds.
        """
        while True:
            now = time.monotonic()
            entered = [held.since for held in self.in_hand.values() if held.stage is not None]
            message = self._hear(max(0.0, min(entered, default=now) + timeout - now))
            if isinstance(message, Entered):
                held = self.in_hand[message.batch]
                held.begun, held.stage, held.since = True, message.stage, time.monotonic()
                held.share = max(held.share, REACHED.get(message.stage or "", 0.0))
            elif message is not None:
                return message
            elif any(since + timeout <= time.monotonic() for since in entered):
                raise DiedError(f"it was not done after {timeout:.0f} s", hung=True)

    def finish(self) -> None:
        """End a worker that has nothing left to do."""
        try:
            self._send(None)
            self._process.wait(FINISH_S)
        except (DiedError, subprocess.TimeoutExpired):
            pass  # every row is here
        self.kill()

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._death() from None

    def _hear(self, timeout: float) -> Any:
        """The next message. None: there is none in time."""
        try:
            return self._connection.recv() if self._connection.poll(timeout) else None
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> DiedError:
        """How the process ended."""
        try:
            code = self._process.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            return DiedError("it hung up")
        if code >= 0:
            return DiedError(f"exit code {code}")
        name = signal.Signals(-code).name
        why = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
        return DiedError(name + why, killed=True)


def _environment(gpu: int | None) -> dict[str, str]:
    """A worker sees only its own GPU."""
    if gpu is None:
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[gpu] if seen else str(gpu)}
