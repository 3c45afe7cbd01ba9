"""What every service answers over HTTP: who gets an answer, which, and how much anybody can take up."""

import asyncio
import signal
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from http_served import raw, served
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from wardround import __version__
from wardround.runtime import http_protocol
from wardround.runtime.http import CannotListenError, CertificateError, Endpoint, EndpointError, PortTakenError
from wardround.runtime.http_settings import ExposedError, HttpSettings, refuse_exposed
from wardround.runtime.secrets import Secret, SecretUnreadableError


def endpoint(**settings: object) -> Endpoint:
    return Endpoint(HttpSettings(**settings), service="metrics", checks={}, registry=CollectorRegistry())  # type: ignore[arg-type]


def secret(folder: Path, text: str = "correct-horse-battery") -> Secret:
    file = folder / "token"
    file.write_text(text + "\n")
    file.chmod(0o600)
    return Secret(file=str(file))  # type: ignore[arg-type]


# --- health and readiness --------------------------------------------------------------------------------------------


async def test_a_service_that_works_is_healthy_and_names_itself() -> None:
    async with served() as one:
        answer = await one.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "service": "metrics", "version": __version__, "detail": ""}


async def test_what_is_missing_makes_it_unready_but_not_unhealthy() -> None:
    broker: list[str] = ["the broker is away"]
    checks = {"broker": lambda: broker[0] if broker else None, "store": lambda: None}
    async with served(checks=checks) as one:
        unready, healthy = await one.get("/ready"), await one.get("/health")
        broker.clear()
        ready = await one.get("/ready")
    assert (unready.status_code, unready.json()["missing"]) == (503, {"broker": "the broker is away"})
    assert (healthy.status_code, healthy.json()["status"]) == (200, "degraded")
    assert healthy.json()["detail"] == "broker: the broker is away"
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "service": "metrics", "missing": {}})


async def test_figures_hold_those_of_the_process_the_build_and_the_service() -> None:
    registry = CollectorRegistry()
    Counter("wardround_wonders", "Counted by the service.", registry=registry).inc(3)
    trouble: list[str] = []
    async with served(checks={"store": lambda: trouble[0] if trouble else None}, registry=registry) as one:
        up = (await one.get("/metrics")).text
        trouble.append("away")
        down = await one.get("/metrics")
    assert "wardround_up 1.0" in up
    assert "wardround_up 0.0" in down.text
    assert "wardround_wonders_total 3.0" in up
    assert "process_resident_memory_bytes" in up
    assert f'service="metrics",version="{__version__}"' in up
    assert down.headers["content-type"].startswith("text/plain")


async def test_pages_can_be_added_while_it_serves() -> None:
    async def hello(_: Request) -> Response:
        return PlainTextResponse("hello")

    async with served() as one:
        assert (await one.get("/hello")).status_code == 404
        one.endpoint.add([Route("/hello", hello)])
        assert (await one.get("/hello")).text == "hello"


async def test_a_concern_makes_it_neither_unready_nor_down_and_health_tells_of_it() -> None:
    concern: list[str] = ["the scheduler is away"]
    async with served() as one:
        one.endpoint.add([], concerns={"clinic": lambda: concern[0] if concern else None})
        ready, told = await one.get("/ready"), await one.get("/health")
        concern.clear()
        well = await one.get("/health")
    assert ready.status_code == 200
    assert (told.json()["status"], told.json()["detail"]) == ("degraded", "clinic: the scheduler is away")
    assert well.json()["status"] == "ok"


# --- starting and ending ---------------------------------------------------------------------------------------------


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"^http\.port: port {port} of 127\.0\.0\.1 is taken") as raised:
            await endpoint(port=port).serve()
    assert isinstance(raised.value, EndpointError)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_a_host_that_is_not_of_this_machine_is_named(host: str) -> None:
    with pytest.raises(CannotListenError, match=rf"^http\.host: cannot listen on port 0 of {host}"):
        await endpoint(host=host).serve()


def test_there_is_no_port_before_it_listens() -> None:
    one = endpoint()
    with pytest.raises(RuntimeError, match="not listening"):
        _ = one.port


async def test_signal_handlers_stay_as_they_are() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with served() as one:
        await one.get("/health")
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_requests_are_logged_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    async with served() as one:
        await one.get("/health")
        await raw(one.port, b"\x00\x01 nonsense\r\n\r\n")
    out, err = capfd.readouterr()
    assert out == ""
    assert "nonsense" not in err
    assert "GET" not in err


async def test_the_port_is_free_again_after_the_end() -> None:
    async with served() as one:
        await one.get("/health")
        port = one.port
    async with served(HttpSettings(port=port)) as again:
        assert (await again.get("/health")).status_code == 200


async def test_what_was_begun_is_finished_and_streams_without_an_end_are_ended() -> None:
    begun = asyncio.Event()

    async def slow(_: Request) -> Response:
        begun.set()
        await asyncio.sleep(0.3)
        return PlainTextResponse("whole")

    async def endless(request: Request) -> Response:
        async def ticks():  # type: ignore[no-untyped-def]
            yield b"tick"
            await request.app.state.closing.wait()

        return StreamingResponse(ticks())

    async with served(routes=[Route("/slow", slow), Route("/endless", endless)]) as one:
        async with one.client.stream("GET", "/endless") as stream:
            pieces = stream.aiter_bytes()
            assert await anext(pieces) == b"tick"
            asking = asyncio.create_task(one.get("/slow"))
            await begun.wait()
            started = asyncio.get_running_loop().time()
            await one.stop()
            assert asyncio.get_running_loop().time() - started < 3
            assert [piece async for piece in pieces] == []
        assert (await asking).text == "whole"
        with pytest.raises(httpx.ConnectError):
            await one.get("/health")


async def test_an_answer_that_never_comes_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def never(_: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(http_protocol, "DRAINS_WITHIN", 0.2)
    async with served(routes=[Route("/never", never)]) as one:
        asking = asyncio.create_task(one.get("/never"))
        await begun.wait()
        async with asyncio.timeout(3):
            await one.stop()
        assert (await asking).status_code == 500


async def test_a_fault_in_a_page_ends_that_request_alone() -> None:
    async def faulty(_: Request) -> Response:
        raise KeyError("salt=hunter2")

    async with served(routes=[Route("/faulty", faulty)]) as one:
        answer = await one.get("/faulty")
        assert (answer.status_code, "hunter2" in answer.text) == (500, False)
        assert (await one.get("/health")).status_code == 200


# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic correct-horse-battery", 401),
        ("Bearer", 401),
        ("correct-horse-battery", 401),
        ("Bearer correct-horse-battery", 200),
        ("bearer correct-horse-battery", 200),
    ],
)
async def test_with_a_token_figures_are_for_those_who_have_it(tmp_path: Path, header: str | None, status: int) -> None:
    async with served(HttpSettings(token=secret(tmp_path))) as one:
        answer = await one.get("/metrics", headers={} if header is None else {"Authorization": header})
        assert answer.status_code == status
        assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        assert [(await one.get(path)).status_code for path in ("/health", "/ready", "/nowhere")] == [200, 200, 401]


async def test_a_token_that_cannot_be_read_is_told_before_anything_is_served(tmp_path: Path) -> None:
    token = secret(tmp_path)
    token.file.chmod(0o644)
    with pytest.raises(SecretUnreadableError, match="chmod 600"):
        await endpoint(token=token).serve()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "hub.example.org", "192.0.2.1"])
def test_answering_others_in_the_clear_is_refused(host: str, tmp_path: Path) -> None:
    exposed = HttpSettings(host=host, token=secret(tmp_path))
    with pytest.raises(ExposedError, match="certificate"):
        refuse_exposed(exposed, insecure_lab=False)
    refuse_exposed(exposed, insecure_lab=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_answering_this_machine_needs_nothing(host: str) -> None:
    refuse_exposed(HttpSettings(host=host), insecure_lab=False)


# --- encryption ------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def certified(authority: trustme.CA, folder: Path) -> dict[str, str]:
    issued = authority.issue_cert("localhost")
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return {"certificate": str(certificate), "key": str(key)}


async def test_with_a_certificate_it_speaks_tls_and_nothing_else(authority: trustme.CA, tmp_path: Path) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with served(HttpSettings(**certified(authority, tmp_path)), verify=trusting) as one:  # type: ignore[arg-type]
        assert (await one.get("/health")).status_code == 200
        assert await raw(one.port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b""


async def test_a_handshake_that_stalls_is_ended(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "SHAKES_HANDS_WITHIN", 0.2)
    async with served(HttpSettings(**certified(authority, tmp_path))) as one:  # type: ignore[arg-type]
        assert await raw(one.port, b"", limit=3) == b""


async def test_a_key_of_another_certificate_is_told(authority: trustme.CA, tmp_path: Path) -> None:
    files = certified(authority, tmp_path)
    Path(files["key"]).write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(CertificateError, match=r"^http\.certificate: .*tls\.crt and .*tls\.key cannot be used"):
        await endpoint(**files).serve()


async def test_a_certificate_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="No such file"):
        await endpoint(certificate=str(tmp_path / "no.crt"), key=str(tmp_path / "no.key")).serve()


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_only_get_and_head_are_answered(method: str) -> None:
    async with served() as one:
        answer = await one.client.request(method, "/health")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        head = await one.client.head("/health")
        assert (head.status_code, head.content) == (200, b"")


async def test_no_header_tells_the_servers_version() -> None:
    async with served() as one:
        answer = await one.get("/health")
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000000\r\n\r\n", b"413"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"413"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000, b"400"),
        (b"GET /" + b"a" * 6000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", b"400"),
    ],
    ids=["body", "chunks", "headers", "endless-headers", "address", "no-http"],
)
async def test_a_request_that_is_too_large_or_none_is_refused_and_the_connection_ended(
    request_bytes: bytes, status: bytes
) -> None:
    async with served() as one:
        answer = await raw(one.port, request_bytes)
        assert answer[:12] in (b"HTTP/1.1 " + status, b"")  # what was still being sent may reset the connection
        assert (await one.get("/health")).status_code == 200


@pytest.mark.parametrize("dribbles", [b"", b"GET /hea"])
async def test_who_asks_for_nothing_is_let_go(dribbles: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "ASKS_WITHIN", 0.3)
    async with served() as one:
        assert await raw(one.port, dribbles, limit=3) == b""


async def test_dribbling_does_not_win_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "ASKS_WITHIN", 0.4)
    async with served() as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)

        async def dribble() -> None:
            while True:
                writer.write(b"G")
                await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        async with asyncio.timeout(2):
            assert await asyncio.gather(reader.read(), return_exceptions=True)
        dribbling.cancel()
        writer.close()
        await asyncio.gather(dribbling, writer.wait_closed(), return_exceptions=True)


async def test_connections_are_bounded_and_free_again_once_idle_ones_are_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "CONNECTIONS", 3)
    monkeypatch.setattr(http_protocol, "ASKS_WITHIN", 0.5)
    async with served() as one:
        idle = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert await raw(one.port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        await asyncio.sleep(0.6)
        assert (await one.get("/health")).status_code == 200
        for reader, writer in idle:
            assert await asyncio.gather(reader.read(), return_exceptions=True)
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_who_does_not_read_the_answer_holds_up_nobody_and_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def flood(_: Request) -> Response:
        async def endless():  # type: ignore[no-untyped-def]
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(endless())

    monkeypatch.setattr(http_protocol, "TAKES_WITHIN", 0.4)
    async with served(routes=[Route("/flood", flood)]) as one:
        _, writer = await asyncio.open_connection("127.0.0.1", one.port, limit=1024)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        assert (await one.get("/health")).status_code == 200
        async with asyncio.timeout(5):
            await ended.wait()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
