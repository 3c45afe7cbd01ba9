"""When a round closes, and what follows."""

from datetime import timedelta

import pytest
from course import Course, manifest_of, model_ref, only

from wardround.coordinator.decide import next_moment
from wardround_messages import journal as facts
from wardround_messages.commands import ReadmitSite, ResumeExperiment
from wardround_messages.manifest import Best, Brought, Cohort, CommonTest, Evaluation, ModelPlan
from wardround_messages.names import Task
from wardround_messages.parts import Failure, LeftOut, Measured


def test_an_experiment_runs_from_enrolment_to_its_last_model() -> None:
    course = Course(manifest_of(count=2))
    course.enrol()
    for _ in range(3):
        course.all_done()
    assert course.known.phase == "finished"
    assert course.kinds() == [
        "ExperimentAccepted",
        *["SiteConsented"] * 3,
        "EnrolmentClosed",
        *["StepOpened", "StepClosed", "ModelAdopted"] * 3,
        "Pruned",
        "ExperimentFinished",
    ]
    assert course.known.models[-1] == model_ref(2)


def test_only_one_site_makes_the_first_model_and_all_would_make_the_same() -> None:
    course = Course()
    course.enrol()
    (task,) = course.asked()
    assert (task.site, task.task, task.model) == ("clinic-1", Task.INITIALISE, None)
    course.answer("clinic-1", "refused")
    (other,) = course.asked()
    assert (other.site, other.seed) == ("clinic-2", task.seed)


def test_seeds_differ_by_site_and_round_and_stay_over_attempts() -> None:
    course = Course()
    course.to_training()
    seeds = {task.site: task.seed for task in course.asked()}
    assert len(set(seeds.values())) == 3
    course.answer("clinic-1", "failed")
    assert {task.site: task.seed for task in course.asked()} == seeds


def test_round_closes_at_once_when_everybody_asked_has_answered_and_the_quorum_is_met() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2", "refused")
    closed = only(course.answer("clinic-3"), facts.StepClosed)
    assert closed.why == "complete"
    assert [member.site for member in closed.members] == ["clinic-1", "clinic-3"]
    assert [(other.site, other.why) for other in closed.others] == [("clinic-2", "trainer_error")]


def test_round_closes_after_the_grace_when_the_quorum_is_met() -> None:
    course = Course(manifest_of(rounds={"grace": 600}))
    course.to_training()
    course.answer("clinic-1")
    assert only(course.answer("clinic-3"), facts.QuorumReached).done == ("clinic-1", "clinic-3")
    assert course.wait(seconds=599) == []
    closed = only(course.wait(seconds=1), facts.StepClosed)
    assert closed.why == "grace"
    assert [(other.site, other.attempt, other.why) for other in closed.others] == [("clinic-2", 1, "unanswered")]


def test_round_closes_at_the_deadline_when_the_quorum_is_met() -> None:
    course = Course(manifest_of(rounds={"grace": 10**6, "deadline": 3600}))
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    assert course.wait(seconds=3599) == []
    assert only(course.wait(seconds=1), facts.StepClosed).why == "deadline"


def test_a_quorum_missed_at_the_deadline_pauses_and_keeps_what_was_answered() -> None:
    course = Course(manifest_of(rounds={"deadline": 3600}))
    course.to_training()
    course.answer("clinic-1")
    assert only(course.wait(seconds=3600), facts.ExperimentPaused).code == "quorum_deadline"
    assert course.asked() == []
    course.order(ResumeExperiment(experiment="glioma-1"))
    assert [task.site for task in course.asked()] == ["clinic-2", "clinic-3"]
    assert only(course.answer("clinic-2"), facts.QuorumReached).done == ("clinic-1", "clinic-2")


def test_a_missed_quorum_fails_the_experiment_where_the_researcher_says_so() -> None:
    course = Course(manifest_of(rounds={"on_missed": "fail", "deadline": 60}))
    course.to_training()
    assert only(course.wait(seconds=60), facts.ExperimentFailed).code == "quorum_deadline"
    assert [(cancel.site, cancel.reason) for cancel in course.cancelled()] == [
        (site, "experiment_ended") for site in ("clinic-1", "clinic-2", "clinic-3")
    ]


def test_a_quorum_out_of_reach_does_not_wait_for_the_deadline() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", "refused")
    assert only(course.answer("clinic-2", "refused"), facts.ExperimentPaused).code == "quorum_out_of_reach"


@pytest.mark.parametrize(("quorum", "expected"), [("all", 3), ("66%", 2), ("67%", 3), ("1%", 1), (2, 2)])
def test_the_quorum_is_a_number_or_a_percentage_rounded_up_of_the_sites_granted(quorum: object, expected: int) -> None:
    course = Course(manifest_of(quorum=quorum))
    course.to_training()
    assert course.known.step is not None
    assert course.known.step.quorum == expected


# --- attempts --------------------------------------------------------------------------------------------------------


def test_a_failed_task_is_asked_again_three_times_in_all() -> None:
    course = Course()
    course.to_training()
    for attempt in (1, 2):
        course.answer("clinic-1", "failed", attempt=attempt)
        assert ("clinic-1", attempt + 1) in [(task.site, task.attempt) for task in course.asked()]
    course.answer("clinic-1", "failed", attempt=3)
    assert "clinic-1" not in [task.site for task in course.asked()]


def test_a_refused_task_is_not_asked_again_in_that_step() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", "refused")
    assert [task.site for task in course.asked()] == ["clinic-2", "clinic-3"]


def test_a_task_cancelled_by_the_hub_costs_no_attempt_and_one_cancelled_by_the_site_is_refused() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", "cancelled", by_hub=True)
    course.answer("clinic-2", "cancelled")
    assert [(task.site, task.attempt) for task in course.asked()] == [("clinic-1", 2), ("clinic-3", 1)]
    for attempt in (2, 3):
        course.answer("clinic-1", "failed", attempt=attempt)
    assert ("clinic-1", 4) in [(task.site, task.attempt) for task in course.asked()]


def test_resuming_gives_every_site_not_done_three_more_attempts() -> None:
    course = Course(manifest_of(quorum="all"))
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2", "refused")
    assert course.known.paused == "quorum_out_of_reach"
    resumed = only(course.order(ResumeExperiment(experiment="glioma-1")), facts.ExperimentResumed)
    assert {known.site: known.attempt for known in resumed.attempts} == {"clinic-2": 2, "clinic-3": 1}
    for attempt in (2, 3, 4):
        assert ("clinic-2", attempt) in [(task.site, task.attempt) for task in course.asked()]
        course.answer("clinic-2", "failed", attempt=attempt)
    assert course.known.paused == "quorum_out_of_reach"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"built_on": "0" * 64}, "wrong_base"),
        ({"manifest_sha256": "0" * 64}, "wrong_manifest"),
        ({"cases": None}, "no_cases"),
    ],
)
def test_an_answer_that_does_not_fit_the_step_counts_as_failed(changes: dict[str, object], why: str) -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", **changes)
    assert ("clinic-1", 2) in [(task.site, task.attempt) for task in course.asked()]
    course.answer("clinic-2")
    course.answer("clinic-1", attempt=2)
    closed = only(course.answer("clinic-3"), facts.StepClosed)
    assert [(other.site, other.attempt, other.why) for other in closed.others] == [("clinic-1", 1, why)]


def test_an_attempt_nobody_asked_for_is_not_counted() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", attempt=5)
    assert ("clinic-1", 1) in [(task.site, task.attempt) for task in course.asked()]
    course.answer("clinic-2")
    closed = only(course.answer("clinic-3") + course.wait(days=1), facts.StepClosed)
    assert ("clinic-1", 5, "not_asked") in [(other.site, other.attempt, other.why) for other in closed.others]


# --- after the close -------------------------------------------------------------------------------------------------


def test_an_answer_after_the_close_is_named_late_and_its_sender_told() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.wait(seconds=600)
    course.aggregate()
    late = only(course.answer("clinic-3", step=(1, Task.TRAIN)), facts.AnswersLate)
    assert [(answer.site, answer.round, answer.why) for answer in late.answers] == [("clinic-3", 1, "stale_round")]
    assert ("clinic-3", 1, "stale_round") in [(c.site, c.round, c.reason) for c in course.cancelled()]
    assert course.settle() == []


def test_a_late_answer_is_named_even_after_the_experiment_has_ended() -> None:
    course = Course(manifest_of(count=1))
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.wait(seconds=600)
    course.aggregate()
    assert course.known.phase == "finished"
    assert only(course.answer("clinic-3", step=(1, Task.TRAIN)), facts.AnswersLate)
    assert course.known.phase == "finished"


def test_a_straggler_is_told_that_the_step_has_closed() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.wait(seconds=600)
    assert [(cancel.site, cancel.reason) for cancel in course.cancelled()] == [("clinic-3", "step_closed")]


def test_an_aggregation_that_leaves_too_many_out_reopens_the_step() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.answer("clinic-3", "refused")
    reopened = only(course.aggregate(left_out=("clinic-2",)), facts.StepReopened)
    assert [left.site for left in reopened.left_out] == ["clinic-2"]
    assert [(task.site, task.attempt) for task in course.asked()] == [("clinic-2", 2)]
    closed = only(course.answer("clinic-2", attempt=2), facts.StepClosed)
    assert [(member.site, member.attempt) for member in closed.members] == [("clinic-1", 1), ("clinic-2", 2)]
    assert [(o.site, o.attempt, o.why) for o in closed.others] == [
        ("clinic-2", 1, "left_out"),
        ("clinic-3", 1, "trainer_error"),
    ]


def test_an_aggregation_that_still_has_the_quorum_is_adopted_and_says_who_was_left_out() -> None:
    course = Course()
    course.to_training()
    for site in course.known.sites:
        course.answer(site, settle=False)
    course.settle()
    adopted = only(course.aggregate(left_out=("clinic-2",)), facts.ModelAdopted)
    assert adopted.used == ("clinic-1", "clinic-3")
    assert [left.site for left in adopted.left_out] == ["clinic-2"]


def test_no_aggregation_within_the_deadline_pauses_and_resuming_asks_under_another_closing_entry() -> None:
    course = Course(manifest_of(rounds={"deadline": 3600}))
    course.to_training()
    for site in course.known.sites:
        course.answer(site)
    assert only(course.wait(seconds=3600), facts.ExperimentPaused).code == "aggregation"
    led_to = course.order(ResumeExperiment(experiment="glioma-1"))
    assert [type(body).__name__ for body in led_to] == ["ExperimentResumed", "StepReopened", "StepClosed"]  # type: ignore[union-attr]
    assert course.wait(seconds=3599) == []
    assert only(course.aggregate(), facts.ModelAdopted).round == 1


def test_a_result_for_another_closing_entry_is_not_adopted() -> None:
    course = Course()
    course.to_training()
    for site in course.known.sites:
        course.answer(site)
    course.aggregate(settle=False)
    assert course.result is not None
    course.result = course.result.model_copy(update={"closing_sha256": "0" * 64})
    assert course.settle() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"used": ("clinic-1", "clinic-2", "clinic-9")},
        {"left_out": (LeftOut(site="clinic-9", code="digest"),)},
        {"left_out": (LeftOut(site="clinic-1", code="digest"),)},
    ],
)
def test_a_result_that_speaks_of_others_than_the_members_is_not_adopted(changes: dict[str, object]) -> None:
    course = Course()
    course.to_training()
    for site in course.known.sites:
        course.answer(site)
    course.aggregate(settle=False)
    assert course.result is not None
    course.result = course.result.model_copy(update=changes)
    assert course.settle() == []


def test_three_misses_in_a_row_set_a_site_aside_until_it_is_readmitted() -> None:
    course = Course(manifest_of(count=6))
    course.to_training()
    for _ in range(3):
        course.answer("clinic-1")
        course.answer("clinic-2")
        course.answer("clinic-3", "refused")
        course.aggregate()
    assert "SiteSetAside" in course.kinds()
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2"]
    course.order(ReadmitSite(experiment="glioma-1", site="clinic-3"))
    course.all_done()
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2", "clinic-3"]


def test_an_answer_that_counts_starts_the_counting_of_misses_anew() -> None:
    course = Course(manifest_of(count=6))
    course.to_training()
    for outcome in ("refused", "refused", "done", "refused", "refused"):
        course.answer("clinic-1")
        course.answer("clinic-2")
        course.answer("clinic-3", outcome)
        course.aggregate()
    assert course.known.sites["clinic-3"].misses == 2
    assert "SiteSetAside" not in course.kinds()


def test_steps_that_measure_count_as_well_and_steps_that_did_not_ask_do_not() -> None:
    test = CommonTest(site="clinic-1", dataset="counting-test")
    course = Course(manifest_of(count=1, evaluation=Evaluation(final=True, test=test)))
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.answer("clinic-3", "refused")
    course.aggregate()  # the evaluation opens
    for site, outcome in (("clinic-1", "done"), ("clinic-2", "done"), ("clinic-3", "refused")):
        course.answer(site, outcome)
    course.answer("clinic-1")  # the common test
    assert course.known.phase == "finished"
    assert {name: site.misses for name, site in course.known.sites.items()} == {
        "clinic-1": 0,
        "clinic-2": 0,
        "clinic-3": 2,
    }


def test_a_missed_quorum_names_who_failed_and_why() -> None:
    course = Course(manifest_of(sites=5, quorum="all"))
    course.to_training()
    unsuitable = Failure(phase="load", code="model_unsuitable")
    written = course.answer("clinic-1", "refused", failure=unsuitable)
    assert only(written, facts.ExperimentPaused).reason == "0 of 5 sites done in round 1; model_unsuitable at clinic-1"
    resumed = course.order(ResumeExperiment(experiment="glioma-1"))
    assert isinstance(resumed, list)
    for site in ("clinic-1", "clinic-2", "clinic-3", "clinic-4"):
        attempt = next(task.attempt for task in course.asked() if task.site == site)
        course.answer(site, "refused", attempt=attempt, failure=unsuitable, settle=False)
    reason = only(course.settle(), facts.ExperimentPaused).reason
    assert reason.endswith("; model_unsuitable at clinic-1, clinic-2, clinic-3 and 1 more")


def test_however_many_fail_for_whatever_reasons_the_entry_has_room_for_what_is_told() -> None:
    sites = tuple(f"clinic-of-long-name-{number:04}" for number in range(12))
    course = Course(manifest_of().model_copy(update={"cohort": Cohort(sites=sites)}))
    course.to_training()
    for number, site in enumerate(sites):
        code = f"{'x' * 37}_{number // 4}"
        course.answer(site, "refused", failure=Failure(phase="load", code=code), settle=False)
    reason = only(course.settle(), facts.ExperimentPaused).reason
    assert reason.startswith("0 of 12 sites done in round 1; xxx")
    assert len(reason) == 400


def test_a_site_whose_update_is_left_out_three_times_is_set_aside() -> None:
    course = Course(manifest_of(count=6))
    course.to_training()
    for _ in range(3):
        for site in course.known.sites:
            course.answer(site, settle=False)
        course.settle()
        course.aggregate(left_out=("clinic-3",))
    assert course.known.sites["clinic-3"].set_aside
    assert [task.site for task in course.asked()] == ["clinic-1", "clinic-2"]


def test_a_step_that_is_reopened_counts_one_miss_not_two() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.answer("clinic-3", "refused")
    course.aggregate(left_out=("clinic-2",))
    course.answer("clinic-2", attempt=2)
    course.aggregate()
    assert {name: site.misses for name, site in course.known.sites.items()} == {
        "clinic-1": 0,
        "clinic-2": 0,
        "clinic-3": 1,
    }


def test_nothing_is_looked_at_again_and_again_when_a_member_withdraws_after_the_quorum() -> None:
    course = Course(manifest_of(rounds={"grace": 600}))
    course.to_training()
    course.answer("clinic-1")
    course.answer("clinic-2")
    course.consent("clinic-2", "withdrawn")
    course.wait(seconds=601)
    assert course.known.step is not None
    moment = next_moment(course.known, course.now)
    assert moment == course.known.step.since + timedelta(days=1)


@pytest.mark.parametrize("losses", [(1e308, -1e308, 1e308), (1e308, 1e308, 1e308), (-1.7e308, -1.7e308, 0.0)])
@pytest.mark.parametrize("cases", [None, 1, 2**53])
def test_metrics_at_the_edge_of_what_a_float_holds_stop_no_experiment(
    losses: tuple[float, ...], cases: int | None
) -> None:
    course = Course()
    course.to_training()
    for site, loss in zip(course.known.sites, losses, strict=True):
        course.answer(site, received=Measured(cases=cases, values={"loss": loss}), settle=False)
    assert only(course.settle(), facts.StepClosed).quorum_met


def test_being_late_for_the_grace_is_no_miss_being_late_for_the_deadline_is() -> None:
    for grace, misses in ((600, 0), (10**6, 1)):
        course = Course(manifest_of(rounds={"grace": grace}))
        course.to_training()
        course.answer("clinic-1")
        course.answer("clinic-2")
        course.wait(days=1)
        course.aggregate()
        assert course.known.sites["clinic-3"].misses == misses


# --- evaluation, models ----------------------------------------------------------------------------------------------


def test_the_last_model_is_evaluated_by_all_and_tested_at_one_site() -> None:
    evaluation = Evaluation(final=True, test=CommonTest(site="clinic-2", dataset="counting-test"))
    course = Course(manifest_of(count=1, evaluation=evaluation))
    course.to_training()
    course.all_done()
    assert [(task.task, task.site) for task in course.asked()] == [
        (Task.EVALUATE, site) for site in ("clinic-1", "clinic-2", "clinic-3")
    ]
    course.all_done()
    assert [(task.task, task.site) for task in course.asked()] == [(Task.TEST, "clinic-2")]
    course.all_done()
    assert course.known.phase == "finished"


def test_a_missed_quorum_in_an_evaluation_is_recorded_and_the_experiment_finishes() -> None:
    course = Course(manifest_of(count=1, evaluation=Evaluation(final=True)))
    course.to_training()
    course.all_done()
    for site in course.known.sites:
        course.answer(site, "refused", settle=False)
    written = course.settle()
    closed = only(written, facts.StepClosed)
    assert (closed.why, closed.quorum_met, closed.members) == ("out_of_reach", False, ())
    assert only(written, facts.ExperimentFinished).model == model_ref(1)


def test_metrics_are_averaged_by_validation_cases_and_a_diverged_value_takes_no_part() -> None:
    course = Course()
    course.to_training()
    course.answer("clinic-1", received=Measured(cases=1, values={"loss": 1.0, "auc": 0.5}))
    course.answer("clinic-2", received=Measured(cases=3, values={"loss": 2.0, "auc": None}))
    closed = only(course.answer("clinic-3", "refused"), facts.StepClosed)
    assert closed.received == {"loss": 1.75, "auc": 0.5}


def test_the_best_model_is_the_one_whose_measured_metric_was_best() -> None:
    plan = ModelPlan(best=Best(metric="loss", goal="min"), keep=1)
    course = Course(manifest_of(count=4, model=plan))
    course.to_training()
    for loss in (3.0, 1.0, 2.0, 4.0):  # of models 0, 1, 2, 3
        for site in course.known.sites:
            course.answer(site, received=Measured(cases=1, values={"loss": loss}), settle=False)
        course.settle()
        course.aggregate()
    assert course.known.best == 1
    assert [model is not None for model in course.known.models] == [False, True, False, False, True]


def test_a_brought_model_is_adopted_without_asking_any_site() -> None:
    initial = model_ref(0)
    brought = ModelPlan(initial=Brought(size=initial.size, sha256=initial.sha256))
    course = Course(manifest_of(model=brought), initial=initial)
    course.enrol()
    assert "initialise" not in [task.task for task in course.asked()]
    assert course.known.models == (initial,)
    assert len(course.asked()) == 3


def test_a_check_asks_all_sites_once_and_finishes() -> None:
    course = Course(manifest_of(mode="check"))
    course.enrol()
    assert {task.task for task in course.asked()} == {Task.CHECK}
    course.answer("clinic-1")
    course.answer("clinic-2", "refused")
    course.answer("clinic-3")
    assert course.known.phase == "finished"
    assert course.known.models == ()
