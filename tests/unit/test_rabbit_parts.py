"""The parts of the RabbitMQ adapter that need no broker."""

import struct
from datetime import UTC, datetime
from pathlib import Path

import pamqp.frame
import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from wardround.runtime.bus.rabbit_frames import LONGEST_HEADER, survive_any_sender
from wardround.runtime.bus.rabbit_link import Endpoint
from wardround.runtime.bus.rabbit_places import Place
from wardround.runtime.bus.rabbit_subscription import LONGEST_PAUSE, pause

survive_any_sender()


# --- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url", "vhost"),
    [
        ("amqp://127.0.0.1", "amqp://clinic-1:p%2F%40w@127.0.0.1:5672/", "/"),
        ("amqps://hub.example.org:443/", "amqps://clinic-1:p%2F%40w@hub.example.org:443/", "/"),
        ("amqps://hub.example.org/ward", "amqps://clinic-1:p%2F%40w@hub.example.org:5671/ward", "ward"),
        ("amqp://[::1]:1234/a%2Fb", "amqp://clinic-1:p%2F%40w@[::1]:1234/a%2Fb", "a/b"),
    ],
)
def test_address_names_host_port_and_virtual_host(address: str, url: str, vhost: str) -> None:
    endpoint = Endpoint.parse(address, login="clinic-1", password="p/@w")
    assert (endpoint.url.partition("?")[0], endpoint.vhost) == (url, vhost)
    assert (endpoint.tls is not None) == address.startswith("amqps")
    assert "p%2F%40w" not in repr(endpoint)


@pytest.mark.parametrize("address", ["", "hub.example.org", "https://hub.example.org", "amqp://", "amqp://a:b@hub"])
def test_what_is_no_address_of_a_broker_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="no address of a broker"):
        Endpoint.parse(address, login="clinic-1", password="secret")


def test_ca_that_cannot_be_read_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Endpoint.parse("amqps://hub", login="clinic-1", password="secret", ca=tmp_path / "ca.pem")


# --- places in a stream ------------------------------------------------------------------------------------------


def test_reader_goes_on_at_the_first_message_that_is_not_settled() -> None:
    place = Place("first")
    assert [place.received(offset) for offset in (4, 5, 6)] == [True] * 3
    place.settled(5)
    assert place.resumed().start == 4
    place.settled(4)
    assert place.resumed().start == 6
    place.settled(6)
    assert place.resumed().start == 7


def test_reader_asks_for_one_message_more_which_shows_that_the_stream_is_long_enough() -> None:
    place = Place(7)
    assert (place.in_doubt, place.ask_for) == (True, 6)
    assert not place.received(6)
    assert place.reached.is_set()
    assert place.received(7)


@pytest.mark.parametrize("start", ["first", "last", "next", 0])
def test_place_that_every_stream_has_is_asked_for_as_it_is(start: "str | int") -> None:
    place = Place(start)  # type: ignore[arg-type]
    assert (place.in_doubt, place.ask_for) == (False, start)


def test_reader_that_was_somewhere_begins_anew_in_a_stream_that_is_shorter() -> None:
    place = Place("next")
    place.received(9)
    assert (Place(9).otherwise, place.resumed().otherwise) == ("next", "first")


@pytest.mark.parametrize("start", ["next", "last"])
def test_reader_that_received_nothing_goes_on_from_when_it_began_to_wait(start: str) -> None:
    before = datetime.now(UTC)
    place = Place(start)  # type: ignore[arg-type]
    resumed = place.resumed()
    assert isinstance(resumed.start, datetime)
    assert before <= resumed.start <= datetime.now(UTC)
    assert resumed.resumed().start == resumed.start
    assert Place(5).resumed().start == 5


def test_twenty_tries_take_some_seconds_and_none_waits_for_long() -> None:
    pauses = [pause(earlier) for earlier in range(21)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.05
    assert max(pauses) == LONGEST_PAUSE
    assert pause(2**31) == LONGEST_PAUSE
    assert 5 < sum(pauses) < 30


# --- frames ------------------------------------------------------------------------------------------------------

CORRELATION, HEADERS, TIMESTAMP, MESSAGE_ID = 1 << 10, 1 << 13, 1 << 6, 1 << 7


def header_frame(flags: int, properties: bytes) -> bytes:
    payload = struct.pack(">HHQH", 60, 0, 5, flags) + properties
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


def read(frame: bytes) -> ContentHeader:
    _, _, read = pamqp.frame.unmarshal(frame)
    assert isinstance(read, ContentHeader)
    return read


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


@pytest.mark.parametrize(
    ("flags", "properties"),
    [
        (TIMESTAMP, b"\x7f" + b"\xff" * 7),
        (HEADERS, struct.pack(">I", 4) + b"\x02\xff\xfeV"),
        (HEADERS, struct.pack(">I", 3) + b"\x01a?"),
        (HEADERS, struct.pack(">I", 2**31) + b"\x01aV"),
        (HEADERS, nested(3000)),
        (HEADERS, struct.pack(">I", 3 * LONGEST_HEADER) + b"\x01aV" * LONGEST_HEADER),
    ],
    ids=["date out of range", "name no text", "unknown type", "longer than it is", "nested", "enormous"],
)
def test_message_with_unreadable_properties_arrives_without_any(flags: int, properties: bytes) -> None:
    header = read(header_frame(flags, properties))

    assert header.body_size == 5
    assert (header.properties.headers, header.properties.user_id) == (None, None)


def test_text_that_is_no_utf8_is_read_with_marks_in_its_place() -> None:
    header = read(header_frame(MESSAGE_ID, b"\x03a\xffb"))
    assert header.properties.message_id == "a\N{REPLACEMENT CHARACTER}b"


def test_readable_properties_are_read_as_ever() -> None:
    sent = Basic.Properties(headers={"ce-id": "1"}, message_id="1", user_id="clinic-1", delivery_mode=2)
    frame = pamqp.frame.marshal(ContentHeader(0, 5, sent), 1)
    assert read(frame).properties == sent
