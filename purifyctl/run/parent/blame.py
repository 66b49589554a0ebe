"""Which batch is to blame when a worker dies, and what becomes of each batch that the worker had in hand.

The blame is found by elimination. The inputs of the blamed batches go one by one, with nothing else in hand. If a batch
was being decoded, its inputs are first only decoded, one by one, and those that can be decoded then continue together.
An input that kills or hangs the worker while it is alone, and was blamed before, is given up.

Everything here is pure: no processes, no clock.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from purifyctl.run.messages import InputBatch

STRIKES = 2  # how often an input is blamed until it is given up; the last time it must be alone
DEATHS = 2  # how many deaths a batch may witness, in a stage but not blamed, until its inputs go one by one


@dataclass(eq=False)
class InHand:
    """A batch that a worker has."""

    batch: InputBatch
    alone: bool = False  # nothing else may be sent in the meantime
    begun: bool = False  # it has come to a stage
    stage: str | None = None  # None: it waits for the next one
    since: float = 0.0  # when it came to this stage, on the supervisor's clock
    share: float = 0.0  # of its work that is done, about; for the progress bar only


class Fate(Enum):
    """What becomes of a batch that was in hand when a worker died."""

    AGAIN = auto()  # as before
    ALONE = auto()  # again, with nothing else in hand
    ONE_BY_ONE = auto()  # each input alone
    DECODE_ONE_BY_ONE = auto()  # each input alone, and it is only decoded
    GIVE_UP = auto()  # its only input gets a row that says so


class State(NamedTuple):
    """What decides about a batch."""

    blamed: bool  # it may have killed the worker
    single: bool  # it has one input, and there was nothing else in hand
    witness: bool  # it was in a stage at `DEATHS` deaths
    decoding: bool  # it was being decoded, and its inputs have not been decoded one by one
    struck: bool  # its only input was blamed before


def fate(state: State) -> Fate:
    """The table of states."""
    match state:
        #    blamed single witness decoding struck
        case False, True, _, _, _:
            return Fate.AGAIN  # nothing had begun
        case False, False, False, _, _:
            return Fate.AGAIN
        case False, False, True, True, _:
            return Fate.DECODE_ONE_BY_ONE
        case False, False, True, False, _:
            return Fate.ONE_BY_ONE
        case True, False, _, True, _:
            return Fate.DECODE_ONE_BY_ONE
        case True, False, _, False, _:
            return Fate.ONE_BY_ONE
        case True, True, _, _, False:
            return Fate.ALONE
        case True, True, _, _, True:
            return Fate.GIVE_UP
    raise AssertionError(state)


@dataclass
class History:
    """What earlier deaths have shown."""

    strikes: Counter[tuple[int, int]] = field(default_factory=Counter)  # by part and position: how often it was blamed
    deaths: Counter[tuple[int, int]] = field(default_factory=Counter)  # by part and batch: how often it was in a stage
    decoded: set[tuple[int, int]] = field(default_factory=set)  # batches whose inputs were decoded one by one


@dataclass(frozen=True)
class Verdict:
    held: InHand
    blamed: bool
    fate: Fate


def blamed(in_hand: Sequence[InHand], late_since: float | None) -> list[InHand]:
    """Which batches may have killed or hung the worker.

    Parameters
    ----------
    late_since
        The worker hung, and these batches are late: those that came to their stage at this time or before. None: it
        died.

    Returns
    -------
    The late ones. After a death: those that were being decoded, because that is where files do harm; if there are none,
    those in any stage; if there are none, the only one in hand, if it had begun.
    """
    staged = [held for held in in_hand if held.stage is not None]
    if late_since is not None:
        return [held for held in staged if held.since <= late_since]
    decoding = [held for held in staged if held.stage == "decode"]
    return decoding or staged or [held for held in in_hand if held.begun and len(in_hand) == 1]


def judge(history: History, in_hand: Sequence[InHand], late_since: float | None = None) -> list[Verdict]:
    """Decide about every batch that was in hand, and note in the history what this death has shown."""
    suspects = blamed(in_hand, late_since)
    verdicts = []
    for held in in_hand:
        batch, key = held.batch, (held.batch.part, held.batch.number)
        inputs = [(batch.part, position) for position in batch.positions]
        history.deaths[key] += held.stage is not None
        state = State(
            blamed=held in suspects,
            single=len(in_hand) == len(inputs) == 1,
            witness=history.deaths[key] >= DEATHS,
            decoding=held.stage == "decode" and key not in history.decoded,
            struck=history.strikes[inputs[0]] >= STRIKES - 1,
        )
        verdicts.append(Verdict(held, state.blamed, fate(state)))
        if state.blamed:
            history.strikes.update(inputs)
        if verdicts[-1].fate in (Fate.ONE_BY_ONE, Fate.DECODE_ONE_BY_ONE):
            history.decoded.add(key)
    return verdicts
