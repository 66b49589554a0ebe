"""The decoder of a worker, in a process of its own: a file that kills it or hangs it costs neither the engine nor any
other batch.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from purifyctl.config.picture_options import PictureOptions
from purifyctl.errors import BackendError, ImageError, Status
from purifyctl.images import Decoded
from purifyctl.images.damage import Encoded

COMMAND = (sys.executable, "-m", "purifyctl.run.worker.decoder")
SIGN_S = 1.0  # how often a decoder that takes long is said to be alive
WORD = 8  # bytes of a number that the process which forks sends
HOPELESS = 100  # deaths in a row, with nothing decoded in between: the files are not to blame


class _DiedError(Exception):
    """The decoder is gone. `hung`: it was late and has been killed."""

    def __init__(self, how: str, *, hung: bool = False) -> None:
        super().__init__(how)
        self.hung = hung


class DecoderProcess:
    """Decodes as `images.Decoder` does on the CPU, and gives up only the files that kill or hang it.

    Parameters
    ----------
    timeout
        Seconds that it may take for the files of a batch, and for each alone if that was not enough.
    """

    def __init__(self, *, size: int, batch_size: int, threads: int, options: PictureOptions, timeout: float) -> None:
        self._settings: dict[str, Any] = {
            "size": size,
            "batch_size": batch_size,
            "threads": threads,
            "options": options,
        }
        self._timeout = timeout
        self._decoder = 0  # its process id
        self._connection: Connection | None = None  # to it
        self._deaths = 0  # in a row
        self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # with no other thread it can fork
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # the decoder ends with it
        self._process.wait()
        self._control.close()

    def decode(self, files: Sequence[Encoded], alive: Callable[[], None]) -> Decoded:
        """Decode the bytes of up to `batch_size` files. If the decoder dies or hangs, they go one by one.

        Parameters
        ----------
        alive
            Called now and then while it takes long.

        Raises
        ------
        BackendError
            The decoder does not work on this machine.
        """
        try:
            return self._ask(files, alive)
        except _DiedError:
            return _joined([self._decode_alone(file, alive) for file in files])

    def _decode_alone(self, file: Encoded, alive: Callable[[], None]) -> Decoded:
        try:
            return self._ask([file], alive)
        except _DiedError as death:
            status: Status = "timeout" if death.hung else "crashed"
            why = f"The decoder died of it twice, the second time with nothing else in hand: {death}."
            return Decoded(np.empty((0, 0, 0, 3), np.uint8), [], [], {0: ImageError(status, why)})

    def _ask(self, files: Sequence[Encoded], alive: Callable[[], None]) -> Decoded:
        began = time.monotonic()
        try:
            connection = self._connection or self._another()
            connection.send(list(files))
            while not connection.poll(min(SIGN_S, self._timeout)):
                alive()
                if time.monotonic() - began > self._timeout:
                    os.kill(self._decoder, signal.SIGKILL)
                    self._how_it_ended()
                    raise _DiedError(f"it was not done after {self._timeout:.0f} s", hung=True)
            answer = connection.recv()
        except (EOFError, OSError):
            raise _DiedError(self._how_it_ended()) from None
        if isinstance(answer, Exception):
            raise answer
        self._deaths = 0
        assert isinstance(answer, Decoded)
        return answer

    def _another(self) -> Connection:
        """Have the next decoder.

        Raises
        ------
        EOFError
            The process that forks was killed.
        BackendError
            It has ended by itself: it does not work here.
        """
        try:
            self._control.sendall(b"+")
            said, descriptors, _, _ = socket.recv_fds(self._control, WORD, 1)
        except OSError:
            said, descriptors = b"", []
        if not descriptors:
            if (code := self._process.wait()) >= 0:
                raise BackendError(f"The decoder did not start: exit code {code}.", hint="purifyctl doctor")
            raise EOFError
        self._decoder, self._connection = int.from_bytes(said), Connection(descriptors[0])
        self._connection.send(self._settings)
        return self._connection

    def _how_it_ended(self) -> str:
        """The decoder is gone: how it ended. Raises BackendError if this was so too often."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        try:
            said = self._control.recv(WORD)
        except OSError:
            said = b""
        if not said:  # the process that forks is gone, too
            self.__exit__()
            self._start()
        code = int.from_bytes(said, signed=True)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}" if said else "it was killed"
        how = name + (", which the system sends when memory runs out" if name == "SIGKILL" else "")
        self._deaths += 1
        if self._deaths >= HOPELESS:
            raise BackendError(
                f"The decoder died {HOPELESS} times with nothing done in between, last: {how}.",
                hint="the machine is at fault, not the images: purifyctl doctor",
            )
        return how


def _joined(singles: Sequence[Decoded]) -> Decoded:
    """Batches of one file each, as one batch."""
    good = [(i, one) for i, one in enumerate(singles) if one.positions]
    images = np.concatenate([one.images for _, one in good]) if good else singles[0].images
    return Decoded(
        images,
        [i for i, _ in good],
        [facts for _, one in good for facts in one.facts],
        {i: error for i, one in enumerate(singles) for error in one.errors.values()},
    )
