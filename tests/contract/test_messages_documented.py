"""docs/wire-format.md says everything, and what it shows is true."""

import json
import re

import pytest
from published import ROOT
from pydantic import BaseModel

from wardround_messages import names
from wardround_messages.base import canonical_json, digest
from wardround_messages.codec import parse
from wardround_messages.envelope import read_headers
from wardround_messages.journal import FACT_TYPES, GENESIS, JournalEntry
from wardround_messages.manifest import Manifest
from wardround_messages.messages import type_name
from wardround_messages.registry import MESSAGES
from wardround_messages.schemas import BODIES, OBJECTS
from wardround_messages.topology import topology

PAGE = (ROOT / "docs" / "wire-format.md").read_text()
BLOCKS = re.findall(r"^```(\w+) (\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
MODELS: dict[str, type[BaseModel]] = {model.__name__: model for model in (*BODIES, *OBJECTS)}
SHOWN = [(name, text) for language, name, text in BLOCKS if language == "json"]
AT_MOST = 64 * 1024


def section(name: str) -> str:
    """What stands under the heading that begins with the name, up to the next heading."""
    found = re.findall(rf"^#+ `{name}`.*?(?=^#)", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{len(found)} headings for `{name}`"
    return str(found[0])


def worked(kind: str) -> str:
    return next(text.strip() for language, name, text in BLOCKS if (language, name) == ("text", kind))


@pytest.mark.parametrize(("name", "text"), SHOWN, ids=[name for name, _ in SHOWN])
def test_what_the_page_shows_is_read(name: str, text: str) -> None:
    if name == "headers":
        assert read_headers(json.loads(text)).headers() == json.loads(text)
    else:
        parse(MODELS[name], text.encode(), at_most=AT_MOST)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_field_of_every_message_and_object_is_explained(name: str) -> None:
    text = section(name)
    for field in MODELS[name].model_fields:
        assert f"`{field}`" in text, f"{name}.{field} is not explained"


@pytest.mark.parametrize("fact", FACT_TYPES, ids=lambda fact: fact.__name__)
def test_every_fact_stands_in_the_table_with_its_fields(fact: type[BaseModel]) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{fact.__name__}` |"))
    for field in fact.model_fields.keys() - {"kind"}:
        assert f"`{field}`" in row, f"{fact.__name__}.{field} is not explained"


def test_every_type_is_named() -> None:
    named = {type_name(*word.split("."), 1) for word in re.findall(r"`([a-z]+\.[a-z-]+)`", PAGE)}
    assert set(MESSAGES) <= named


def test_the_worked_example_of_canonical_json_is_right() -> None:
    shown = next(text for name, text in SHOWN if name == "Manifest")
    manifest = parse(Manifest, shown.encode(), at_most=AT_MOST)
    assert canonical_json(manifest).decode() == worked("canonical")
    assert digest(worked("canonical").encode()) == manifest.sha256 == worked("sha256")


def test_the_entry_shown_is_the_first_of_a_chain() -> None:
    shown = next(text for name, text in SHOWN if name == "JournalEntry")
    entry = parse(JournalEntry, shown.encode(), at_most=AT_MOST)
    assert (entry.number, entry.previous) == (0, GENESIS)
    assert entry.sha256 == entry.expected_sha256()
    rest = {name: value for name, value in json.loads(shown).items() if name != "sha256"}
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest(plain.encode()) == entry.sha256


def test_the_names_shown_are_read() -> None:
    keys = re.findall(
        r"`((?:journal|consent|updates|answers|global|results|figures)/[^`<?*]+\.(?:json|safetensors))`", PAGE
    )
    assert len(keys) >= 7
    assert [key for key in keys if names.parse_key(key) is None] == []
    assert names.parse_task_id("brain-tumour.r000012.train.clinic-1.a01")
    assert "`brain-tumour.r000012.train.clinic-1.a01`" in PAGE


def test_the_broker_is_described_as_it_is_defined() -> None:
    broker = topology(("site",), ("researcher",))
    for exchange in broker.exchanges:
        assert f"| `{exchange}` |" in PAGE
    for queue in broker.queues:
        assert f"`{queue.name.replace('wr.site.site', 'wr.site.<site>')}`" in PAGE
    for binding in broker.bindings:
        if binding.pattern != "#":
            assert f"`{binding.pattern.replace('.site.#', '.<site>.#')}`" in PAGE
    for login in broker.logins:
        if login.name in ("site", "researcher"):
            for pattern in login.writes.values():
                written = pattern.replace(r"\.site\.", r"\.<site>\.").replace(r"\.site$", r"\.<site>$")
                assert f"`{written}`" in PAGE


def test_the_words_that_are_taken_are_listed() -> None:
    assert all(f"`{word}`" in PAGE for word in names.RESERVED)
