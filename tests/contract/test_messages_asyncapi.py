"""The AsyncAPI document and the JSON Schemas say what the models and the topology say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from published import CONTRACT, Example, examples, messages

from wardround_messages import asyncapi
from wardround_messages.codec import CONTENT_TYPE, decode
from wardround_messages.registry import MESSAGES, SITE_READS
from wardround_messages.schemas import schemas

DOCUMENT = json.loads((CONTRACT / "asyncapi.json").read_text())
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (CONTRACT / "schemas").glob("*.json")}
REGENERATE = "run: python -m wardround_messages.asyncapi --write messages"


def test_the_checked_in_document_is_the_generated_one() -> None:
    assert (CONTRACT / "asyncapi.json").read_text() == asyncapi.text(asyncapi.document()), REGENERATE


def test_the_checked_in_schemas_are_the_generated_ones() -> None:
    here = {path.stem: path.read_text() for path in (CONTRACT / "schemas").glob("*.json")}
    assert here == {name: asyncapi.text(schema) for name, schema in schemas().items()}, REGENERATE


def test_the_command_line_prints_the_document_and_writes_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["asyncapi"])
    asyncapi.main()
    assert json.loads(capsys.readouterr().out) == DOCUMENT
    monkeypatch.setattr("sys.argv", ["asyncapi", "--write", str(tmp_path)])
    asyncapi.main()
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    assert written == {Path("asyncapi.json"), *(Path("schemas", f"{name}.json") for name in SCHEMAS)}


def test_every_reference_resolves() -> None:
    for whole in (DOCUMENT, *SCHEMAS.values()):
        for reference in references(whole):
            assert resolve(whole, reference) is not None


def test_the_document_has_a_message_for_every_type() -> None:
    typed = {message["name"] for message in DOCUMENT["components"]["messages"].values()}
    assert typed == {*MESSAGES, "StoreNotification", "DeadLetter"}


@pytest.mark.parametrize("example", messages(), ids=lambda example: example.name)
def test_a_message_goes_where_the_document_says(example: Example) -> None:
    assert example.type is not None
    message = decode(example.type, example.body, content_type=CONTENT_TYPE)
    channel = next(
        DOCUMENT["channels"][name]
        for name, component in DOCUMENT["components"]["messages"].items()
        if component["name"] == message.type
    )
    filled = {"experiment": getattr(message, "experiment", ""), "site": getattr(message, "site", "")}
    assert channel["address"].format(**filled) == message.routing_key
    assert channel["bindings"]["amqp"]["exchange"]["name"] == message.exchange
    assert set(channel.get("parameters", {})) == set(re.findall(r"\{(\w+)\}", channel["address"]))


def test_a_site_receives_the_types_it_says_it_reads_and_nothing_else() -> None:
    heard = {DOCUMENT["components"]["messages"][name]["name"] for name in of("site-agent", "receive")}
    assert heard == set(SITE_READS)


def test_who_says_what() -> None:
    assert of("site-agent", "send") == {
        "DeadLetter",
        "MetricsReported",
        "SiteSeen",
        "TaskAccepted",
        "TaskAnswered",
        "TaskStarted",
        "TransferReported",
    }
    assert of("aggregator", "send") == {"DeadLetter"}
    assert of("aggregator", "receive") == {"AggregateStep"}
    assert of("store", "send") == {"StoreNotification"}
    assert (of("operator", "send"), of("operator", "receive")) == (set(), {"DeadLetter"})
    assert {"SiteSeen", "StoreNotification", "StartExperiment"} < of("coordinator", "receive")
    assert of("researcher", "receive") == of("metrics", "receive")
    assert all("Experiment" in name or name == "ReadmitSite" for name in of("researcher", "send"))


def test_everything_that_is_said_is_heard_and_the_other_way_round() -> None:
    said = {name for role in roles() for name in of(role, "send")}
    heard = {name for role in roles() for name in of(role, "receive")}
    assert heard == said == set(DOCUMENT["channels"])


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_valid_and_closed(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["additionalProperties"] is False


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_fits_its_schema_and_does_not_with_a_field_more(example: Example) -> None:
    check = Draft202012Validator(SCHEMAS[example.model.__name__])
    body = json.loads(example.body)
    check.validate(body)
    assert not check.is_valid({**body, "unexpected": 1})


def of(role: str, action: str) -> set[str]:
    """The channels on which a role sends or receives."""
    prefix = f"{role}.{action}."
    return {
        operation["channel"]["$ref"].removeprefix("#/channels/")
        for name, operation in DOCUMENT["operations"].items()
        if name.startswith(prefix)
    }


def roles() -> set[str]:
    return {name.split(".")[0] for name in DOCUMENT["operations"]}


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for part in value.values():
                yield from references(part)
        case list():
            for part in value:
                yield from references(part)


def resolve(whole: Any, reference: str) -> Any:
    found = whole
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found
