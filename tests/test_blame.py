"""Who is to blame when a worker dies: the table of states row by row, and whole runs in which workers die."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.run.messages import InputBatch
from purifyctl.run.parent.blame import DEATHS, Fate, History, InHand, State, blamed, fate, judge
from purifyctl.run.parent.feed import Feed

ANY = None
#       blamed single witness decoding struck
TABLE = [
    ((False, True, ANY, ANY, ANY), Fate.AGAIN),
    ((False, False, False, ANY, ANY), Fate.AGAIN),
    ((False, False, True, True, ANY), Fate.DECODE_ONE_BY_ONE),
    ((False, False, True, False, ANY), Fate.ONE_BY_ONE),
    ((True, False, ANY, True, ANY), Fate.DECODE_ONE_BY_ONE),
    ((True, False, ANY, False, ANY), Fate.ONE_BY_ONE),
    ((True, True, ANY, ANY, False), Fate.ALONE),
    ((True, True, ANY, ANY, True), Fate.GIVE_UP),
]


def matches(state: State, pattern: tuple[bool | None, ...]) -> bool:
    return all(expected is ANY or expected == value for value, expected in zip(state, pattern, strict=True))


@pytest.mark.parametrize(("pattern", "expected"), TABLE)
def test_a_row_of_the_table_decides_about_all_states_that_it_matches(
    pattern: tuple[bool | None, ...], expected: Fate
) -> None:
    states = list(itertools.starmap(State, itertools.product((False, True), repeat=5)))
    matched = [state for state in states if matches(state, pattern)]
    assert matched
    assert {fate(state) for state in matched} == {expected}


def test_every_state_is_in_just_one_row_of_the_table() -> None:
    for state in itertools.starmap(State, itertools.product((False, True), repeat=5)):
        assert sum(matches(state, pattern) for pattern, _ in TABLE) == 1


def held(number: int, *, stage: str | None = None, since: float = 0.0, n: int = 2, begun: bool = True) -> InHand:
    return InHand(
        InputBatch(0, number, tuple(range(4 * number, 4 * number + n)), [None] * n), False, begun, stage, since
    )


@pytest.mark.parametrize(
    ("in_hand", "late_since", "expected"),
    [
        # a death: what was being decoded, or else what was in any stage
        ([held(0, stage="infer"), held(1, stage="decode"), held(2, stage="read")], None, [1]),
        ([held(0, stage="infer"), held(1), held(2, stage="write")], None, [0, 2]),
        # nothing was in a stage: only a batch that was alone and had begun
        ([held(0), held(1)], None, []),
        ([held(0)], None, [0]),
        ([held(0, begun=False)], None, []),
        # it hung: only what was late
        ([held(0, stage="infer", since=1.0), held(1, stage="decode", since=5.0)], 2.0, [0]),
        ([held(0, since=1.0), held(1, stage="write", since=2.0)], 2.0, [1]),
    ],
)
def test_which_batches_may_have_killed_the_worker(
    in_hand: list[InHand], late_since: float | None, expected: list[int]
) -> None:
    assert [suspect.batch.number for suspect in blamed(in_hand, late_since)] == expected


def test_what_was_being_decoded_goes_one_by_one_and_the_rest_as_before() -> None:
    fates = judge(History(), [held(0, stage="infer"), held(1, stage="decode"), held(2)])
    assert [(one.blamed, one.fate) for one in fates] == [
        (False, Fate.AGAIN),
        (True, Fate.DECODE_ONE_BY_ONE),
        (False, Fate.AGAIN),
    ]


def test_inputs_are_decoded_one_by_one_only_once() -> None:
    history = History()
    assert judge(history, [held(0, stage="decode")])[0].fate is Fate.DECODE_ONE_BY_ONE
    assert judge(history, [held(0, stage="decode")])[0].fate is Fate.ONE_BY_ONE


def test_a_batch_that_is_in_a_stage_whenever_a_worker_dies_goes_one_by_one_in_the_end() -> None:
    history, seen = History(), []
    for number in range(1, DEATHS + 1):
        seen.append(judge(history, [held(0, stage="infer"), held(number, stage="decode")])[0].fate)
    assert seen == [Fate.AGAIN] * (DEATHS - 1) + [Fate.ONE_BY_ONE]


def test_an_input_that_is_blamed_alone_after_it_was_blamed_with_others_is_given_up() -> None:
    history = History()
    judge(history, [held(0, stage="infer")])
    assert judge(history, [held(0, n=1, stage="infer")])[0].fate is Fate.GIVE_UP
    assert judge(History(), [held(0, n=1, stage="infer")])[0].fate is Fate.ALONE


def test_a_kill_before_anything_began_costs_an_input_nothing_whatever_it_was_blamed_for() -> None:
    history = History()
    for _ in range(3):
        judge(history, [held(0, stage="infer"), held(1, stage="infer")])
    (verdict,) = judge(history, [held(0, n=1, begun=False)])
    assert (verdict.blamed, verdict.fate) == (False, Fate.AGAIN)


# --- whole runs

STAGES = ("read", "decode", "infer", "write")
Key = tuple[int, int]  # part and position


@dataclass
class Simulation:
    """Workers that a feed feeds, as the supervisor does, and what came of every input."""

    sizes: list[int]  # of the batches; two of them are a part
    guilty: dict[int, tuple[str, bool]]  # by input: the stage in which it does harm, and whether it hangs the worker
    window: int
    kills: int  # from outside, at any moment
    chance: random.Random
    outcomes: dict[Key, list[str]] = field(default_factory=dict)
    reached: dict[InHand, str] = field(default_factory=dict)  # the last stage of every batch
    harmed: Counter[Key] = field(default_factory=Counter)  # deaths at which an input was in hand and had begun
    died_alone: Counter[Key] = field(default_factory=Counter)  # of these, with nothing else in hand
    deaths: int = 0

    def batches(self) -> Iterator[InputBatch]:
        first = 0
        for number, size in enumerate(self.sizes):
            inputs = range(first, first + size)
            first += size
            for one in inputs:
                self.outcomes[number // 2, one] = []
            yield InputBatch(number // 2, number, tuple(inputs), list(inputs))  # an input stands for itself

    def run(self) -> None:
        feed, batches, clock = Feed(), self.batches(), itertools.count(1)
        in_hand: list[InHand] = []
        while True:
            while len(in_hand) < self.window and (sent := feed.next(in_hand, batches)) is not None:
                assert not (sent.alone and in_hand)
                in_hand.append(sent)
            if not in_hand:
                return
            if self.kills and self.chance.random() < 0.1:
                self.kills -= 1
                self.die(feed, in_hand, None)
                in_hand = []
                continue
            one = self.chance.choice(in_hand)
            if one.stage is not None and self.chance.random() < 0.5:
                one.stage = None  # it waits
            elif (stage := self.after(one)) is None:
                in_hand.remove(one)
                if feed.done(one.batch):
                    self.note(one.batch, "done")
            else:
                one.begun, one.stage, one.since = True, stage, next(clock)
                self.reached[one] = stage
                harm = [self.guilty[i] for i in one.batch.inputs if i in self.guilty and self.guilty[i][0] == stage]
                if harm:
                    self.die(feed, in_hand, one.since if harm[0][1] else None)
                    in_hand = []

    def after(self, one: InHand) -> str | None:
        """The next stage of a batch; None: it is done."""
        last = self.reached.get(one)
        stages = STAGES[:2] if one.batch.decode_only else STAGES
        place = stages.index(last) + 1 if last is not None else 0
        return stages[place] if place < len(stages) else None

    def die(self, feed: Feed, in_hand: list[InHand], late_since: float | None) -> None:
        self.deaths += 1
        assert self.deaths < 20 + 10 * sum(self.sizes), "it does not end"
        for one in in_hand:
            for position in one.batch.positions:
                self.harmed[one.batch.part, position] += one.begun
                self.died_alone[one.batch.part, position] += one.begun and len(in_hand) == len(one.batch.positions) == 1
        for verdict in feed.died(in_hand, late_since):
            if verdict.fate is Fate.GIVE_UP:
                assert len(in_hand) == 1
                assert len(verdict.held.batch.positions) == 1
                self.note(verdict.held.batch, "given up")

    def note(self, batch: InputBatch, outcome: str) -> None:
        for position in batch.positions:
            self.outcomes[batch.part, position].append(outcome)


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    guilty=st.dictionaries(st.integers(0, 31), st.tuples(st.sampled_from(STAGES), st.booleans()), max_size=4),
    window=st.integers(1, 5),
    kills=st.integers(0, 6),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=400, deadline=None)
def test_whatever_kills_workers_every_input_ends_once_and_only_harmful_ones_are_given_up(
    sizes: list[int], guilty: dict[int, tuple[str, bool]], window: int, kills: int, seed: int
) -> None:
    """An input that does no harm is only given up if somebody killed the worker while it was alone in hand, and it had
    been in hand at another death before.
    """
    run = Simulation(sizes, guilty, window, kills, random.Random(seed))
    run.run()
    assert len(run.outcomes) == sum(sizes)
    for key, outcomes in run.outcomes.items():
        assert len(outcomes) == 1, (key, outcomes)
        if key[1] in guilty:
            assert outcomes == ["given up"]
        elif outcomes == ["given up"]:
            assert kills > 0
            assert run.died_alone[key] >= 1
            assert run.harmed[key] >= 2
