"""A closed step, read back from the journal: who is a member, what was built on, how many are the quorum."""

from dataclasses import dataclass

from wardround.runtime.bus.port import DeadLetterError
from wardround.runtime.journal import ENTRY_AT_MOST
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import read_model
from wardround.runtime.together import together
from wardround_messages.codec import MalformedError
from wardround_messages.commands import AggregateStep
from wardround_messages.journal import ExperimentAccepted, JournalEntry, StepClosed, StepOpened
from wardround_messages.manifest import Manifest
from wardround_messages.names import JournalKey, Task, bucket_of
from wardround_messages.parts import Member, ObjectRef

# Between a step's first and last entry lie consents, late answers, pauses: some per site, not more.
LOOK_BACK = 20_000


@dataclass(frozen=True, slots=True)
class ClosedStep:
    """What is to be merged. `built_on` is null for `initialise` alone; `members` are sorted by site."""

    command: AggregateStep
    manifest: Manifest
    quorum: int
    built_on: ObjectRef | None
    members: tuple[Member, ...]


async def read_step(store: ObjectStore, command: AggregateStep) -> ClosedStep:
    """The step that the command names, with every entry checked against the digest that the next one gives.

    Raises:
        DeadLetterError: `journal_missing`, `journal_broken`, or `not_that_step` when the entry is about another.
    """
    closing = await _entry(store, command, command.closing)
    if closing.sha256 != command.closing_sha256:
        raise DeadLetterError("not_that_step", f"entry {command.closing} has another digest than the command says")
    closed = closing.body
    if not isinstance(closed, StepClosed) or (closed.round, closed.task) != (command.round, command.task):
        raise DeadLetterError("not_that_step", f"entry {command.closing} does not close {command.subject}")
    if command.task not in (Task.INITIALISE, Task.TRAIN):
        raise DeadLetterError("not_that_step", f"a step '{command.task}' leaves nothing to merge")
    opened, manifest = await together(_opening(store, command, closing), _manifest(store, command))
    if (opened.built_on is None) != (command.task is Task.INITIALISE):
        raise DeadLetterError("not_that_step", f"a step '{command.task}' is not opened with that model to build on")
    return ClosedStep(
        command=command,
        manifest=manifest,
        quorum=opened.quorum,
        built_on=opened.built_on,
        members=tuple(sorted(closed.members, key=lambda member: member.site)),
    )


async def _opening(store: ObjectStore, command: AggregateStep, closing: JournalEntry) -> StepOpened:
    """The step's first entry, found by going back from its last."""
    later = closing
    for number in range(closing.number - 1, max(closing.number - LOOK_BACK, 0), -1):
        entry = await _entry(store, command, number)
        if entry.sha256 != later.previous:
            raise DeadLetterError("journal_broken", f"entry {later.number} does not continue entry {number}")
        body = entry.body
        if isinstance(body, StepOpened) and (body.round, body.task) == (command.round, command.task):
            return body
        later = entry
    raise DeadLetterError("not_that_step", f"no entry opens the step that entry {closing.number} closes")


async def _manifest(store: ObjectStore, command: AggregateStep) -> Manifest:
    entry = await _entry(store, command, 0)
    if not isinstance(entry.body, ExperimentAccepted):
        raise DeadLetterError("journal_broken", "entry 0 does not accept the experiment")
    return entry.body.manifest


async def _entry(store: ObjectStore, command: AggregateStep, number: int) -> JournalEntry:
    bucket, key = bucket_of(command.experiment), str(JournalKey(number))
    try:
        entry = await patiently(lambda: read_model(store, bucket, key, JournalEntry, at_most=ENTRY_AT_MOST))
    except NotFoundError:
        raise DeadLetterError("journal_missing", f"there is no {key} in {bucket}") from None
    except MalformedError as error:
        raise DeadLetterError("journal_broken", f"{key}: {error}") from None
    if (entry.experiment, entry.number) != (command.experiment, number) or entry.sha256 != entry.expected_sha256():
        raise DeadLetterError("journal_broken", f"{key} is another entry, or its content does not match its digest")
    return entry
