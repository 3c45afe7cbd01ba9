"""Enrolment, consent, and what a researcher may order."""

import pytest
from course import Course, manifest_of, only

from wardround.coordinator.commands import Refusal
from wardround.coordinator.evolve import IllegalTransitionError
from wardround_messages import journal as facts
from wardround_messages.commands import (
    AbortExperiment,
    ExtendExperiment,
    PauseExperiment,
    ReadmitSite,
    ResumeExperiment,
)
from wardround_messages.manifest import Evaluation
from wardround_messages.names import Task

NAME = "glioma-1"


def test_enrolment_closes_when_everybody_has_granted_or_declined_and_the_quorum_granted() -> None:
    course = Course()
    assert course.offered() == ["clinic-1", "clinic-2", "clinic-3"]
    course.consent("clinic-1")
    course.consent("clinic-2")
    assert course.offered() == ["clinic-3"]
    closed = only(course.consent("clinic-3", "declined"), facts.EnrolmentClosed)
    assert (closed.granted, closed.others) == (("clinic-1", "clinic-2"), ("clinic-3",))


def test_pending_is_neither_and_enrolment_closes_without_it_when_its_time_is_over() -> None:
    course = Course()
    course.consent("clinic-1")
    course.consent("clinic-2")
    course.consent("clinic-3", "pending")
    assert course.known.phase == "enrolling"
    assert only(course.wait(days=14), facts.EnrolmentClosed).granted == ("clinic-1", "clinic-2")


def test_a_later_grant_joins_at_the_next_step() -> None:
    course = Course()
    course.consent("clinic-1")
    course.consent("clinic-2")
    course.consent("clinic-3", "pending")
    course.wait(days=14)
    course.all_done()
    course.consent("clinic-3")
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2"]
    course.all_done()
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2", "clinic-3"]


def test_enrolment_out_of_reach_pauses_and_resuming_offers_again_to_those_who_did_not_grant() -> None:
    course = Course()
    course.consent("clinic-1")
    course.consent("clinic-2", "declined")
    assert only(course.consent("clinic-3", "declined"), facts.ExperimentPaused).code == "enrolment_out_of_reach"
    course.order(ResumeExperiment(experiment=NAME))
    assert course.offered() == ["clinic-2", "clinic-3"]
    course.consent("clinic-2")
    assert course.known.phase == "enrolling"
    course.consent("clinic-3", "declined")
    assert course.known.phase == "running"


def test_enrolment_out_of_time_without_the_quorum_pauses_and_resuming_restarts_the_time() -> None:
    course = Course()
    course.consent("clinic-1")
    assert only(course.wait(days=14), facts.ExperimentPaused).code == "enrolment_timed_out"
    course.order(ResumeExperiment(experiment=NAME))
    assert course.wait(days=13) == []
    assert only(course.wait(days=1), facts.ExperimentPaused)


def test_a_site_that_withdraws_counts_as_refused_in_the_open_step_even_if_done() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1")
    course.consent("clinic-1", "withdrawn")
    course.answer("clinic-2")
    closed = only(course.answer("clinic-3"), facts.StepClosed)
    assert [member.site for member in closed.members] == ["clinic-2", "clinic-3"]
    assert [(other.site, other.why) for other in closed.others] == [("clinic-1", "withdrawn")]
    course.aggregate()
    assert [task.site for task in course.asked()] == ["clinic-2", "clinic-3"]


def test_a_new_grant_after_a_withdrawal_joins_at_the_next_step_not_in_the_open_one() -> None:
    course = Course()
    course.to_training()
    course.consent("clinic-1", "withdrawn")
    course.consent("clinic-1", "granted")
    assert [task.site for task in course.asked()] == ["clinic-2", "clinic-3"]
    course.all_done()
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2", "clinic-3"]


def test_resuming_asks_a_site_again_that_withdrew_and_granted_anew_meanwhile() -> None:
    course = Course(manifest_of(sites=2))
    course.to_training()
    course.consent("clinic-1", "withdrawn")
    assert course.known.paused == "quorum_out_of_reach"
    course.consent("clinic-1", "granted")
    course.order(ResumeExperiment(experiment=NAME))
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2"]


def test_consents_are_recorded_while_paused_and_nothing_else_moves() -> None:
    course = Course()
    course.to_training()
    course.order(PauseExperiment(experiment=NAME))
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.answer("clinic-3")
    assert [type(body).__name__ for body in course.consent("clinic-3", "withdrawn")] == ["SiteWithdrew"]
    assert course.asked() == []
    assert course.wait(days=100) == []
    led_to = course.order(ResumeExperiment(experiment=NAME), "order-2")
    assert [type(body).__name__ for body in led_to] == ["ExperimentResumed", "StepClosed"]  # type: ignore[union-attr]


def test_a_model_that_was_being_made_is_adopted_while_paused() -> None:
    course = Course()
    course.to_training()
    for site in course.known.sites:
        course.answer(site)
    course.order(PauseExperiment(experiment=NAME))
    assert [type(body).__name__ for body in course.aggregate()] == ["ModelAdopted"]


def test_the_same_order_again_changes_nothing() -> None:
    course = Course()
    course.to_training()
    course.order(PauseExperiment(experiment=NAME), "order-1")
    course.order(ResumeExperiment(experiment=NAME), "order-2")
    entries = len(course.entries)
    assert course.order(PauseExperiment(experiment=NAME), "order-1") == []
    assert len(course.entries) == entries


def test_extending_adds_rounds_and_offers_them_to_the_sites() -> None:
    course = Course(manifest_of(count=1))
    course.to_training()
    course.order(ExtendExperiment(experiment=NAME, rounds=3))
    assert course.offered() == ["clinic-1", "clinic-2", "clinic-3"]
    course.consent("clinic-1")
    course.consent("clinic-2")
    course.consent("clinic-3", "declined")
    assert course.offered() == []
    course.all_done()
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2"]
    assert course.known.sites["clinic-3"].rounds == 1


def test_extending_works_from_finished_and_an_open_evaluation_closes_first() -> None:
    course = Course(manifest_of(count=1, evaluation=Evaluation(final=True)))
    course.to_training()
    course.all_done()
    course.order(ExtendExperiment(experiment=NAME, rounds=2))
    course.enrol()
    assert {task.task for task in course.asked()} == {Task.EVALUATE}
    course.all_done()
    assert {(task.task, task.round) for task in course.asked()} == {(Task.TRAIN, 2)}
    course.all_done()
    course.all_done()
    assert course.known.phase == "finished"
    course.order(ExtendExperiment(experiment=NAME, rounds=3), "order-2")
    course.enrol()
    assert {(task.task, task.round) for task in course.asked()} == {(Task.TRAIN, 3)}


def test_aborting_ends_it_and_tells_the_sites_with_the_attempt_they_work_on() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", "failed")
    course.order(AbortExperiment(experiment=NAME, reason="wrong data"))
    assert course.known.phase == "aborted"
    assert course.asked() == []
    assert ("clinic-1", 2, "experiment_ended") in [(c.site, c.attempt, c.reason) for c in course.cancelled()]


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (ResumeExperiment(experiment=NAME), "not_paused"),
        (ExtendExperiment(experiment=NAME, rounds=1), "not_more"),
        (ReadmitSite(experiment=NAME, site="clinic-9"), "unknown_site"),
    ],
)
def test_an_order_that_does_not_fit_is_refused_and_changes_nothing(order: object, code: str) -> None:
    course = Course()
    course.to_training()
    entries = len(course.entries)
    refusal = course.order(order)  # type: ignore[arg-type]
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert len(course.entries) == entries


@pytest.mark.parametrize(
    "order",
    [
        PauseExperiment(experiment=NAME),
        ResumeExperiment(experiment=NAME),
        ReadmitSite(experiment=NAME, site="clinic-1"),
        ExtendExperiment(experiment=NAME, rounds=9),
    ],
)
def test_nothing_can_be_ordered_of_an_aborted_experiment(order: object) -> None:
    course = Course()
    course.order(AbortExperiment(experiment=NAME))
    refusal = course.order(order, "order-2")  # type: ignore[arg-type]
    assert isinstance(refusal, Refusal)
    assert refusal.code == "ended"
    assert course.order(AbortExperiment(experiment=NAME), "order-3") == []


@pytest.mark.parametrize(
    "body",
    [
        facts.StepOpened(round=2, task=Task.TRAIN, asked=("clinic-1",), quorum=1, built_on=None),
        facts.StepClosed(round=1, task=Task.EVALUATE, why="complete", quorum_met=True, members=(), others=()),
        facts.EnrolmentClosed(granted=(), others=()),
        facts.ExperimentFinished(round=0, model=None),
        facts.SiteReadmitted(site="clinic-9"),
        facts.ExperimentResumed(),
        facts.ExperimentExtended(rounds=1),
    ],
)
def test_an_entry_that_cannot_follow_is_refused(body: facts.Fact) -> None:
    course = Course()
    course.to_training()
    with pytest.raises(IllegalTransitionError):
        course.append(body)
