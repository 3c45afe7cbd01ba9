"""The board: events in any order, doubled or lost, lead to the same figures."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_story import SITES, START, Story, manifest, row

from wardround.metrics.board import Board, ExperimentBoard
from wardround.metrics.history import Entry
from wardround.metrics.live import Moving
from wardround.metrics.rebuild import rebuild
from wardround.runtime.clock import wall_clock
from wardround.runtime.journal import Journal
from wardround.runtime.store.memory import MemoryStore
from wardround_messages import journal as facts
from wardround_messages.events import CommandRefused, EntryRecorded, SiteSeen, TaskInHand
from wardround_messages.manifest import ModelPlan
from wardround_messages.names import AnswerKey, Task
from wardround_messages.objects import Answer
from wardround_messages.parts import LeftOut, NotCounted

STORY = Story.whole(rounds=3)
EVENTS = STORY.events
WHOLE = STORY.board()
SEEN: dict[str, object] = {
    "agent_version": "0.1.0",
    "reads": (),
    "trainers": (),
    "datasets": (),
    "slots": 1,
    "free": 0,
}


def listening(events: list[EntryRecorded]) -> ExperimentBoard:
    board = ExperimentBoard(STORY.manifest.id)
    for event in events:
        board = board.heard(event)
    return board


@given(seed=st.integers(0, 2**32), doubled=st.integers(0, 40))
def test_shuffled_and_doubled_events_lead_to_the_history_of_those_in_order(seed: int, doubled: int) -> None:
    random_ = random.Random(seed)
    events = EVENTS + random_.choices(EVENTS, k=doubled)
    random_.shuffle(events)
    board = listening(events)
    assert board.history == WHOLE.history
    assert [line.text for line in board.log] == [line.text for line in WHOLE.log]
    assert not board.waiting
    assert not board.missing


@given(kept=st.sets(st.integers(0, len(STORY.entries) - 1), min_size=1), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_dropped_events_are_made_up_for_by_the_journal(kept: set[int], seed: int) -> None:
    events = [EVENTS[number] for number in kept]
    random.Random(seed).shuffle(events)
    board = listening(events)
    dense = next(number for number in range(len(STORY.entries) + 1) if number not in kept)
    assert board.next == dense
    assert board.missing == (dense <= max(kept))

    async def fill(board: ExperimentBoard) -> ExperimentBoard:
        store = MemoryStore()
        await STORY.lay(store)
        journal = Journal(store, STORY.manifest.id, writer="metrics", clock=wall_clock)
        return board.recorded(Entry(s.entry.number, s.entry.at, s.entry.body) for s in await journal.read_on())

    board = asyncio.run(fill(board))
    assert board.history == WHOLE.history
    assert not board.missing


@given(cut=st.integers(1, len(STORY.entries)))
@settings(deadline=None, max_examples=25)
def test_figures_of_closed_rounds_do_not_depend_on_when_they_were_made(cut: int) -> None:
    async def figures_after(entries: int) -> ExperimentBoard:
        store = MemoryStore()
        await STORY.lay(store)
        for entry in STORY.entries[entries:]:
            await store.delete(STORY.bucket, f"journal/{entry.number:08d}.json")
        return await rebuild(store, STORY.manifest.id)

    then, now = asyncio.run(figures_after(cut)), asyncio.run(figures_after(len(STORY.entries)))
    settled = [number for number in then.figures if number + 1 in then.figures]
    assert {number: then.figures[number] for number in settled} == {number: now.figures[number] for number in settled}


def test_an_event_without_its_body_leaves_a_gap() -> None:
    large = STORY.entries[3]
    event = EntryRecorded.of(large, 40_000, "0" * 64)
    board = listening([*EVENTS[:3], event, *EVENTS[4:]])
    assert (board.next, board.missing) == (3, True)
    assert board.recorded([Entry(3, large.at, large.body)]).next == len(STORY.entries)


# --- what sites say ----------------------------------------------------------------------------------------------


def in_round_2() -> tuple[Story, ExperimentBoard]:
    story = Story()
    story.enrol()
    story.first_model()
    story.round(1)
    story.open(2)
    return story, story.board()


def site_of(board: ExperimentBoard, name: str):  # type: ignore[no-untyped-def]
    view = board.view({})
    assert view is not None
    return next(site for site in view.sites if site.site == name)


def test_a_site_goes_from_asked_to_answered() -> None:
    story, board = in_round_2()
    at = story.now
    states = [site_of(board, "clinic-1").state]
    for message in (
        story.accepted(2, "clinic-1"),
        story.started(2, "clinic-1"),
        story.reported(2, "clinic-1", 6, loss=0.4),
        story.answered(2, "clinic-1"),
    ):
        at += timedelta(seconds=30)
        board = board.said(message, at)
        states.append(site_of(board, "clinic-1").state)
    assert states == ["asked", "received", "training", "training", "answered"]
    found = site_of(board, "clinic-1")
    assert (found.seconds, found.loss, found.seen) == (60.0, 0.4, at)


def test_progress_epoch_and_loss_of_a_training_are_shown() -> None:
    story, board = in_round_2()
    found = site_of(board.said(story.reported(2, "clinic-1", 9, loss=0.38), START), "clinic-1")
    assert (found.progress, found.epoch, found.loss) == (0.75, 3, 0.38)


def test_metrics_without_a_step_are_those_of_the_model_it_was_given() -> None:
    story, board = in_round_2()
    measured = story.reported(2, "clinic-1", 1, **{"dice/mean": 0.74}).model_copy(update={"step": None, "epoch": None})
    assert site_of(board.said(measured, START), "clinic-1").metric == 0.74


def test_the_answer_itself_gives_metric_cases_and_size_before_the_round_closes() -> None:
    story, board = in_round_2()
    answer: Answer = story.answer(2, Task.TRAIN, "clinic-1", dice=0.77)
    board = board.said(story.answered(2, "clinic-1"), story.now, answer)
    found = site_of(board, "clinic-1")
    assert (found.metric, found.cases, found.sent) == (0.77, 14, 4_800_000)
    view = board.view({})
    assert view is not None
    assert view.model is not None
    assert (view.model.value, view.model.measured_by) == (0.77, 1)
    assert view.log[-1].text.startswith("clinic-1 answered: update ")
    assert view.log[-1].text.endswith(", 4.8 MB")


@given(order=st.permutations(range(5)), doubled=st.lists(st.integers(0, 4), max_size=5))
def test_what_a_site_says_may_come_in_any_order(order: list[int], doubled: list[int]) -> None:
    story, board = in_round_2()
    messages = [
        story.accepted(2, "clinic-1"),
        story.started(2, "clinic-1"),
        story.reported(2, "clinic-1", 12),
        story.answered(2, "clinic-1"),
        story.accepted(1, "clinic-1"),
    ]
    for number in [*order, *doubled]:
        board = board.said(messages[number], story.now)
    assert site_of(board, "clinic-1").state == "answered"
    assert sum("clinic-1 answered" in line.text for line in board.log) == 1


def test_a_failed_attempt_gives_way_to_the_next() -> None:
    story, board = in_round_2()
    board = board.said(story.answered(2, "clinic-1", outcome="failed"), story.now)
    assert (site_of(board, "clinic-1").state, site_of(board, "clinic-1").detail) == ("failed", "policy")
    board = board.said(story.accepted(2, "clinic-1", attempt=2), story.now)
    assert (site_of(board, "clinic-1").state, site_of(board, "clinic-1").attempt) == ("received", 2)


def test_a_site_is_late_when_another_is_done_before_it_began() -> None:
    story, board = in_round_2()
    board = board.said(story.accepted(2, "clinic-3"), story.now)
    board = board.said(story.reported(2, "clinic-2", 1), story.now)
    assert not site_of(board, "clinic-3").late
    board = board.said(story.answered(2, "clinic-1"), story.now)
    assert [site_of(board, name).late for name in SITES] == [False, False, True]


def test_whoever_is_still_at_work_is_late_while_the_grace_runs() -> None:
    story, board = in_round_2()
    for name in ("clinic-1", "clinic-3"):
        board = board.said(story.answered(2, name), story.now)
    story.write(facts.QuorumReached(round=2, task=Task.TRAIN, done=("clinic-1", "clinic-3")))
    board = board.heard(story.events[-1]).said(story.reported(2, "clinic-2", 1), story.now)
    assert [site_of(board, name).late for name in SITES] == [False, True, False]
    view = board.view({})
    assert view is not None
    assert view.step is not None
    assert view.step.grace_ends == story.now + timedelta(seconds=600)


def test_what_a_stranger_says_is_not_heard() -> None:
    story, board = in_round_2()
    assert board.said(story.accepted(2, "clinic-9"), story.now) == board
    assert ExperimentBoard("nobodys").said(story.accepted(2, "clinic-1"), story.now).tasks == {}


def test_the_list_of_tasks_in_hand_tells_the_phase() -> None:
    story, experiment = in_round_2()
    board = Board()
    board[story.manifest.id] = experiment
    hand = TaskInHand(experiment=story.manifest.id, round=2, task=Task.TRAIN, attempt=1, phase="fetching")
    board.seen(SiteSeen(site="clinic-2", tasks=(hand,), **SEEN), START)  # type: ignore[arg-type]
    board.seen(SiteSeen(site="clinic-3", tasks=(), **SEEN), START)  # type: ignore[arg-type]
    view = board.experiment(story.manifest.id)
    assert view is not None
    assert [(site.state, site.seen) for site in view.sites] == [("asked", None), ("fetching", START), ("asked", START)]


def test_a_transfer_is_shown_while_it_goes_on_and_no_longer() -> None:
    story, board = in_round_2()
    at = story.now
    board = board.said(story.moving(2, "clinic-1", done=100, of=400), at)
    board = board.said(story.moving(2, "clinic-1", done=300, of=400), at)
    site = site_of(board, "clinic-1")
    assert (site.state, site.moving) == ("fetching", Moving(300, 400, 20, at))
    board = board.said(story.started(2, "clinic-1"), at)
    assert site_of(board, "clinic-1").moving is None
    late = board.said(story.moving(2, "clinic-1", done=400, of=400), at)
    assert (site_of(late, "clinic-1").state, site_of(late, "clinic-1").moving) == ("training", None)
    board = board.said(story.moving(2, "clinic-1", done=1, of=9, phase="submitting"), at)
    assert (site_of(board, "clinic-1").state, site_of(board, "clinic-1").moving) == (
        "submitting",
        Moving(1, 9, 20, at),
    )
    board = board.said(story.answered(2, "clinic-1"), at)
    assert site_of(board, "clinic-1").moving is None


@pytest.mark.parametrize(
    ("slots", "before", "told"),
    [
        (1, ("training", "queued", "queued"), "waits for a free slot, 2 before it"),
        (1, ("training",), "waits for a free slot, next in line"),
        (2, ("training",), ""),  # it has a slot, and waits in the clinic's scheduler
        (1, ("fetching", "training"), "waits for a free slot, next in line"),
    ],
)
def test_a_task_that_waits_for_a_slot_shows_how_many_come_first(slots: int, before: tuple[Any, ...], told: str) -> None:
    story, experiment = in_round_2()
    board = Board()
    board[story.manifest.id] = experiment
    others = [
        TaskInHand(experiment=f"other-{number}", round=1, task=Task.TRAIN, attempt=1, phase=phase)
        for number, phase in enumerate(before)
    ]
    hand = TaskInHand(experiment=story.manifest.id, round=2, task=Task.TRAIN, attempt=1, phase="queued")
    board.seen(SiteSeen(site="clinic-2", tasks=(*others, hand), **SEEN | {"slots": slots}), START)  # type: ignore[arg-type]
    waiting = site_of(board[story.manifest.id], "clinic-2")
    assert (waiting.state, waiting.detail) == ("queued", told)
    begun = board[story.manifest.id].said(story.started(2, "clinic-2"), START)
    assert (site_of(begun, "clinic-2").state, site_of(begun, "clinic-2").detail) == ("training", "")


def test_a_refused_command_is_one_line_however_often_it_is_said() -> None:
    story, board = in_round_2()
    refused = CommandRefused(
        experiment=story.manifest.id, command="c1", command_sha256="0" * 64, code="not_paused", reason="it runs"
    )
    once = board.refused(refused, START)
    assert once.refused(refused, START) == once
    assert once.log[-1].text == "command refused (not_paused): it runs"


# --- views -------------------------------------------------------------------------------------------------------


async def test_a_finished_experiment_shows_its_models_and_its_sites_curves() -> None:
    store = MemoryStore()
    await STORY.lay(store)
    view = (await rebuild(store, STORY.manifest.id)).view({})
    assert view is not None
    assert (view.phase, view.rounds_done, view.rounds_planned, view.metric) == ("finished", 3, 3, "dice/mean")
    assert view.model is not None
    assert (view.model.round, view.model.value, view.model.measured_by) == (3, 0.8, 3)
    assert view.best is not None
    assert (view.best.round, view.best.value) == (3, 0.8)
    assert (view.evaluated["dice/mean"], view.tested["dice/mean"]) == (0.8, 0.8)
    assert [(s.state, s.rounds, s.curve, s.cases, s.metric) for s in view.sites] == [
        ("done", 3, (0.61, 0.62, 0.63, 0.8), 14, 0.8)
    ] * 3


def test_an_open_step_has_a_deadline_and_a_paused_one_has_not() -> None:
    story, board = in_round_2()
    view = board.view({})
    assert view is not None
    assert view.step is not None
    assert view.step.deadline == story.now + timedelta(seconds=6000)
    story.write(facts.ExperimentPaused(code="operator"))
    paused = story.board().view({})
    assert paused is not None
    assert paused.step is not None
    assert (paused.paused, paused.step.deadline) == ("operator", None)
    story.write(facts.ExperimentResumed(), after=1000)
    resumed = story.board().view({})
    assert resumed is not None
    assert resumed.step is not None
    assert resumed.step.deadline == story.now + timedelta(seconds=6000)


async def test_after_a_pause_a_site_that_is_asked_again_no_longer_shows_how_its_last_attempt_ended() -> None:
    story, _ = in_round_2()
    story.answer(2, Task.TRAIN, "clinic-2", outcome="failed", code="disk_full")
    story.write(facts.ExperimentPaused(code="operator"))
    again = facts.NextAttempt(site="clinic-2", attempt=2)
    story.write(facts.ExperimentResumed(attempts=(again,)))
    store = MemoryStore()
    await story.lay(store)
    view = (await rebuild(store, story.manifest.id)).view({})
    assert view is not None
    assert [(site.site, site.state) for site in view.sites if site.site == "clinic-2"] == [("clinic-2", "asked")]


def test_enrolment_shows_each_sites_word() -> None:
    story = Story()
    consent = {"consent": 1, "rounds": 10, "offer": 0, "code": "rule"}
    story.write(facts.SiteConsented(site="clinic-1", verdict="granted", **consent))  # type: ignore[arg-type]
    story.write(facts.SiteConsented(site="clinic-2", verdict="pending", reason="ethics board", **consent))  # type: ignore[arg-type]
    view = story.board().view({})
    assert view is not None
    assert [(site.state, site.detail) for site in view.sites] == [
        ("granted", ""),
        ("pending", "ethics board"),
        ("offered", ""),
    ]
    assert view.enrolment_ends == view.started_at + timedelta(days=14)


async def test_after_a_step_each_site_shows_how_it_came_out() -> None:
    story, _ = in_round_2()
    story.answer(2, Task.TRAIN, "clinic-1")
    story.answer(2, Task.TRAIN, "clinic-2", outcome="failed", code="disk_full")
    others = (
        NotCounted(site="clinic-2", attempt=1, why="disk_full"),
        NotCounted(site="clinic-3", attempt=1, why="unanswered"),
    )
    story.close(2, members={"clinic-1": 1}, others=others, why="deadline")
    store = MemoryStore()
    await story.lay(store)
    view = (await rebuild(store, story.manifest.id)).view({})
    assert view is not None
    assert [(site.state, site.detail) for site in view.sites] == [
        ("answered", ""),
        ("failed", "disk_full"),
        ("late", "unanswered"),
    ]


def test_a_step_for_one_site_does_not_ask_the_others_and_tells_who_left() -> None:
    story, _ = in_round_2()
    story.write(facts.SiteWithdrew(site="clinic-2", consent=2, reason="no longer"))
    story.write(facts.SiteSetAside(site="clinic-3", code="missed_three_steps"))
    story.open(2, Task.TEST, asked=("clinic-1",), quorum=1)
    states = [site_of(story.board(), name).state for name in SITES]
    assert states == ["asked", "withdrawn", "set_aside"]
    story.write(facts.SiteReadmitted(site="clinic-3"))
    assert site_of(story.board(), "clinic-3").state == "not_asked"


def test_a_site_set_aside_shows_what_it_missed_and_how_it_is_asked_again() -> None:
    story, _ = in_round_2()
    missed = {2: "unanswered", 3: "disk_full"}
    for round_, why in missed.items():
        for name in ("clinic-1", "clinic-2"):
            story.answer(round_, Task.TRAIN, name)
        others = (NotCounted(site="clinic-3", attempt=1, why=why),)
        story.close(round_, members={"clinic-1": 1, "clinic-2": 1}, others=others, why="deadline")
        story.adopt(round_)
        story.open(round_ + 1)
    for name in SITES:
        story.answer(4, Task.TRAIN, name)
    story.close(4, members=dict.fromkeys(SITES, 1))
    story.adopt(4, left_out=(LeftOut(site="clinic-3", code="digest"),))
    story.write(facts.SiteSetAside(site="clinic-3", code="missed_three_steps"))
    board = story.board()
    assert site_of(board, "clinic-3").detail == "unanswered, disk_full, digest"
    assert board.log[-1].text == (
        "clinic-3 set aside: missed three steps. To ask it again: wardround readmit brain-tumour clinic-3"
    )


async def test_without_a_metric_in_the_manifest_the_first_that_is_no_loss_is_shown() -> None:
    plain = manifest(rounds=1).model_copy(update={"model": ModelPlan()})
    story = Story(plain)
    story.enrol()
    story.first_model()
    story.round(1, dice=0.66)
    store = MemoryStore()
    await story.lay(store)
    view = (await rebuild(store, story.manifest.id)).view({})
    assert view is not None
    assert (view.metric, view.best, view.sites[0].curve) == ("dice/mean", None, (0.66,))


async def test_experiments_that_ended_are_let_go_one_by_one() -> None:
    board = Board(keep_ended=2)
    for number in range(4):
        store, story = MemoryStore(), Story.whole(rounds=1, experiment=f"exp-{number}")
        await story.lay(store)
        board[story.manifest.id] = await rebuild(store, story.manifest.id)
    running = Story()
    board[running.manifest.id] = running.board()
    assert [f"exp-{number}" in board for number in range(4)] == [False, False, True, True]
    assert board.running == (running.manifest.id,)


async def test_the_log_keeps_the_last_lines() -> None:
    story = Story.whole(rounds=30)
    board = story.board()
    assert len(board.log) == 50
    assert board.log[-1].text.startswith("finished with model 30 · ")


async def test_the_row_of_a_site_comes_from_the_step_it_belongs_to() -> None:
    store = MemoryStore()
    await STORY.lay(store)
    await store.delete(STORY.bucket, str(AnswerKey(3, Task.EVALUATE, "clinic-2", 1)))
    figures = (await rebuild(store, STORY.manifest.id)).figures[3]
    assert row(figures, "clinic-2", Task.EVALUATE).received is None
    assert row(figures, "clinic-2", Task.TRAIN).received is not None
