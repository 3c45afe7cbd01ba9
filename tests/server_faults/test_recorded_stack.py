"""A real stack recorded from outside: nothing is wrong with a sound run, and what was tampered with is named."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Undisturbed, adding, members_of, model_of, trial
from wardround.simulation.faults.checker import check, not_judged
from wardround.simulation.faults.history import Commanded, Line, Training, Written
from wardround.simulation.faults.run import Outcome
from wardround_messages.names import AnswerKey, Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

ROUNDS = 3
ANSWER = str(AnswerKey(1, Task.TRAIN, "clinic-2", 1))
ENTRY = "journal/00000003.json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(stack: Stack) -> Outcome:
    async with trial(stack, adding("recorded", ROUNDS)) as undisturbed:
        return await undisturbed.until_ended()


@pytest.fixture
def outcome(recorded: Outcome) -> Outcome:
    """A copy to be tampered with."""
    history = replace(recorded.history)
    for name in ("written", "trainings", "commanded", "read_by_coordinators", "crashes", "failed_calls"):
        setattr(history, name, copy.copy(getattr(history, name)))
    return replace(recorded, history=history, objects=dict(recorded.objects))


async def test_nothing_is_wrong_with_an_undisturbed_run(
    recorded: Outcome, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    expected = await undisturbed(adding("recorded", ROUNDS))
    fault_table.judge(recorded, expected)
    assert model_of(recorded) == expected
    assert members_of(recorded) == {round_: set(SITES) for round_ in range(1, ROUNDS + 1)}


async def test_the_record_is_whole(recorded: Outcome) -> None:
    history = recorded.history
    assert {one.by for one in history.written} == {"coordinator", "aggregator", "metrics", *SITES}
    trained = sorted((each.site, each.step[1]) for each in history.trainings if each.step[2] == "train")
    assert trained == sorted((site, round_) for site in SITES for round_ in range(1, ROUNDS + 1))
    assert {each.how for each in history.trainings} == {"done"}
    started = {one.id for one in history.commanded if one.id.startswith("start.") and ".train." in one.id}
    assert len(started) == len(SITES) * ROUNDS
    assert ANSWER in history.read_by_coordinators
    assert not_judged(recorded) == ["P12: broken journals were not recorded"]


def an_entry_is_missing(outcome: Outcome) -> None:
    _drop(outcome, ENTRY)


def an_entry_was_written_over(outcome: Outcome) -> None:
    outcome.history.written.append(replace(_first(outcome, ENTRY), fresh=False))


def the_end_is_missing(outcome: Outcome) -> None:
    _drop(outcome, outcome.history.journal[-1].key)


def another_model_was_stored(outcome: Outcome) -> None:
    _tamper(outcome, "global/r000002")


def an_update_was_another(outcome: Outcome) -> None:
    _tamper(outcome, "updates/r000001/clinic-2")


def somebody_else_answered(outcome: Outcome) -> None:
    one = _drop(outcome, ANSWER)
    outcome.history.written.append(replace(one, by="clinic-1"))


def an_answer_is_named_nowhere(outcome: Outcome) -> None:
    outcome.history.written.append(replace(_first(outcome, ANSWER), key=str(AnswerKey(1, Task.TRAIN, "clinic-2", 2))))


def an_answer_was_not_noticed(outcome: Outcome) -> None:
    del outcome.history.read_by_coordinators[ANSWER]


def a_command_came_before_its_entry(outcome: Outcome) -> None:
    said = next(one for one in outcome.history.commanded if ".train." in one.id and json.loads(one.names)["round"] == 2)
    outcome.history.commanded.append(Commanded(0.0, said.by, said.id, said.names))


def a_training_was_doubled(outcome: Outcome) -> None:
    one = outcome.history.trainings[-1]
    assert one.ended is not None
    again = Training(one.site, one.machine, one.task, one.ended + 1, one.ended + 2, "done")
    outcome.history.trainings.append(again)


def a_stopped_training_was_begun_again(outcome: Outcome) -> None:
    one = outcome.history.trainings.pop()
    assert one.ended is not None
    stopped, again = replace(one, how="stopped"), replace(one, began=one.ended + 1, ended=one.ended + 2)
    outcome.history.trainings += [stopped, again]


def a_clinic_trained_more_than_it_has_slots(outcome: Outcome) -> None:
    before, one = [each for each in outcome.history.trainings if each.site == "clinic-2"][-2:]
    assert before.ended is not None
    outcome.history.trainings.remove(one)
    outcome.history.trainings.append(replace(one, began=(before.began + before.ended) / 2))


def two_trained_at_once(outcome: Outcome) -> None:
    one = outcome.history.trainings[-1]
    again = Training(one.site, one.machine, one.task, one.began + 0.1, one.ended, "done")
    outcome.history.trainings.append(again)


def a_service_gave_up(outcome: Outcome) -> None:
    outcome.history.crashes.append(Line(3.0, "aggregator", "crashed", "it ended with status 1"))


def a_service_did_not_wait(outcome: Outcome) -> None:
    outcome.history.failed_calls["clinic-1", 3] = 1000


def an_object_is_partial(outcome: Outcome) -> None:
    key = next(key for key in outcome.objects if key.startswith("updates/"))
    outcome.objects[key] = outcome.objects[key][:10]


@pytest.mark.parametrize(
    ("promise", "tamper"),
    [
        ("P1", the_end_is_missing),
        ("P2", another_model_was_stored),
        ("P3", an_update_was_another),
        ("P3", somebody_else_answered),
        ("P4", an_entry_is_missing),
        ("P4", an_entry_was_written_over),
        ("P5", an_answer_is_named_nowhere),
        ("P6", a_command_came_before_its_entry),
        ("P7", an_answer_was_not_noticed),
        ("P10", a_service_gave_up),
        ("P10", a_service_did_not_wait),
        ("P10", an_object_is_partial),
        ("P11", a_training_was_doubled),
        ("P11", two_trained_at_once),
        ("P11", a_stopped_training_was_begun_again),
        ("P11", a_clinic_trained_more_than_it_has_slots),
    ],
)
async def test_what_was_tampered_with_is_named(
    outcome: Outcome, promise: str, tamper: Callable[[Outcome], None]
) -> None:
    tamper(outcome)
    assert promise in {violation.promise for violation in check(outcome)}


async def test_what_nobody_recorded_is_not_judged_and_that_is_said(outcome: Outcome) -> None:
    a_command_came_before_its_entry(outcome)
    unknown = replace(outcome, unrecorded=frozenset({"commands"}))
    assert check(unknown) == []
    assert not_judged(unknown) == ["P6: commands were not recorded"]


def _first(outcome: Outcome, key: str) -> Written:
    return next(one for one in outcome.history.written if one.key == key)


def _drop(outcome: Outcome, key: str) -> Written:
    one = _first(outcome, key)
    outcome.history.written.remove(one)
    return one


def _tamper(outcome: Outcome, prefix: str) -> None:
    written = outcome.history.written
    place = next(place for place, one in enumerate(written) if one.key.startswith(prefix))
    written[place] = replace(written[place], data=written[place].data[:-1] + b"\x41")
