"""Addresses and clocks as the doctor meets them, with servers of the test's own on the loopback interface."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme

from wardround.client.doctor.addresses import look_at_address, look_at_clock
from wardround.client.doctor.hub import look_at_service
from wardround.runtime.clock import wall_clock
from wardround.stack.ports import LOOPBACK, free_ports

pytestmark = pytest.mark.timeout(30)


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None, *, answer: bytes = b"") -> AsyncIterator[int]:
    """The port of a server that says its answer to whatever it hears, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def context_of(authority: trustme.CA, *names: str, left: timedelta = timedelta(days=90)) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_after=datetime.now(UTC) + left).configure_cert(context)
    return context


async def test_certificate_of_the_hubs_authority_is_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    async with serving(context_of(authority, "localhost")) as port:
        verdict = await look_at_address(f"amqps://localhost:{port}", ca=tmp_path / "ca.pem", now=wall_clock)
    assert verdict.state == "ok"
    assert "its certificate is trusted, until" in verdict.what


async def test_certificate_that_ends_soon_is_warned_of(authority: trustme.CA, tmp_path: Path) -> None:
    async with serving(context_of(authority, "localhost", left=timedelta(days=5))) as port:
        verdict = await look_at_address(f"https://localhost:{port}", ca=tmp_path / "ca.pem", now=wall_clock)
    assert verdict.state == "warning"
    assert "ends in 4 days" in verdict.what


async def test_certificate_of_another_host_is_wrong_and_names_the_setting(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with serving(context_of(authority, "hub.example.org")) as port:
        verdict = await look_at_address(f"amqps://localhost:{port}", ca=tmp_path / "ca.pem", now=wall_clock)
    assert verdict.state == "wrong"
    assert "is not accepted" in verdict.what
    assert "set ca" in verdict.to_do


async def test_certificate_of_another_authority_is_wrong(authority: trustme.CA, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with serving(context_of(authority, "localhost")) as port:
        verdict = await look_at_address(f"https://localhost:{port}", ca=tmp_path / "other.pem", now=wall_clock)
    assert verdict.state == "wrong"
    assert "is not accepted" in verdict.what


async def test_port_without_tls_where_tls_is_expected_is_wrong(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        verdict = await look_at_address(f"https://localhost:{port}", ca=None, now=wall_clock)
    assert verdict.state == "wrong"
    assert "does not speak TLS" in verdict.what


async def test_nothing_listens() -> None:
    (port,) = free_ports(1)
    verdict = await look_at_address(f"amqp://{LOOPBACK}:{port}", ca=None, now=wall_clock)
    assert (verdict.state, verdict.what) == ("wrong", f"nothing listens at {LOOPBACK}:{port}")


async def test_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    verdict = await look_at_address("amqps://hub.example.org", ca=None, now=wall_clock)
    assert verdict.what == "the name hub.example.org is not known here"


async def test_plain_address_of_this_machine_is_well() -> None:
    async with serving() as port:
        verdict = await look_at_address(f"amqp://{LOOPBACK}:{port}", ca=None, now=wall_clock)
    assert verdict.state == "ok"
    assert "on this machine alone" in verdict.what


# --- clocks ----------------------------------------------------------------------------------------------------------


def dated(at: datetime | None) -> bytes:
    date = b"" if at is None else f"Date: {format_datetime(at, usegmt=True)}\r\n".encode()
    return b"HTTP/1.1 403 Forbidden\r\n" + date + b"Content-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("off", "state"),
    [
        (timedelta(), "ok"),
        (timedelta(minutes=3), "warning"),
        (timedelta(minutes=-3), "warning"),
        (timedelta(minutes=20), "wrong"),
    ],
)
async def test_clock_is_compared_with_the_date_of_any_answer(off: timedelta, state: str) -> None:
    async with serving(answer=dated(datetime.now(UTC) + off)) as port:
        verdict = await look_at_clock(f"http://{LOOPBACK}:{port}", ca=None, now=wall_clock)
    assert verdict.state == state


async def test_server_that_does_not_tell_its_time_is_passed_over() -> None:
    async with serving(answer=dated(None)) as port:
        verdict = await look_at_clock(f"http://{LOOPBACK}:{port}", ca=None, now=wall_clock)
    assert verdict.state == "skipped"


async def test_what_does_not_speak_http_has_no_clock() -> None:
    async with serving(answer=b"220 mail.example.org ESMTP\r\n") as port:
        verdict = await look_at_clock(f"http://{LOOPBACK}:{port}", ca=None, now=wall_clock)
    assert verdict.state == "wrong"
    assert "does not answer HTTP" in verdict.what


# --- services --------------------------------------------------------------------------------------------------------


def said(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize(
    ("body", "state", "words"),
    [
        (b'{"status": "ok", "version": "1.2"}', "ok", "is well, version 1.2"),
        (b'{"status": "degraded", "detail": "broker: away"}', "warning", "is degraded: broker: away"),
        (b"<html>a proxy</html>", "wrong", "not as a service of Wardround does"),
        (b"[1, 2]", "wrong", "not as a service of Wardround does"),
    ],
)
async def test_service_is_as_well_as_it_says(body: bytes, state: str, words: str) -> None:
    async with serving(answer=said(body)) as port:
        verdict = await look_at_service(f"http://{LOOPBACK}:{port}/", ca=None)
    assert verdict.state == state
    assert words in verdict.what


async def test_service_that_is_away_is_wrong() -> None:
    (port,) = free_ports(1)
    verdict = await look_at_service(f"http://{LOOPBACK}:{port}", ca=None)
    assert verdict.state == "wrong"
    assert "does not answer" in verdict.what
