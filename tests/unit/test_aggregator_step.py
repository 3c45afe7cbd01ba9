"""The step that a command names is read back from the journal, link by link; what does not fit is a dead letter."""

from collections.abc import Callable
from typing import Any

import pytest
from step_in_store import BUCKET, EXPERIMENT, StepInStore, model, noon, write

from wardround.aggregator.step import read_step
from wardround.runtime.bus.port import DeadLetterError
from wardround.runtime.journal import Journal
from wardround.runtime.store.memory import MemoryStore
from wardround_messages.base import canonical_json
from wardround_messages.commands import AggregateStep
from wardround_messages.journal import ExperimentPaused, ExperimentResumed, JournalEntry, StepClosed, StepOpened
from wardround_messages.names import JournalKey, Task


def step_of(**parts: Any) -> StepInStore:
    updates = {"clinic-2": model(w=[1.0]), "clinic-1": model(w=[2.0])}
    return StepInStore(MemoryStore(), updates, **{"base": model(w=[0.0]), "quorum": 2, **parts})


async def dead_letter(step: StepInStore, command: AggregateStep) -> str:
    with pytest.raises(DeadLetterError) as caught:
        await read_step(step.store, command)
    return caught.value.code


async def test_a_step_is_read_back_with_its_quorum_its_base_and_its_members_in_sorted_order() -> None:
    step = step_of()
    command = await step.write()

    found = await read_step(step.store, command)

    assert (found.quorum, found.built_on, found.manifest) == (2, step.base_ref(), step.manifest)
    assert [member.site for member in found.members] == ["clinic-1", "clinic-2"]


async def test_the_opening_is_found_behind_whatever_happened_in_between() -> None:
    step = step_of(between=(ExperimentPaused(code="by_hand"), ExperimentResumed()))

    assert (await read_step(step.store, await step.write())).built_on == step.base_ref()


async def test_a_step_that_was_opened_again_is_read_from_its_latest_opening() -> None:
    step = step_of()
    await step.write()
    step.quorum = 1

    assert (await read_step(step.store, await step.write())).quorum == 1


async def test_an_initial_model_is_built_on_nothing() -> None:
    step = step_of(base=None, round=0)

    assert (await read_step(step.store, await step.write())).built_on is None


OTHERS: dict[str, tuple[dict[str, object], str]] = {
    "unknown experiment": ({"experiment": "glioma-2"}, "journal_missing"),
    "entry that is not there": ({"closing": 99}, "journal_missing"),
    "entry with another digest": ({"closing_sha256": "f" * 64}, "not_that_step"),
    "another round": ({"round": 2}, "not_that_step"),
    "another task": ({"task": Task.INITIALISE}, "not_that_step"),
}


@pytest.mark.parametrize(("other", "code"), OTHERS.values(), ids=OTHERS.keys())
async def test_a_command_that_the_journal_does_not_bear_out_is_a_dead_letter(
    other: dict[str, object], code: str
) -> None:
    step = step_of()
    command = await step.write()

    assert await dead_letter(step, command.model_copy(update=other)) == code


async def test_an_entry_that_closes_nothing_is_a_dead_letter() -> None:
    step = step_of()
    command = await step.write()
    opening = JournalEntry.model_validate_json(await step.store.read(BUCKET, str(JournalKey(1))))

    assert (
        await dead_letter(step, command.model_copy(update={"closing": 1, "closing_sha256": opening.sha256}))
        == "not_that_step"
    )


async def closed_by_hand(*, opened: bool, task: Task) -> tuple[StepInStore, AggregateStep]:
    """A journal that a broken coordinator might write."""
    step = step_of()
    await step.write()
    journal = Journal(step.store, EXPERIMENT, writer="test", clock=noon)
    await journal.read_on()
    if opened:
        await write(journal, StepOpened(round=9, task=task, asked=("clinic-1",), quorum=1, built_on=None))
    closing = await write(
        journal, StepClosed(round=9, task=task, why="complete", quorum_met=True, members=(), others=())
    )
    return step, AggregateStep(
        experiment=EXPERIMENT,
        round=9,
        task=task,
        closing=closing.entry.number,
        closing_sha256=closing.entry.sha256,
    )


@pytest.mark.parametrize(("opened", "task"), [(False, Task.TRAIN), (True, Task.TRAIN), (True, Task.EVALUATE)], ids=str)
async def test_a_step_never_opened_or_with_nothing_to_build_on_or_to_merge_is_a_dead_letter(
    opened: bool, task: Task
) -> None:
    assert await dead_letter(*await closed_by_hand(opened=opened, task=task)) == "not_that_step"


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize("number", [0, 1, 3], ids=["accepting", "opening", "closing"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-10],
        lambda data: data.replace(b'"writer":"test"', b'"writer":"tEst"'),
        lambda data: b"",
    ],
    ids=["cut", "flipped", "empty"],
)
async def test_a_damaged_entry_is_a_dead_letter(number: int, damage: Damage) -> None:
    step = step_of()
    command = await step.write()
    key = str(JournalKey(number))
    await step.store.put(BUCKET, key, damage(await step.store.read(BUCKET, key)))

    assert await dead_letter(step, command) == "journal_broken"


async def test_an_entry_sealed_anew_breaks_the_chain() -> None:
    step = step_of()
    command = await step.write()
    entry = JournalEntry.model_validate_json(await step.store.read(BUCKET, str(JournalKey(2))))
    forged = JournalEntry.seal(
        experiment=EXPERIMENT,
        number=2,
        at=noon(),
        writer="somebody",
        cause="",
        previous=entry.previous,
        body=entry.body,
    )
    await step.store.put(BUCKET, str(JournalKey(2)), canonical_json(forged))

    assert await dead_letter(step, command) == "journal_broken"


async def test_a_missing_entry_is_a_dead_letter() -> None:
    step = step_of()
    command = await step.write()
    await step.store.delete(BUCKET, str(JournalKey(2)))

    assert await dead_letter(step, command) == "journal_missing"


async def test_a_first_entry_that_accepts_nothing_is_a_dead_letter() -> None:
    step = step_of()
    command = await step.write()
    other = JournalEntry.seal(
        experiment=EXPERIMENT,
        number=0,
        at=noon(),
        writer="test",
        cause="",
        previous="0" * 64,
        body=ExperimentPaused(code="by_hand"),
    )
    await step.store.put(BUCKET, str(JournalKey(0)), canonical_json(other))

    assert await dead_letter(step, command) == "journal_broken"
