"""The checker sees what is wrong: a sound run, with one thing in its record changed."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from wardround.simulation.faults.checker import PROMISES, check, not_judged
from wardround.simulation.faults.evidence import Evidence, evidence_of
from wardround.simulation.faults.fates import Calm, Course
from wardround.simulation.faults.history import Commanded, Line, Training
from wardround.simulation.faults.plan import DAY, Incident, Kind, Plan, Schedule
from wardround.simulation.faults.run import Outcome, run_with
from wardround.simulation.faults.workplace import workplace
from wardround_messages.journal import StepClosed
from wardround_messages.names import AnswerKey, Task
from wardround_messages.parts import NotCounted

pytestmark = pytest.mark.slow

ANSWER = str(AnswerKey(1, Task.TRAIN, "clinic-2", 1))


@pytest.fixture(scope="module")
def sound() -> Iterator[Outcome]:
    with workplace() as place:
        yield run_with(Plan(), place)


@pytest.fixture
def outcome(sound: Outcome) -> Outcome:
    """A copy to be spoilt."""
    history = replace(sound.history)
    for name in ("written", "trainings", "commanded", "read_by_coordinators", "crashes", "failed_calls", "rotten"):
        setattr(history, name, copy.copy(getattr(history, name)))
    return replace(sound, history=history, objects=dict(sound.objects))


def model_of(outcome: Outcome) -> str:
    state = evidence_of(outcome).state
    assert state is not None
    assert state.models[-1] is not None
    return state.models[-1].sha256


def at(outcome: Outcome, key: str) -> int:
    return next(place for place, one in enumerate(outcome.history.written) if one.key == key)


def change(outcome: Outcome, key: str, **what: object) -> None:
    place = at(outcome, key)
    outcome.history.written[place] = replace(outcome.history.written[place], **what)  # type: ignore[arg-type]


def last_entry(outcome: Outcome) -> str:
    return outcome.history.journal[-1].key


def the_end_is_missing(outcome: Outcome) -> None:
    del outcome.history.written[at(outcome, last_entry(outcome))]


def an_entry_is_missing(outcome: Outcome) -> None:
    del outcome.history.written[at(outcome, "journal/00000003.json")]


def an_entry_was_written_over(outcome: Outcome) -> None:
    again = replace(outcome.history.written[at(outcome, "journal/00000003.json")], fresh=False)
    outcome.history.written.append(again)


def another_model_lies_there(outcome: Outcome) -> None:
    key = next(one.key for one in outcome.history.written if one.key.startswith("global/r000002"))
    change(outcome, key, data=outcome.history.written[at(outcome, key)].data[:-1] + b"\x41")


def the_update_was_another(outcome: Outcome) -> None:
    key = next(one.key for one in outcome.history.written if one.key.startswith("updates/r000001/clinic-2"))
    change(outcome, key, data=outcome.history.written[at(outcome, key)].data[:-1] + b"\x41")


def somebody_else_answered(outcome: Outcome) -> None:
    change(outcome, ANSWER, by="clinic-1")


def an_answer_is_named_nowhere(outcome: Outcome) -> None:
    answer = outcome.history.written[at(outcome, ANSWER)]
    outcome.history.written.append(replace(answer, key=str(AnswerKey(1, Task.TRAIN, "clinic-2", 2))))


def a_command_comes_too_early(outcome: Outcome) -> None:
    said = next(one for one in outcome.history.commanded if one.id.startswith("start.sim.r000002"))
    outcome.history.commanded.append(Commanded(0.0, said.by, said.id, said.names))


def an_answer_is_noticed_late(outcome: Outcome) -> None:
    outcome.history.read_by_coordinators[ANSWER] += 20


def a_service_gave_up(outcome: Outcome) -> None:
    outcome.history.crashes.append(Line(3.0, "aggregator-1", "crashed", "OSError"))


def a_service_does_not_wait(outcome: Outcome) -> None:
    outcome.history.failed_calls["clinic-1", 3] = 1000


def an_object_is_partial(outcome: Outcome) -> None:
    key = next(key for key in outcome.objects if key.startswith("updates/"))
    outcome.objects[key] = outcome.objects[key][:10]


def two_train_at_once(outcome: Outcome) -> None:
    one = outcome.history.trainings[-1]
    begun = one.began + 0.5
    outcome.history.trainings.append(Training(one.site, one.machine, one.task, begun, begun + 1, "done"))


def another_step_trains_beside(outcome: Outcome) -> None:
    """On a machine of a clinic with one slot."""
    before, one = [each for each in outcome.history.trainings if each.site == "clinic-2"][-2:]
    assert before.step != one.step
    outcome.history.trainings.remove(one)
    outcome.history.trainings.append(replace(one, began=before.began + 0.5))


def a_training_is_done_again(outcome: Outcome) -> None:
    one = outcome.history.trainings[-1]
    begun = one.began + 500
    outcome.history.trainings.append(Training(one.site, one.machine, one.task, begun, begun + 1, "done"))


def a_flipped_bit_is_not_seen(outcome: Outcome) -> None:
    outcome.history.rotten["journal/00000004.json"] = 3.0


@pytest.mark.parametrize(
    ("promise", "spoil"),
    [
        ("P1", the_end_is_missing),
        ("P2", another_model_lies_there),
        ("P2", the_update_was_another),
        ("P3", the_update_was_another),
        ("P3", somebody_else_answered),
        ("P4", an_entry_is_missing),
        ("P4", an_entry_was_written_over),
        ("P5", an_answer_is_named_nowhere),
        ("P6", a_command_comes_too_early),
        ("P7", an_answer_is_noticed_late),
        ("P10", a_service_gave_up),
        ("P10", a_service_does_not_wait),
        ("P10", an_object_is_partial),
        ("P11", two_train_at_once),
        ("P11", another_step_trains_beside),
        ("P11", a_training_is_done_again),
        ("P12", a_flipped_bit_is_not_seen),
    ],
)
def test_what_is_wrong_is_named_with_its_promise(
    outcome: Outcome, promise: str, spoil: Callable[[Outcome], None]
) -> None:
    spoil(outcome)
    assert promise in {violation.promise for violation in check(outcome)}


# --- entries that no coordinator would read: changed after they were ---------------------------------------------


def broken(evidence: Evidence) -> set[str]:
    return {promise.name for promise in PROMISES for _ in promise.holds(evidence)}


def with_first_closing(outcome: Outcome, change: Callable[[StepClosed], dict[str, object]]) -> Evidence:
    evidence = evidence_of(outcome)
    (one, closed), *_ = evidence.closings
    body = closed.model_copy(update=change(closed))
    recorded = list(evidence.recorded)
    recorded[one.entry.number] = replace(one, entry=one.entry.model_copy(update={"body": body}))
    return replace(evidence, recorded=tuple(recorded))


def test_a_site_that_is_counted_twice_is_named(outcome: Outcome) -> None:
    assert "P2" in broken(with_first_closing(outcome, lambda closed: {"members": (*closed.members, *closed.members)}))


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ([(2, "superseded")], True),
        ([(2, "not_asked")], True),
        ([(2, "crashed"), (3, "not_asked")], True),
        ([(2, "left_out")], False),
        ([(3, "not_asked")], False),  # it follows on no answer: nobody had asked for it
    ],
)
def test_a_lower_attempt_counted_in_place_of_a_higher_one_is_named(
    outcome: Outcome, others: list[tuple[int, str]], named: bool
) -> None:
    def with_others(closed: StepClosed) -> dict[str, object]:
        site = closed.members[0].site
        return {"others": tuple(NotCounted(site=site, attempt=attempt, why=why) for attempt, why in others)}

    assert broken(with_first_closing(outcome, with_others)) == ({"P2"} if named else set())


# --- time --------------------------------------------------------------------------------------------------------


def test_a_step_beyond_its_deadline_is_named(outcome: Outcome) -> None:
    hurried = replace(outcome, plan=replace(outcome.plan, deadline=-10))
    assert "P8" in {violation.promise for violation in check(hurried)}


class ClinicTwoFails(Calm):
    def training(self, task: str) -> Course:
        return Course(crashes="clinic-2" in task)


@pytest.mark.parametrize(("over", "named"), [(-1000.0, {"P8"}), (0.0, set())])
def test_a_clinic_that_is_left_out_long_after_the_last_fault_is_named(over: float, named: set[str]) -> None:
    with workplace() as place:
        outcome = run_with(Plan(quorum=1, grace=5), place, ClinicTwoFails())
    outcome.history.faults_over = over
    assert {violation.promise for violation in check(outcome)} == named


def test_a_clinic_left_out_where_only_clocks_were_wrong_is_named() -> None:
    plan = Plan(quorum=1, grace=5)
    with workplace() as place:
        outcome = run_with(plan, place, ClinicTwoFails())
    clocks = Schedule(seed=0, profile="clocks of sites", plan=plan, lasts=0.0, clocks={"clinic-2": DAY})
    assert {violation.promise for violation in check(replace(outcome, schedule=clocks))} == {"P9"}
    assert check(replace(outcome, schedule=replace(clocks, crashes=1.0))) == []


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [("killed", "until 130 s after the hub itself was disturbed"), ("clock", "in the whole run")],
)
def test_it_is_said_of_which_time_delays_are_not_judged(outcome: Outcome, kind: Kind, left_out: str) -> None:
    incident = Incident(1.0, kind, "coordinator-1", 0.0)
    disturbed = Schedule(seed=0, profile="", plan=outcome.plan, lasts=5.0, incidents=(incident,))
    (said,) = not_judged(replace(outcome, schedule=disturbed))
    assert said.startswith("P7, P8: delays")
    assert left_out in said


def test_another_model_than_that_of_an_undisturbed_run_is_named(outcome: Outcome) -> None:
    assert {violation.promise for violation in check(outcome, undisturbed="0" * 64)} == {"P13"}


def test_nothing_is_wrong_with_a_sound_run(outcome: Outcome) -> None:
    assert check(outcome, undisturbed=model_of(outcome)) == []
