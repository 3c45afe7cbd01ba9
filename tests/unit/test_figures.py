"""A round's figures: who was asked, what each site answered, what came of it."""

import pytest
from metrics_story import SITES, Story, model_ref, row, update_ref

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.evolve import IllegalEntryError, evolve
from wardround.metrics.history import Entry
from wardround.metrics.rebuild import rebuild
from wardround.runtime.store.memory import MemoryStore
from wardround_messages import journal as facts
from wardround_messages.base import canonical_json
from wardround_messages.codec import parse
from wardround_messages.figures import FIGURES_AT_MOST, Figures
from wardround_messages.names import AnswerKey, ResultKey, Task
from wardround_messages.parts import LateAnswer, LeftOut, NotCounted


@pytest.fixture
def story() -> Story:
    story = Story()
    story.enrol()
    story.first_model()
    return story


async def figures(story: Story, round_: int) -> Figures:
    store = MemoryStore()
    await story.lay(store)
    return (await rebuild(store, story.manifest.id)).figures[round_]


async def test_a_round_tells_when_it_opened_and_closed_and_why(story: Story) -> None:
    story.round(1)
    step = (await figures(story, 1)).steps[0]
    kinds = (facts.StepOpened, facts.StepClosed)
    opened, closed = (e for e in story.entries if isinstance(e.body, kinds) and e.body.round == 1)
    assert (step.task, step.opened_at, step.closed_at, step.closed_by) == (Task.TRAIN, opened.at, closed.at, "complete")
    assert (step.quorum, step.quorum_met, step.built_on) == (2, True, model_ref(0).sha256)
    assert step.received == {"dice/mean": 0.7, "loss": 0.5}


async def test_a_site_that_was_counted_has_its_cases_metrics_seconds_and_update(story: Story) -> None:
    story.round(1)
    found = row(await figures(story, 1), "clinic-2")
    assert (found.outcome, found.counted, found.attempts, found.cases) == ("answered", True, 1, 14)
    assert found.received is not None
    assert found.received.values["dice/mean"] == 0.7
    assert found.trained == {"loss": 0.41}
    assert found.seconds == {"training": 800.0, "received": 42.0}
    assert found.update == update_ref(1, "clinic-2")
    assert found.norm == 1.5


async def test_the_model_of_the_round_comes_with_digest_members_and_drift(story: Story) -> None:
    story.round(1)
    model = (await figures(story, 1)).model
    assert model is not None
    assert (model.sha256, model.used, model.drift) == (model_ref(1).sha256, SITES, 0.9)


async def test_a_site_that_failed_twice_and_then_answered_has_three_attempts(story: Story) -> None:
    story.open(1)
    for attempt in (1, 2):
        story.answer(1, Task.TRAIN, "clinic-1", attempt=attempt, outcome="failed")
    story.answer(1, Task.TRAIN, "clinic-1", attempt=3)
    story.answer(1, Task.TRAIN, "clinic-2")
    failed = tuple(NotCounted(site="clinic-1", attempt=attempt, why="trainer_error") for attempt in (1, 2))
    story.close(1, members={"clinic-1": 3, "clinic-2": 1}, others=failed)
    found = row(await figures(story, 1), "clinic-1")
    assert (found.outcome, found.counted, found.attempts, found.cases) == ("answered", True, 3, 14)


@pytest.mark.parametrize(
    ("outcome", "code"), [("refused", "policy"), ("failed", "disk_full"), ("cancelled", "operator")]
)
async def test_a_site_that_did_not_do_it_says_why(story: Story, outcome: str, code: str) -> None:
    story.open(1)
    story.answer(1, Task.TRAIN, "clinic-1")
    story.answer(1, Task.TRAIN, "clinic-2")
    story.answer(1, Task.TRAIN, "clinic-3", outcome=outcome, code=code)
    others = (NotCounted(site="clinic-3", attempt=1, why=code),)
    story.close(1, members={"clinic-1": 1, "clinic-2": 1}, others=others)
    found = row(await figures(story, 1), "clinic-3")
    assert (found.outcome, found.counted, found.why, found.cases) == (outcome, False, code, None)


async def test_a_site_without_an_answer_is_late_and_its_late_answer_says_why_it_is_not_used(story: Story) -> None:
    story.open(1)
    story.write(facts.QuorumReached(round=1, task=Task.TRAIN, done=("clinic-1", "clinic-2")))
    story.answer(1, Task.TRAIN, "clinic-1")
    story.answer(1, Task.TRAIN, "clinic-2")
    others = (NotCounted(site="clinic-3", attempt=1, why="unanswered"),)
    story.close(1, members={"clinic-1": 1, "clinic-2": 1}, others=others, why="grace")
    before = await figures(story, 1)
    late = LateAnswer(round=1, task=Task.TRAIN, site="clinic-3", attempt=1, why="stale_round")
    story.write(facts.AnswersLate(answers=(late,)))
    after = await figures(story, 1)
    assert before.steps[0].closed_by == "grace"
    assert before.steps[0].quorum_at is not None
    assert (row(before, "clinic-3").outcome, row(before, "clinic-3").why) == ("late", "unanswered")
    assert (row(after, "clinic-3").outcome, row(after, "clinic-3").why) == ("late", "stale_round")


async def test_an_answer_to_a_step_that_nobody_opened_changes_no_figures(story: Story) -> None:
    story.round(1)
    before = await figures(story, 1)
    late = LateAnswer(round=9, task=Task.TRAIN, site="clinic-3", attempt=1, why="stale_round")
    story.write(facts.AnswersLate(answers=(late,)))
    assert await figures(story, 1) == before


async def test_a_site_that_withdrew_in_the_round_counts_as_withdrawn_and_is_not_asked_again(story: Story) -> None:
    story.open(1)
    story.answer(1, Task.TRAIN, "clinic-1")
    story.answer(1, Task.TRAIN, "clinic-2")
    story.write(facts.SiteWithdrew(site="clinic-3", consent=4, reason="no longer"))
    others = (NotCounted(site="clinic-3", attempt=1, why="withdrawn"),)
    story.close(1, members={"clinic-1": 1, "clinic-2": 1}, others=others)
    story.adopt(1)
    story.open(2, asked=("clinic-1", "clinic-2"))
    story.answer(2, Task.TRAIN, "clinic-1")
    story.answer(2, Task.TRAIN, "clinic-2")
    story.close(2, members={"clinic-1": 1, "clinic-2": 1})
    assert row(await figures(story, 1), "clinic-3").outcome == "withdrawn"
    assert row(await figures(story, 2), "clinic-3").outcome == "withdrawn"


async def test_sites_that_are_not_asked_say_why() -> None:
    story = Story()
    story.enrol(granted=("clinic-1", "clinic-2"))
    story.first_model()
    story.write(facts.SiteSetAside(site="clinic-2", code="missed_three_steps"))
    story.open(1, asked=("clinic-1",), quorum=1)
    story.answer(1, Task.TRAIN, "clinic-1")
    story.close(1, members={"clinic-1": 1})
    found = await figures(story, 1)
    assert row(found, "clinic-2").outcome == "set_aside"
    assert row(found, "clinic-3").outcome == "declined"


async def test_a_member_that_was_left_out_of_the_merge_is_answered_but_not_counted(story: Story) -> None:
    story.open(1)
    for site in SITES:
        story.answer(1, Task.TRAIN, site)
    story.close(1, members=dict.fromkeys(SITES, 1))
    story.adopt(1, left_out=(LeftOut(site="clinic-3", code="nonfinite", detail="conv1.weight"),))
    found = row(await figures(story, 1), "clinic-3")
    assert (found.outcome, found.counted, found.why) == ("answered", False, "nonfinite")
    assert story.board().view({}).sites[2].rounds == 0  # type: ignore[union-attr]


async def test_a_reopened_step_starts_anew_and_tells_how_often(story: Story) -> None:
    story.open(1)
    story.answer(1, Task.TRAIN, "clinic-1", dice=0.9)
    story.answer(1, Task.TRAIN, "clinic-2", dice=0.9)
    closing = story.close(1, members={"clinic-1": 1, "clinic-2": 1}, received={"dice/mean": 0.9})
    left_out = (LeftOut(site="clinic-2", code="digest_mismatch"),)
    story.write(facts.StepReopened(round=1, task=Task.TRAIN, closing=closing.number, left_out=left_out))
    assert story.board().history.scores == {}  # type: ignore[union-attr]
    story.answer(1, Task.TRAIN, "clinic-2", attempt=2)
    failed = (NotCounted(site="clinic-2", attempt=1, why="left_out"),)
    story.close(1, members={"clinic-1": 1, "clinic-2": 2}, others=failed, received={"dice/mean": 0.8})
    story.adopt(1)
    found = await figures(story, 1)
    assert found.steps[0].reopened == 1
    assert found.best is not None
    assert found.best.value == 0.8
    assert row(found, "clinic-2").attempts == 2
    assert [site.rounds for site in story.board().view({}).sites] == [1, 1, 0]  # type: ignore[union-attr]


async def test_the_next_site_initialises_and_the_first_stays_in_the_figures(story: Story) -> None:
    story = Story()
    story.enrol()
    story.open(0, Task.INITIALISE, asked=("clinic-1",), quorum=1)
    story.answer(0, Task.INITIALISE, "clinic-1", outcome="failed")
    passed = (NotCounted(site="clinic-1", attempt=1, why="trainer_error"),)
    story.write(
        facts.StepOpened(round=0, task=Task.INITIALISE, asked=("clinic-2",), quorum=1, built_on=None, passed=passed)
    )
    story.answer(0, Task.INITIALISE, "clinic-2")
    story.close(0, Task.INITIALISE, members={"clinic-2": 1})
    story.adopt(0)
    found = await figures(story, 0)
    assert (row(found, "clinic-1", Task.INITIALISE).outcome, row(found, "clinic-2", Task.INITIALISE).outcome) == (
        "failed",
        "answered",
    )


async def test_a_brought_model_has_figures_without_a_step() -> None:
    story = Story()
    story.enrol()
    story.write(facts.ModelAdopted(round=0, model=model_ref(0), closing=None, used=()))
    found = await figures(story, 0)
    assert found.steps == ()
    assert found.model is not None
    assert found.model.sha256 == model_ref(0).sha256


async def test_the_last_round_holds_training_evaluation_and_common_test() -> None:
    found = await figures(Story.whole(rounds=2), 2)
    assert [step.task for step in found.steps] == [Task.TRAIN, Task.EVALUATE, Task.TEST]
    assert [site.site for site in found.steps[2].sites] == ["clinic-1"]


async def test_the_best_model_is_known_round_by_round_and_round_r_measures_model_r_minus_1() -> None:
    story = Story()
    story.enrol()
    story.first_model()
    for round_, dice in ((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.7)):
        story.round(round_, dice=dice)
    story.open(4, Task.TEST, asked=("clinic-1",), quorum=1)
    story.answer(4, Task.TEST, "clinic-1")
    story.close(4, Task.TEST, members={"clinic-1": 1}, received={"dice/mean": 0.99})
    best = [(await figures(story, round_)).best for round_ in (1, 2, 3, 4)]
    assert [(found.round, found.value) for found in best if found] == [(0, 0.5), (1, 0.7), (1, 0.7), (3, 0.7)]


async def test_a_missing_or_changed_answer_leaves_the_facts_of_the_journal(story: Story) -> None:
    story.round(1)
    del story.objects[str(AnswerKey(1, Task.TRAIN, "clinic-1", 1))]
    story.answer(1, Task.TRAIN, "clinic-2", dice=0.99)
    story.objects[str(AnswerKey(1, Task.TRAIN, "clinic-3", 1))] += b" "
    found = await figures(story, 1)
    for site in SITES:
        assert row(found, site).counted
        assert row(found, site).cases == 14
        assert row(found, site).received is None


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b'{"v":1}', b"\x80\x04pickle"])
async def test_an_unreadable_result_or_answer_costs_its_figures_and_nothing_else(story: Story, data: bytes) -> None:
    story.open(1)
    story.answer(1, Task.TRAIN, "clinic-1")
    story.answer(1, Task.TRAIN, "clinic-2")
    story.objects[str(AnswerKey(1, Task.TRAIN, "clinic-3", 1))] = data
    others = (NotCounted(site="clinic-3", attempt=1, why="answer_unreadable"),)
    closing = story.close(1, members={"clinic-1": 1, "clinic-2": 1}, others=others)
    story.adopt(1)
    story.objects[str(ResultKey(closing.number))] = data
    found = await figures(story, 1)
    assert found.model is not None
    assert found.model.drift is None
    assert (row(found, "clinic-3").outcome, row(found, "clinic-3").why) == ("failed", "answer_unreadable")
    assert row(found, "clinic-1").counted


async def test_figures_are_read_back_as_they_were_written() -> None:
    found = await figures(Story.whole(), 3)
    assert parse(Figures, canonical_json(found), at_most=FIGURES_AT_MOST) == found


def test_an_experiment_that_does_not_begin_with_its_acceptance_is_not_followed() -> None:
    entry = Story.whole().entries[1]
    with pytest.raises(IllegalEntryError, match="ExperimentAccepted"):
        evolve(None, Entry(0, entry.at, entry.body))


def test_a_closing_of_a_step_that_was_never_opened_is_not_followed(story: Story) -> None:
    story.answer(1, Task.TRAIN, "clinic-1")
    story.close(1, members={"clinic-1": 1})
    with pytest.raises(IllegalEntryError, match="train of round 1 was never opened"):
        story.board()


def test_a_site_outside_the_cohort_is_not_followed(story: Story) -> None:
    story.write(facts.SiteSetAside(site="clinic-9", code="missed_three_steps"))
    with pytest.raises(IllegalEntryError, match="clinic-9"):
        story.board()


def test_every_kind_of_fact_can_be_folded(story: Story) -> None:
    story.round(1)
    story.open(2)
    for fact in (
        facts.ExperimentPaused(code="operator", reason="maintenance"),
        facts.ExperimentResumed(),
        facts.ExperimentExtended(rounds=20),
        facts.SiteSetAside(site="clinic-1", code="missed_three_steps"),
        facts.SiteReadmitted(site="clinic-1"),
        facts.Pruned(updates_to=0),
        facts.ExperimentAborted(reason="enough"),
    ):
        story.write(fact)
    board: ExperimentBoard = story.board()
    assert board.history is not None
    assert (board.history.phase, board.history.rounds_planned, board.next) == ("aborted", 20, len(story.entries))
