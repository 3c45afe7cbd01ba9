"""A run's history, read: the journal as it was first written, and what the store was given for each answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wardround.coordinator.evolve import IllegalTransitionError, evolve
from wardround.coordinator.state import State
from wardround.simulation.faults.history import Written
from wardround.simulation.faults.run import Outcome
from wardround_messages.codec import MalformedError, parse
from wardround_messages.journal import GENESIS, JournalEntry, ModelAdopted, StepClosed
from wardround_messages.names import AnswerKey, JournalKey, parse_key
from wardround_messages.objects import ANSWER_AT_MOST, Answer

ENTRY_AT_MOST = 2**24


@dataclass(frozen=True, slots=True)
class Recorded:
    """A journal entry, the write that made it, and the states before and after it."""

    entry: JournalEntry
    written: Written
    before: State | None
    after: State


@dataclass(frozen=True, slots=True)
class Evidence:
    """`wrong` says of which entry the journal can no longer be read, and why; empty where it is whole."""

    outcome: Outcome
    recorded: tuple[Recorded, ...]
    answers: Mapping[AnswerKey, Written]
    first: Mapping[str, Written]
    wrong: str = ""

    @property
    def state(self) -> State | None:
        return self.recorded[-1].after if self.recorded else None

    @property
    def closings(self) -> Iterator[tuple[Recorded, StepClosed]]:
        for one in self.recorded:
            if isinstance(one.entry.body, StepClosed):
                yield one, one.entry.body

    @property
    def adoptions(self) -> Iterator[tuple[Recorded, ModelAdopted, StepClosed]]:
        """Models that were made, each with the closing entry that they follow from."""
        for one in self.recorded:
            body = one.entry.body
            if isinstance(body, ModelAdopted) and body.closing is not None:
                closing = self.recorded[body.closing].entry.body
                if isinstance(closing, StepClosed):
                    yield one, body, closing

    def answer(self, key: AnswerKey) -> Answer | None:
        """The answer as it was first written; None where there is none, or it is none."""
        written = self.answers.get(key)
        if written is None:
            return None
        try:
            return parse(Answer, written.data, at_most=ANSWER_AT_MOST)
        except MalformedError:
            return None

    def rotten(self, kind: str) -> list[str]:
        """The objects of that kind of which a bit was flipped, by key."""
        return sorted(key for key in self.outcome.history.rotten if key.startswith(f"{kind}/"))


def evidence_of(outcome: Outcome) -> Evidence:
    first: dict[str, Written] = {}
    for one in outcome.history.written:
        first.setdefault(one.key, one)
    recorded, wrong = _read_journal(first)
    return Evidence(outcome, tuple(recorded), outcome.history.answers, first, wrong)


def _read_journal(first: Mapping[str, Written]) -> tuple[list[Recorded], str]:
    numbers = sorted(key.number for text in first if isinstance(key := parse_key(text), JournalKey))
    recorded: list[Recorded] = []
    state, head = None, GENESIS
    for expected, number in enumerate(numbers):
        if number != expected:
            return recorded, f"entry {expected} is missing, and entry {number} is there"
        written = first[str(JournalKey(number))]
        try:
            entry = parse(JournalEntry, written.data, at_most=ENTRY_AT_MOST)
            if entry.previous != head or entry.sha256 != entry.expected_sha256() or entry.number != number:
                return recorded, f"entry {number} does not continue the chain"
            after = evolve(state, entry)
        except (MalformedError, IllegalTransitionError) as error:
            return recorded, f"entry {number}: {error}"
        recorded.append(Recorded(entry, written, state, after))
        state, head = after, entry.sha256
    return recorded, ""
