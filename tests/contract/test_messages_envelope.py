"""The envelope is CloudEvents 1.0 as the official SDK writes and reads it."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent
from published import Example, messages

from wardround_messages.codec import CONTENT_TYPE, MalformedError, decode, encode
from wardround_messages.envelope import Envelope, read_headers
from wardround_messages.messages import Message

WHOLE = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
TIMES = (WHOLE, WHOLE + timedelta(microseconds=1500), WHOLE + timedelta(milliseconds=250))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def envelope(time: datetime = WHOLE, message: Message | None = None) -> Envelope:
    return Envelope(
        id="start.brain-tumour.r000002.train.clinic-1.a01",
        source="urn:wardround:coordinator:hub",
        type="io.wardround.task.start.v1" if message is None else message.type,
        subject="brain-tumour/r000002" if message is None else message.subject,
        time=time,
        causationid="brain-tumour/17",
        traceparent=TRACE,
    )


def read(message: Example) -> Message:
    assert message.type is not None
    return decode(message.type, message.body, content_type=CONTENT_TYPE)


@pytest.mark.parametrize("time", TIMES, ids=str)
def test_the_sdk_reads_what_the_envelope_writes(time: datetime) -> None:
    wire = RabbitMQMessage(headers=envelope(time).headers(), content_type=CONTENT_TYPE, body=b"{}")
    event = from_binary_event(wire)
    assert event.get_id() == "start.brain-tumour.r000002.train.clinic-1.a01"
    assert event.get_source() == "urn:wardround:coordinator:hub"
    assert event.get_type() == "io.wardround.task.start.v1"
    assert event.get_subject() == "brain-tumour/r000002"
    assert event.get_specversion() == "1.0"
    assert event.get_time() == time
    assert event.get_extension("causationid") == "brain-tumour/17"
    assert event.get_extension("traceparent") == TRACE


@pytest.mark.parametrize("time", TIMES, ids=str)
def test_the_envelope_reads_what_the_sdk_writes(time: datetime) -> None:
    attributes = {**envelope(time).model_dump(exclude_none=True), "datacontenttype": CONTENT_TYPE}
    wire = to_binary_event(CloudEvent(attributes, {"a": 1}))
    assert wire.content_type == CONTENT_TYPE
    assert read_headers(wire.headers) == envelope(time)


@pytest.mark.parametrize("example", messages(), ids=lambda example: example.name)
def test_the_sdk_reads_every_message(example: Example) -> None:
    message = read(example)
    wire = RabbitMQMessage(headers=envelope(message=message).headers(), content_type=CONTENT_TYPE, body=encode(message))
    event = from_binary_event(wire)
    assert event.get_type() == example.type
    assert event.get_data() == json.loads(example.body)


def test_a_time_in_another_zone_is_the_same_time() -> None:
    elsewhere = WHOLE.astimezone(timezone(timedelta(hours=5, minutes=30)))
    headers = {**envelope().headers(), "ce-time": elsewhere.isoformat()}
    assert read_headers(headers).time == WHOLE
    assert read_headers(headers).headers()["ce-time"] == "2026-03-02T08:00:00Z"


def test_what_others_add_is_ignored() -> None:
    added = {"x-death": [{"count": 1}], "ce-partitionkey": "7", "traceparent": "none", "X": b"\xff"}
    assert read_headers({**envelope().headers(), **added}) == envelope()


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "subject", "time"])
def test_a_required_attribute_must_not_be_missing(missing: str) -> None:
    headers = envelope().headers()
    del headers[f"ce-{missing}"]
    with pytest.raises(MalformedError, match="envelope: "):
        read_headers(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("specversion", "0.3"),
        ("specversion", 1.0),
        ("id", ""),
        ("id", "x" * 201),
        ("id", "a\nb"),
        ("id", b"bytes"),
        ("id", None),
        ("source", "urn:wardround:coordinator:hub\n"),
        ("source", "https://example.org"),
        ("type", "io.wardround.task.start"),
        ("type", "io.wardround.task.start.v0"),
        ("type", "io.wardround.task.start.v1\n"),
        ("type", "io.wardround.t\u0430sk.start.v1"),
        ("subject", "a\x00"),
        ("subject", {"a": 1}),
        ("time", "2026-03-02T08:00:00"),
        ("time", "2026-03-02"),
        ("time", "2026-03-02 08:00:00Z"),
        ("time", "1772438400"),
        ("time", 1772438400),
        ("time", "\u0662026-03-02T08:00:00Z"),
        ("traceparent", "00-xyz"),
    ],
)
def test_an_attribute_out_of_bounds_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedError, match="envelope: "):
        read_headers({**envelope().headers(), f"ce-{name}": value})
