"""A line of the store's audit log is read as the call that it tells of."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from servers.audit import Call, StoreAudit, parse
from servers.minio import receiving

ENTRY: dict[str, Any] = {
    "time": "2026-12-01T11:04:48.119923000Z",
    "api": {
        "name": "PutObject",
        "bucket": "wr-try",
        "object": "journal/00000000.json",
        "statusCode": 200,
        "timeToFirstByteInNS": "2000000",
        "timeToResponseInNS": "2500000",
    },
    "requestHeader": {"If-None-Match": "*"},
    "accessKey": "coordinator",
}


def entry(**of_the_call: object) -> dict[str, Any]:
    return ENTRY | {"api": ENTRY["api"] | of_the_call}


def test_a_write_is_told_with_who_and_how_and_when_its_reply_began() -> None:
    call = parse(ENTRY)
    assert (call.login, call.bucket, call.key, call.conditional) == (
        "coordinator",
        "wr-try",
        "journal/00000000.json",
        True,
    )
    assert call.at == datetime(2026, 12, 1, 11, 4, 48, 119923, UTC) - timedelta(milliseconds=0.5)


@pytest.mark.parametrize(
    ("name", "status", "wrote", "read"),
    [
        ("PutObject", 200, True, False),
        ("CompleteMultipartUpload", 200, True, False),
        ("PutObject", 412, False, False),
        ("PutObject", 403, False, False),
        ("GetObject", 206, False, True),
        ("GetObject", 404, False, False),
        ("HeadObject", 200, False, False),
    ],
)
def test_what_came_of_it_tells_whether_something_was_written_or_read(
    name: str, status: int, wrote: bool, read: bool
) -> None:
    call = parse(entry(name=name, statusCode=status))
    assert (call.wrote, call.read) == (wrote, read)


def test_a_call_that_is_told_of_twice_is_heard_once() -> None:
    heard: list[Call] = []
    with receiving() as receiver:
        audit = StoreAudit(receiver, lambda: None)  # type: ignore[arg-type, return-value]
        with audit.listening("wr-try", heard.append):
            for request in ("1", "2", "1"):
                receiver.take(json.dumps(entry(name="GetObject") | {"requestID": request}).encode())
    assert len(heard) == 2
