"""The parent's side of a worker: feeds it batches, and starts another when one dies or hangs.

Which image did it is found out by elimination: the batches that were being worked on go one image at a time, with
nothing else in hand; where one was being decoded, they are decoded only, and those that come through it go on together.
An image that kills or hangs the worker then, for the second time, gets its row, and is not tried again.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from purifyctl import console
from purifyctl.errors import BackendError, Status
from purifyctl.images.sink import printable
from purifyctl.run.messages import Batch, Done, Entered, Failed, Ready, Setup
from purifyctl.run.rows import Row

COMMAND = (sys.executable, "-m", "purifyctl.run.worker.process")
STARTS = 3  # tries to start a worker that is killed while it starts
START_S = 600.0  # a worker that has not begun by then never will: engines are loaded, and some compiled, before
STRIKES = 2  # deaths or hangs until an image is given up; the last one with nothing else in hand
HOPELESS = 100  # images in a row that it died of, or deaths in a row with nothing begun: it is not the images
FINISH_S = 30.0  # to close what is open


@dataclass(eq=False)
class _InHand:
    batch: Batch
    alone: bool  # nothing else may be sent meanwhile
    stage: str | None = None  # None: it waits
    since: float = 0.0  # of the stage


class _DiedError(Exception):
    """The worker is gone. `hung`: it is killed for being late; `killed`: by a signal, not by itself."""

    def __init__(self, how: str, *, hung: bool = False, killed: bool = False) -> None:
        super().__init__(how)
        self.hung, self.killed = hung, killed


class Supervisor:
    """One worker after another, on one device.

    Parameters
    ----------
    image_timeout
        Seconds that a batch may stay in one stage.
    gpu
        Which of the GPUs that this process sees; None: the CPU.
    """

    def __init__(
        self, task: Setup, *, image_timeout: float, gpu: int | None = None, command: Sequence[str] = COMMAND
    ) -> None:
        self._task, self._timeout, self._gpu, self._command = task, image_timeout, gpu, command
        self._worker: _Worker | None = None
        self._again: deque[Batch] = deque()  # were in hand when a worker died, but not what it died of
        self._suspects: deque[Batch] = deque()  # of one image each
        self._cleared: list[Batch] = []  # were suspects, and could be decoded
        self._probed: set[tuple[int, int]] = set()  # batches whose images were decoded one by one
        self._strikes: Counter[tuple[int, int]] = Counter()  # by part and position
        self._deaths: Counter[tuple[int, int]] = Counter()  # by part and batch, of batches in any stage
        self._in_a_row = 0
        self._closed = False
        self.ready_at: float | None = None
        self.threads: Mapping[str, int] = {}

    def close(self) -> None:
        """Stop at once, from whatever thread."""
        self._closed = True
        if self._worker is not None:
            self._worker.kill()

    def start(self) -> Ready:
        """Have a worker that is ready; `process` would start one too.

        Raises
        ------
        PurifyctlError
            The engine does not start.
        """
        if self._worker is None:
            self._worker = self._start()
            self.threads = self._worker.ready.threads
            self.ready_at = self.ready_at or time.monotonic()
        return self._worker.ready

    def process(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[Row]]]:
        """Rows of every batch, in whatever order they are done.

        Raises
        ------
        PurifyctlError
            The engine does not start, the output cannot be written, or every image seems to kill the worker.
        """
        try:
            yield from self._process(batches)
        finally:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def _process(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[Row]]]:
        while not self._closed:
            try:
                self.start()
                assert self._worker is not None
                self._feed(self._worker, batches)
                if not self._worker.in_hand:
                    self._worker.finish()
                    self._worker = None
                    return
                message = self._worker.listen(self._timeout)
            except _DiedError as death:
                yield from self._after(death)
                continue
            if isinstance(message, Done):
                self._in_a_row = 0
                batch = self._worker.in_hand.pop(message.batch).batch
                if batch.decode_only:
                    self._cleared.append(batch)
                else:
                    yield batch, message.rows
            elif isinstance(message, Entered):
                self._worker.enter(message)
            elif isinstance(message, Failed):
                raise message.error

    def _start(self) -> "_Worker":
        for attempt in range(1, STARTS + 1):
            try:
                return _Worker(self._task, self._command, self._gpu)
            except _DiedError as death:
                if attempt == STARTS or not death.killed or self._closed:
                    raise BackendError(f"The worker did not start: {death}", hint="purifyctl doctor") from None
                console.warn(f"The worker died while it started ({death}); it is started again.")
        raise AssertionError

    def _feed(self, worker: "_Worker", batches: Iterator[Batch]) -> None:
        """Keep the worker busy; suspects go alone."""
        while len(worker.in_hand) < worker.ready.window and not worker.is_taken():
            if self._suspects:
                if not worker.in_hand:
                    worker.send(self._suspects.popleft(), alone=True)
                return
            if self._cleared:
                self._again.extend(_together(self._cleared))
                self._cleared = []
            batch = self._again.popleft() if self._again else next(batches, None)
            if batch is None:
                return
            worker.send(batch)

    def _after(self, death: _DiedError) -> Iterator[tuple[Batch, list[Row]]]:
        """Sort what the dead worker had in hand."""
        if self._closed or self._worker is None:
            return
        in_hand = [held for _, held in sorted(self._worker.in_hand.items())]
        suspects = self._worker.suspects(self._timeout if death.hung else None)
        self._worker.kill()
        self._worker = None
        for held in in_hand:
            batch, key = held.batch, (held.batch.part, held.batch.number)
            if held.stage is not None:
                self._deaths[key] += 1
            if held not in suspects and self._deaths[key] < STRIKES:
                self._again.append(batch)
            elif len(in_hand) > 1 or len(batch.inputs) > 1:
                decode_only = held.stage == "decode" and key not in self._probed
                self._probed.add(key)
                self._suspects.extend(_one_by_one(batch, decode_only))
                if held in suspects:
                    self._strikes.update((batch.part, position) for position in batch.positions)
            elif (row := self._strike(batch, death)) is not None:
                yield replace(batch, decode_only=False), [row]
            else:
                self._suspects.appendleft(batch)
        if suspects:
            names = ", ".join(printable(held.batch.inputs[0].image.path) for held in suspects)
            console.warn(f"The worker died ({death}) while it worked on the batch of {names}; it is started again.")
        else:
            console.warn(f"The worker died ({death}) with nothing begun; it is started again.")
            self._count_hopeless(death)

    def _strike(self, batch: Batch, death: _DiedError) -> Row | None:
        """The row of an image that has done it once too often."""
        key = (batch.part, batch.positions[0])
        self._strikes[key] += 1
        if self._strikes[key] < STRIKES:
            return None
        self._count_hopeless(death)
        (item,) = batch.inputs
        status: Status = "timeout" if death.hung else "crashed"
        return Row(
            printable(item.image.path),
            status,
            f"The worker died of it twice, the second time with nothing else in hand: {death}.",
            true_index=item.true_index,
            true_label=self._label(item.true_index),
            batch=batch.number,
            finished=time.time(),
            bundle=self._task.bundle.sha256,
        )

    def _count_hopeless(self, death: _DiedError) -> None:
        self._in_a_row += 1
        if self._in_a_row >= HOPELESS:
            raise BackendError(
                f"The worker died {HOPELESS} times with nothing done in between, last: {death}.",
                hint="the engine or the machine is at fault, not the images: purifyctl doctor",
            )

    def _label(self, index: int | None) -> str | None:
        return None if index is None else self._task.bundle.labels.name(index)


def _one_by_one(batch: Batch, decode_only: bool) -> Iterator[Batch]:
    for position, item in zip(batch.positions, batch.inputs, strict=True):
        yield replace(batch, positions=(position,), inputs=(item,), decode_only=decode_only)


def _together(pieces: Iterable[Batch]) -> Iterator[Batch]:
    """Whole batches of pieces of theirs."""
    by_batch: dict[tuple[int, int], list[Batch]] = {}
    for piece in pieces:
        by_batch.setdefault((piece.part, piece.number), []).append(piece)
    for some in by_batch.values():
        positions = tuple(position for piece in some for position in piece.positions)
        yield replace(
            some[0], positions=positions, inputs=[i for piece in some for i in piece.inputs], decode_only=False
        )


class _Worker:
    """One process, and the batches that it has in hand, by the number they were sent under."""

    def __init__(self, task: Setup, command: Sequence[str], gpu: int | None) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (ours until the worker ends)
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if task.verbose else self._stderr,
                process_group=0,  # Ctrl-C is for the parent
                env={**os.environ, **_environment(gpu)},
            )
        self._connection = Connection(ours.detach())
        self.in_hand: dict[int, _InHand] = {}
        self._sent = 0
        try:
            self._tell(task)
            if (message := self._hear(START_S)) is None:
                raise _DiedError(f"it was not ready after {START_S:.0f} s", hung=True)
        except _DiedError as death:
            self._stderr.seek(0)
            said = self._stderr.read()[-2000:].decode(errors="replace").strip()
            self.kill()
            raise _DiedError(f"{death}. {said}", killed=death.killed) from None
        if isinstance(message, Failed):
            self.kill()
            raise message.error
        assert isinstance(message, Ready)
        self.ready = message

    def send(self, batch: Batch, *, alone: bool = False) -> None:
        self._sent += 1
        self.in_hand[self._sent] = _InHand(batch, alone)
        self._tell((self._sent, batch))

    def is_taken(self) -> bool:
        """Whether it works on a batch beside which there must be no other."""
        return any(held.alone for held in self.in_hand.values())

    def enter(self, message: Entered) -> None:
        held = self.in_hand[message.batch]
        held.stage, held.since = message.stage, time.monotonic()

    def listen(self, timeout: float) -> Any:
        """The next message. Dies when a batch is late in its stage."""
        while True:
            now = time.monotonic()
            due = [held.since + timeout for held in self.in_hand.values() if held.stage is not None]
            if (message := self._hear(max(0.0, min(due, default=now + timeout) - now))) is not None:
                return message
            if self.suspects(timeout):
                raise _DiedError(f"it was not done after {timeout:.0f} s", hung=True)

    def suspects(self, late_s: float | None) -> list[_InHand]:
        """Which batches may have done it: those that are late by so much; else the one that is being decoded, for
        that is where files do harm; else all that are being worked on.
        """
        held = list(self.in_hand.values())
        if late_s is not None:
            return [h for h in held if h.stage is not None and time.monotonic() - h.since >= late_s]
        decoding = [h for h in held if h.stage == "decode"]
        return decoding or [h for h in held if h.stage is not None]

    def finish(self) -> None:
        """Nothing is left to do."""
        try:
            self._tell(None)
            self._process.wait(FINISH_S)
        except (_DiedError, subprocess.TimeoutExpired):
            pass  # every row is here
        self.kill()

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _tell(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._death() from None

    def _hear(self, timeout: float) -> Any:
        """The next message; None when there is none in time."""
        try:
            return self._connection.recv() if self._connection.poll(timeout) else None
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> _DiedError:
        """How it ended."""
        try:
            code = self._process.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            return _DiedError("it hung up")
        if code >= 0:
            return _DiedError(f"exit code {code}")
        name = signal.Signals(-code).name
        why = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
        return _DiedError(name + why, killed=True)


def _environment(gpu: int | None) -> dict[str, str]:
    """A worker sees its own GPU only."""
    if gpu is None:
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[gpu] if seen else str(gpu)}
