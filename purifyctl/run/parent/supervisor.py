"""The supervisor of one device: it feeds a worker, and starts another when one dies or hangs.

`blame` decides what becomes of the batches that a dead worker had in hand.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

from purifyctl import console
from purifyctl.errors import BackendError, Status
from purifyctl.images.sink import printable
from purifyctl.run.messages import Done, Failed, InputBatch, Ready, Setup
from purifyctl.run.parent.blame import Fate
from purifyctl.run.parent.feed import Feed
from purifyctl.run.parent.worker_process import COMMAND, DiedError, WorkerProcess
from purifyctl.run.rows import Row

STARTS = 3  # tries to start a worker that is killed while it starts
HOPELESS = 100  # inputs given up in a row, or deaths in a row with nothing begun: the images are not to blame


class Supervisor:
    """One worker after another, on one device.

    Parameters
    ----------
    gpu
        Which of the GPUs that this process sees; None: the CPU.
    command
        Starts a worker.
    """

    def __init__(self, setup: Setup, *, gpu: int | None = None, command: Sequence[str] = COMMAND) -> None:
        self._setup, self._gpu, self._command = setup, gpu, command
        self._timeout = setup.options.image_timeout
        self._worker: WorkerProcess | None = None
        self._feed = Feed()
        self._in_a_row = 0
        self._closed = False
        self.ready_at: float | None = None
        self.threads: Mapping[str, int] = {}

    @property
    def under_way(self) -> float:
        in_hand = list(self._worker.in_hand.values()) if self._worker is not None else []
        return sum(held.share * len(held.batch.inputs) for held in in_hand if not held.batch.decode_only)

    def close(self) -> None:
        """Stop at once. Any thread may call this."""
        self._closed = True
        if self._worker is not None:
            self._worker.kill()

    def start(self) -> Ready:
        """Have a worker that is ready. `process` also starts one if there is none.

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

    def process(self, batches: Iterator[InputBatch]) -> Iterator[tuple[InputBatch, list[Row]]]:
        """Rows of every batch, in the order in which they are done.

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

    def _process(self, batches: Iterator[InputBatch]) -> Iterator[tuple[InputBatch, list[Row]]]:
        while not self._closed:
            try:
                self.start()
                assert self._worker is not None
                in_hand = self._worker.in_hand
                while len(in_hand) < self._worker.ready.window:
                    if (held := self._feed.next(in_hand.values(), batches)) is None:
                        break
                    self._worker.send(held)
                if not in_hand:
                    self._worker.finish()
                    self._worker = None
                    return
                message = self._worker.listen(self._timeout)
            except DiedError as death:
                yield from self._after(death)
                continue
            if isinstance(message, Done):
                self._in_a_row = 0
                batch = in_hand.pop(message.batch).batch
                if self._feed.done(batch):
                    yield batch, message.rows
            elif isinstance(message, Failed):
                raise message.error

    def _start(self) -> WorkerProcess:
        for attempt in range(1, STARTS + 1):
            try:
                return WorkerProcess(self._setup, self._command, self._gpu)
            except DiedError as death:
                if attempt == STARTS or not death.killed or self._closed:
                    raise BackendError(f"The worker did not start: {death}", hint="purifyctl doctor") from None
                console.warn(f"The worker died while it started ({death}); it is started again.")
        raise AssertionError

    def _after(self, death: DiedError) -> Iterator[tuple[InputBatch, list[Row]]]:
        """What became of the batches that the dead worker had in hand. Yields rows of inputs that are given up."""
        if self._closed or self._worker is None:
            return
        in_hand = list(self._worker.in_hand.values())  # in the order in which they were sent
        verdicts = self._feed.died(in_hand, time.monotonic() - self._timeout if death.hung else None)
        self._worker.kill()
        self._worker = None
        if blamed := [verdict.held.batch for verdict in verdicts if verdict.blamed]:
            names = ", ".join(printable(batch.inputs[0].image.path) for batch in blamed)
            console.warn(f"The worker died ({death}) while it worked on the batch of {names}; it is started again.")
        else:
            console.warn(f"The worker died ({death}) with nothing begun; it is started again.")
            self._count_hopeless(death)
        for verdict in verdicts:
            if verdict.fate is Fate.GIVE_UP:
                self._count_hopeless(death)
                yield verdict.held.batch, [self._given_up(verdict.held.batch, death)]

    def _given_up(self, batch: InputBatch, death: DiedError) -> Row:
        (one,) = batch.inputs
        status: Status = "timeout" if death.hung else "crashed"
        return Row(
            printable(one.image.path),
            status,
            f"The worker died of it twice, the second time with nothing else in hand: {death}.",
            true_index=one.true_index,
            true_label=None if one.true_index is None else self._setup.bundle.labels.name(one.true_index),
            batch=batch.number,
            finished=time.time(),
            bundle=self._setup.bundle.sha256,
        )

    def _count_hopeless(self, death: DiedError) -> None:
        self._in_a_row += 1
        if self._in_a_row >= HOPELESS:
            raise BackendError(
                f"The worker died {HOPELESS} times with nothing done in between, last: {death}.",
                hint="the engine or the machine is at fault, not the images: purifyctl doctor",
            )
