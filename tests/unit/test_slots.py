"""Whose turn it is at a clinic that trains a few tasks at a time."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wardround.site_agent.slots import Slots, Turn, fair_order


@pytest.mark.parametrize(
    ("waiting", "served", "training", "expected"),
    [
        ("ab", {"a": 2, "b": 1}, {}, "ba"),  # who was served longest ago
        ("aab", {"a": 1, "b": 2}, {}, "aba"),  # and then the next experiment
        ("aabb", {"a": 1, "b": 2}, {}, "abab"),
        ("ab", {"a": 1, "b": 2}, {"a": 1}, "ba"),  # who has a slot already comes after those who have none
        ("aabc", {"a": 1, "b": 2, "c": 3}, {}, "abca"),
        ("", {}, {}, ""),
    ],
)
def test_the_order_in_which_turns_come(
    waiting: str, served: dict[str, int], training: dict[str, int], expected: str
) -> None:
    assert "".join(waiting[place] for place in fair_order(waiting, served, training)) == expected


@given(st.text("abcd", max_size=12), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)))
def test_everybody_comes_once_and_within_an_experiment_as_they_came(waiting: str, served: dict[str, int]) -> None:
    order = fair_order(waiting, served, {})
    assert sorted(order) == list(range(len(waiting)))
    for experiment in set(waiting):
        places = [place for place in order if waiting[place] == experiment]
        assert places == sorted(places)


def has_come(turn: Turn) -> bool:
    return turn.comes.done()


async def test_never_more_than_the_slots_and_the_next_comes_when_one_leaves() -> None:
    slots = Slots(2)
    turns = [slots.line_up(experiment) for experiment in ("a", "b", "c")]
    assert [has_come(turn) for turn in turns] == [True, True, False]
    slots.leave(turns[1])
    assert has_come(turns[2])
    assert slots.order == (turns[0], turns[2])


async def test_an_experiment_with_many_tasks_does_not_hold_the_others_back() -> None:
    slots = Slots(1)
    busy = [slots.line_up("busy") for _ in range(5)]
    quiet = slots.line_up("quiet")
    assert slots.order == (busy[0], quiet, *busy[1:])
    slots.leave(busy[0])
    assert has_come(quiet)


async def test_who_no_longer_waits_leaves_the_line_and_leaving_twice_changes_nothing() -> None:
    slots = Slots(1)
    first, second, third = (slots.line_up(experiment) for experiment in ("a", "b", "c"))
    slots.leave(second)
    slots.leave(first)
    slots.leave(first)
    assert has_come(third)
    assert slots.order == (third,)


async def test_a_waiter_that_was_cancelled_does_not_keep_the_slot() -> None:
    slots = Slots(1)
    first, second, third = (slots.line_up(experiment) for experiment in ("a", "b", "c"))

    async def wait() -> None:
        try:
            await second.comes
        finally:
            slots.leave(second)

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiter.cancel()
    slots.leave(first)  # in the same moment
    with suppress(asyncio.CancelledError):
        await waiter
    assert has_come(third)


async def test_after_a_restart_what_was_in_training_comes_first_and_turns_go_on() -> None:
    slots = Slots(1, served=("a", "b"))
    again = slots.line_up("b", goes_on=True)
    waiting = [slots.line_up(experiment) for experiment in ("b", "a", "new")]
    more = slots.line_up("new", goes_on=True)
    assert slots.order == (again, more, waiting[1], waiting[2], waiting[0])


class AnyTurns(RuleBasedStateMachine):
    """Tasks of some experiments line up, train and are given up in any order."""

    @initialize(count=st.integers(1, 3))
    def open(self, count: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.count = count
        self.slots = Slots(count)
        self.line: list[Turn] = []  # as they came
        self.training: list[Turn] = []
        self.passed: dict[int, Counter[str]] = {}  # by waiting turn, who was served meanwhile

    @rule(experiment=st.sampled_from("abcd"))
    def comes(self, experiment: str) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._line_up(experiment))
        self.served()

    async def _line_up(self, experiment: str) -> None:
        turn = self.slots.line_up(experiment)
        self.line.append(turn)
        self.passed[id(turn)] = Counter()

    @precondition(lambda self: self.training)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.training))
        self.training.remove(turn)
        self.slots.leave(turn)
        self.served()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.line))
        self.line.remove(turn)
        self.slots.leave(turn)
        self.served()

    def served(self) -> None:
        """What the slots did, seen from outside; the head of each experiment's line counts who passes it."""
        for turn in [turn for turn in self.line if has_come(turn)]:
            self.line.remove(turn)
            self.training.append(turn)
            heads = {other.experiment: other for other in reversed(self.line)}
            for head in heads.values():
                if all(one.experiment != head.experiment for one in self.training):
                    self.passed[id(head)][turn.experiment] += 1

    @invariant()
    def no_more_than_the_slots_and_none_is_free_while_somebody_waits(self) -> None:
        assert len(self.training) <= self.count
        assert not self.line or len(self.training) == self.count

    @invariant()
    def nobody_who_has_no_slot_is_passed_twice_by_another_experiment(self) -> None:
        for turn in self.line:
            assert max(self.passed[id(turn)].values(), default=0) <= 1

    @invariant()
    def within_an_experiment_first_come_is_first_served(self) -> None:
        waiting = [turn for turn in self.slots.order if turn in self.line]
        for experiment in "abcd":
            came = [turn for turn in self.line if turn.experiment == experiment]
            assert [turn for turn in waiting if turn.experiment == experiment] == came

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            asyncio.set_event_loop(None)
            self.loop.close()


TestAnyTurns = AnyTurns.TestCase
TestAnyTurns.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
