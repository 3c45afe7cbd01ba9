"""The examples of version 1: every later version must read them, and nobody may change them."""

import hashlib
import json

import pytest
from published import CHAINS, EXAMPLES, Example, examples, journal, messages, objects

from wardround.coordinator.evolve import evolve
from wardround.coordinator.state import State
from wardround_messages.base import canonical_json
from wardround_messages.codec import CONTENT_TYPE, decode, encode, parse
from wardround_messages.journal import FACT_TYPES, GENESIS, JournalEntry
from wardround_messages.registry import MESSAGES
from wardround_messages.schemas import BODIES, OBJECTS

AT_MOST = 64 * 1024


def named(example: Example) -> str:
    return example.name


@pytest.mark.parametrize("example", examples(), ids=named)
def test_an_example_is_read_strictly_and_written_with_the_same_content(example: Example) -> None:
    read = parse(example.model, example.body, at_most=AT_MOST)
    assert json.loads(canonical_json(read)) == json.loads(example.body)


@pytest.mark.parametrize("example", messages(), ids=named)
def test_a_message_is_of_the_type_that_its_example_is_named_after(example: Example) -> None:
    assert example.type is not None
    message = decode(example.type, example.body, content_type=CONTENT_TYPE)
    assert decode(message.type, encode(message), content_type=CONTENT_TYPE) == message


def test_every_registered_type_has_an_example() -> None:
    assert {example.type for example in messages()} == set(MESSAGES)


def test_every_body_and_object_has_an_example() -> None:
    shown = {example.model for example in examples()}
    assert shown == {*BODIES, *OBJECTS}


def test_the_examples_are_those_that_were_published() -> None:
    published = dict(line.split("  ")[::-1] for line in (EXAMPLES / "SHA256SUMS").read_text().splitlines())
    here = {
        path.relative_to(EXAMPLES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in EXAMPLES.rglob("*.json")
    }
    assert here == published


@pytest.mark.parametrize("experiment", CHAINS)
def test_the_journal_examples_form_one_chain(experiment: str) -> None:
    previous = GENESIS
    for number, example in enumerate(journal(experiment)):
        entry = parse(JournalEntry, example.body, at_most=AT_MOST)
        assert (entry.experiment, entry.number, entry.previous) == (experiment, number, previous)
        assert entry.sha256 == entry.expected_sha256()
        previous = entry.sha256


@pytest.mark.parametrize(("experiment", "phase", "models"), [(CHAINS[0], "aborted", 4), (CHAINS[1], "failed", 0)])
def test_the_journal_examples_replay_to_the_same_state(experiment: str, phase: str, models: int) -> None:
    state: State | None = None
    for example in journal(experiment):
        state = evolve(state, parse(JournalEntry, example.body, at_most=AT_MOST))
    assert state is not None
    assert (state.phase, len(state.models)) == (phase, models)


def test_the_journal_examples_hold_every_kind_of_fact() -> None:
    entries = [parse(JournalEntry, one.body, at_most=AT_MOST) for chain in CHAINS for one in journal(chain)]
    assert {type(entry.body) for entry in entries} == set(FACT_TYPES)


def test_the_examples_tell_one_story() -> None:
    """What one example names by its digest is what another one holds."""
    found = {example.name: parse(example.model, example.body, at_most=AT_MOST) for example in objects()}
    chain = [parse(JournalEntry, one.body, at_most=AT_MOST) for one in journal(CHAINS[0])]
    text = canonical_json(chain[12]).decode()
    answer = hashlib.sha256(canonical_json(found["Answer.train"])).hexdigest()
    assert answer in text
    assert hashlib.sha256(canonical_json(found["Manifest"])).hexdigest() in canonical_json(chain[0]).decode()
