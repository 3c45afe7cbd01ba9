"""A store that is away, slow, full, killed or lying: the right error in bounded time, and never a part of an object."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from servers.minio import MinioServer, Receiver, make_minio, require_minio
from servers.proxy import Proxy
from wardround.runtime.patience import patiently
from wardround.runtime.store.download import download, part_of
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidKeyError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from wardround.runtime.store.s3 import CreateOnlyError, S3Store
from wardround.runtime.store.s3_probe import prove_create_only
from wardround.runtime.store.transfer import create_or_compare
from wardround.stack.ports import LOOPBACK, free_ports
from wardround_messages.base import digest

pytestmark = pytest.mark.slow

BUCKET = "wr-breast-cancer"
KEY = "journal/00000000.json"
MIB = 2**20
SECRET = "nobody-must-read-this"

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


@asynccontextmanager
async def scripted(connected: Connected) -> AsyncIterator[int]:
    """The port of a server that treats every connection so."""
    lines: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        lines.add(line)
        try:
            await connected(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            lines.discard(line)

    async with await asyncio.start_server(accept, LOOPBACK, 0) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for line in tuple(lines):
            line.cancel()
        if lines:
            await asyncio.wait(lines)


def answering(answer: bytes) -> Connected:
    """Answers the first request of a connection, whatever it is, and closes."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    return connected


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def http(status: str, body: bytes = b"", *headers: str, kind: str = "application/xml") -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Content-Type: {kind}", *headers)
    return "\r\n".join((*head, "\r\n")).encode() + body


def refusing(status: str, code: str, message: str = "as it is") -> bytes:
    return http(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


@asynccontextmanager
async def store_at(port: int, **options: Any) -> AsyncIterator[S3Store]:
    store = S3Store(f"http://{LOOPBACK}:{port}", access_key="clinic-1", secret_key=SECRET, **{"timeout": 1, **options})
    try:
        yield store
    finally:
        with within(3):
            await store.close()


def every_call(store: S3Store, source: Path) -> tuple[Coroutine[Any, Any, Any], ...]:
    source.write_bytes(b"12345678")
    return (
        store.create(BUCKET, KEY, b"entry"),
        store.put(BUCKET, KEY, b"entry"),
        store.put(BUCKET, KEY, source),
        store.read(BUCKET, KEY),
        store.read(BUCKET, KEY, offset=3, length=4),
        store.read(BUCKET, KEY, length=0),
        store.head(BUCKET, KEY),
        store.list(BUCKET, "journal/"),
        store.delete(BUCKET, KEY),
        store.announce(BUCKET, ["journal/"]),
        store.buckets(),
        store.make_bucket(BUCKET),
    )


# --- what a server may answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (refusing("503 Slow Down", "SlowDown"), StoreUnavailableError, "SlowDown|503"),
        (refusing("500 Internal Server Error", "InternalError"), StoreUnavailableError, "InternalError|500"),
        (refusing("507 Insufficient Storage", "XMinioStorageFull"), StoreUnavailableError, "disk is full|507"),
        (refusing("400 Bad Request", "RequestTimeout"), StoreUnavailableError, "RequestTimeout"),
        (refusing("409 Conflict", "OperationAborted"), StoreUnavailableError, "OperationAborted"),
        (refusing("403 Forbidden", "RequestTimeTooSkewed"), StoreUnavailableError, "clock of this machine"),
        (refusing("403 Forbidden", "AccessDenied"), AccessDeniedError, "login 'clinic-1' has no right"),
        (refusing("403 Forbidden", "InvalidAccessKeyId"), AccessDeniedError, "does not know the login 'clinic-1'"),
        (
            refusing("403 Forbidden", "SignatureDoesNotMatch"),
            AccessDeniedError,
            "wrong secret for the login 'clinic-1'",
        ),
        (refusing("404 Not Found", "NoSuchBucket"), NotFoundError, "there is no bucket"),
        (refusing("409 Conflict", "XMinioParentIsObject"), InvalidKeyError, "in the way"),
        (refusing("400 Bad Request", "EntityTooLarge"), StoreError, "EntityTooLarge as it is"),
        (http("502 Bad Gateway", b"<html>nginx</html>", kind="text/html"), StoreUnavailableError, "502"),
        (http("429 Too Many Requests", b"later", kind="text/plain"), StoreUnavailableError, "429"),
        (http("403 Forbidden", b"<html>no</html>", kind="text/html"), AccessDeniedError, "clinic-1"),
        (http("501 Not Implemented"), StoreError, "does not support|Implemented|not allowed"),
        (http("307 Temporary Redirect", b"", "Location: http://127.0.0.1:9/x"), StoreError, "redirects elsewhere"),
        (http("503 Service Unavailable", b"<Error><Code>"), StoreUnavailableError, "503|understood"),
        (http("400 Bad Request", b"<html>\xff</html>", kind="text/html"), StoreError, "understood|refused"),
        (http("200 OK", b"<html>log in first</html>", kind="text/html"), StoreError, "ETag|understood|"),
        (b"HTTP/1.1 200 OK\r\nContent-Len", StoreUnavailableError, "broke|understood"),
        (b"", StoreUnavailableError, "broke"),
        (b"220 mail.example.org ESMTP\r\n", StoreUnavailableError, "broke"),
    ],
    ids=lambda value: ascii(value[:60]) if isinstance(value, bytes) else "",
)
async def test_whatever_a_server_answers_becomes_an_error_of_the_port(
    answer: bytes, expected: type[StoreError], said: str, tmp_path: Path
) -> None:
    async with scripted(answering(answer)) as port, store_at(port) as store:
        for call in (
            partial(store.create, BUCKET, KEY, b"entry"),
            partial(store.put, BUCKET, KEY, b"entry"),
            partial(store.list, BUCKET, "journal/"),
        ):
            with within(3), pytest.raises(expected, match=said) as caught:
                await call()
            assert SECRET not in str(caught.value)
            assert str(caught.value).isprintable()


async def test_each_call_says_that_the_store_fails(tmp_path: Path) -> None:
    unavailable = refusing("503 Service Unavailable", "ServiceUnavailable")
    async with scripted(answering(unavailable)) as port, store_at(port) as store:
        for call in every_call(store, tmp_path / "source"):
            with pytest.raises(StoreUnavailableError):
                await call


async def test_each_call_says_that_the_store_is_away(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with store_at(port) as store:
        for call in every_call(store, tmp_path / "source"):
            with within(2), pytest.raises(StoreUnavailableError, match="cannot be reached"):
                await call


async def test_each_call_gives_up_on_a_store_that_says_nothing(tmp_path: Path) -> None:
    async with scripted(silent) as port, store_at(port, timeout=0.2) as store:
        for call in every_call(store, tmp_path / "source"):
            with within(2), pytest.raises(StoreUnavailableError, match="in time"):
                await call


@pytest.mark.parametrize("length", [None, 50])
async def test_a_body_that_ends_too_soon_is_no_object(length: int | None) -> None:
    cut_off = http("200 OK", b"x" * 100)[:-60]
    async with scripted(answering(cut_off)) as port, store_at(port) as store:
        with pytest.raises(StoreUnavailableError, match="broke"):
            await store.read(BUCKET, KEY, length=length)


async def test_a_server_that_ignores_ranges_is_not_believed() -> None:
    async with scripted(answering(http("200 OK", b"0123456789"))) as port, store_at(port) as store:
        assert await store.read(BUCKET, KEY, length=4) == b"0123"
        with pytest.raises(StoreUnavailableError, match="whole object"):
            await store.read(BUCKET, KEY, offset=4, length=4)


async def test_a_body_that_trickles_is_given_up() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http("200 OK", b"x" * 1000)[:-1000])
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with scripted(trickle) as port, store_at(port, timeout=0.5) as store:
        with within(3), pytest.raises(StoreUnavailableError, match="in time"):
            await store.read(BUCKET, KEY)


async def test_a_cancelled_upload_sends_no_more_and_leaves_no_object(own_minio: MinioServer, tmp_path: Path) -> None:
    await own_minio.child.start()
    source = tmp_path / "update"
    source.write_bytes(bytes(64 * MIB))
    passed = 0
    much = asyncio.Event()

    def counted(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        if passed > 16 * MIB:
            much.set()
        return data

    proxy = Proxy(own_minio.port, to_server=counted)
    await proxy.mend()
    store = own_minio.store(port=proxy.port, timeout=5)
    await store.make_bucket(BUCKET)
    putting = asyncio.ensure_future(store.put(BUCKET, "updates/a", source))
    with within(20):
        await much.wait()
        putting.cancel()
        await asyncio.wait({putting})
        await asyncio.sleep(1)
    assert putting.cancelled()
    assert passed < 64 * MIB
    assert await keys(own_minio) == []
    await store.close()
    await proxy.cut()


async def test_a_cancelled_call_returns_at_once_and_does_not_hold_up_the_end() -> None:
    async with scripted(silent) as port:
        store = S3Store(f"http://{LOOPBACK}:{port}", access_key="clinic-1", secret_key=SECRET, threads=2)
        calls = [asyncio.ensure_future(store.read(BUCKET, KEY)) for _ in range(5)]
        await asyncio.sleep(0.2)
        with within(2):
            for call in calls:
                call.cancel()
            assert all(
                isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*calls, return_exceptions=True)
            )
            await store.close()


@pytest.mark.parametrize(
    "address", ["", "ftp://a:1", "http://", "http://user:secret@a:1", "http://a:1/path", "127.0.0.1:9000"]
)
def test_an_address_that_is_none_is_told_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="address") as caught:
        S3Store(address, access_key="clinic-1", secret_key=SECRET)
    assert "user" not in str(caught.value)


async def test_a_large_body_goes_also_to_a_server_that_does_not_answer_the_question_before_it(tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(bytes(2 * MIB))

    async def deaf_to_expect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect: 100-continue" in (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(2 * MIB)
        writer.write(http("200 OK", b"", 'ETag: "1"'))
        await writer.drain()
        await reader.read()

    async with scripted(deaf_to_expect) as port, store_at(port, timeout=5) as store:
        with within(4):
            await store.put(BUCKET, "updates/a", source)


async def test_an_upload_that_is_refused_is_not_sent(minio_server: MinioServer, tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(bytes(64 * MIB))
    passed = 0

    def count(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        return data

    proxy = Proxy(minio_server.port, to_server=count)
    await proxy.mend()
    store = minio_server.store(port=proxy.port)
    with pytest.raises(NotFoundError, match="no bucket wr-absent"):
        await store.put("wr-absent", "updates/a", source)
    with pytest.raises(NotFoundError, match="no bucket wr-absent"):
        await store.create("wr-absent", "updates/a", bytes(64 * MIB))
    assert passed < MIB
    await store.close()
    await proxy.cut()


# --- create-only -------------------------------------------------------------------------------------------------


async def test_a_server_with_conditional_writes_is_proven(minio_server: MinioServer) -> None:
    store = minio_server.store()
    await store.prove_create_only()
    await store.prove_create_only()
    assert await store.list("wr-hub") == ()
    await store.close()


class Overwriting(MemoryStore):
    """Does not know the condition, as servers that are too old."""

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        await self.put(bucket, key, data)


class Racing(MemoryStore):
    """Looks first and writes then, as a gateway in front of a store without the condition."""

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        there = {info.key for info in await self.list(bucket)}
        await asyncio.sleep(0)
        if key in there:
            raise AlreadyExistsError(key)
        await self.put(bucket, key, data)


class Stubborn(MemoryStore):
    """Refuses every condition."""

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        raise AlreadyExistsError(key)


@pytest.mark.parametrize("kind", [Overwriting, Racing, Stubborn])
async def test_a_store_that_would_lose_the_journal_is_found_out(kind: type[MemoryStore]) -> None:
    store = kind()
    with pytest.raises(CreateOnlyError, match="must not be used"):
        await prove_create_only(store)
    assert await store.list("wr-hub") == ()


async def test_a_server_that_knows_no_conditions_must_not_be_used() -> None:
    async with scripted(answering(refusing("501 Not Implemented", "NotImplemented"))) as port, store_at(port) as store:
        with pytest.raises(StoreError):
            await store.prove_create_only()


# --- a real server that dies, stalls or is full ------------------------------------------------------------------


@pytest.fixture
async def proxied(own_minio: MinioServer) -> AsyncIterator[tuple[MinioServer, Proxy]]:
    """A started server with an empty bucket, and a line to it."""
    await own_minio.child.start()
    store = own_minio.store()
    await store.make_bucket(BUCKET)
    await store.close()
    proxy = Proxy(own_minio.port)
    await proxy.mend()
    yield own_minio, proxy
    await proxy.cut()


async def keys(server: MinioServer) -> list[str]:
    store = server.store()
    try:
        return [info.key for info in await store.list(BUCKET)]
    finally:
        await store.close()


async def test_a_server_killed_in_mid_upload_keeps_nothing_of_it(own_minio: MinioServer, tmp_path: Path) -> None:
    await own_minio.child.start()
    source = tmp_path / "update"
    source.write_bytes(bytes(range(256)) * (64 * MIB // 256))
    passed = 0

    def kill_in_the_middle(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        if passed > 20 * MIB:
            own_minio.child.kill()
        return data

    proxy = Proxy(own_minio.port, to_server=kill_in_the_middle)
    await proxy.mend()
    store = own_minio.store(port=proxy.port, timeout=5)
    await store.make_bucket(BUCKET)
    with within(20), pytest.raises(StoreUnavailableError):
        await store.put(BUCKET, "updates/a", source)
    assert 20 * MIB < passed < 64 * MIB
    passed = -100 * MIB
    await own_minio.child.start()
    assert await keys(own_minio) == []
    with pytest.raises(NotFoundError):
        await store.head(BUCKET, "updates/a")
    await store.put(BUCKET, "updates/a", source)
    assert await store.read(BUCKET, "updates/a") == source.read_bytes()
    await store.close()
    await proxy.cut()


async def test_an_upload_that_is_cut_off_leaves_the_object_that_was_there(
    proxied: tuple[MinioServer, Proxy], tmp_path: Path
) -> None:
    server, proxy = proxied
    direct, store = server.store(), server.store(port=proxy.port, timeout=5)
    await direct.put(BUCKET, KEY, b"the old one")
    source = tmp_path / "new"
    source.write_bytes(bytes(64 * MIB))
    proxy.stalled = True
    putting = asyncio.ensure_future(store.put(BUCKET, KEY, source))
    await asyncio.sleep(0.5)
    await proxy.cut()
    with pytest.raises(StoreUnavailableError):
        await putting
    assert await direct.read(BUCKET, KEY) == b"the old one"
    await direct.close()
    await store.close()


async def test_a_server_killed_in_mid_download_leaves_no_file_but_the_part_to_go_on_from(
    own_minio: MinioServer, tmp_path: Path
) -> None:
    await own_minio.child.start()
    proxy = Proxy(own_minio.port, to_server=lambda data: stall(data))
    await proxy.mend()

    def stall(data: bytes) -> bytes:
        proxy.stalled = data.startswith(b"GET")
        return data

    direct, store = own_minio.store(), own_minio.store(port=proxy.port, timeout=5)
    await direct.make_bucket(BUCKET)
    data = bytes(16 * MIB)
    await direct.put(BUCKET, "global/a", data)
    await direct.close()
    to = tmp_path / "model"
    downloading = asyncio.ensure_future(download(store, BUCKET, "global/a", size=len(data), sha256=digest(data), to=to))
    while not proxy.stalled:  # noqa: ASYNC110 - a test waits, nobody else
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    own_minio.child.kill()
    proxy.stalled = False
    with within(10), pytest.raises(StoreUnavailableError, match="broke"):
        await downloading
    assert not to.exists()
    assert part_of(to, digest(data)).stat().st_size < len(data)
    await store.close()
    await proxy.cut()


async def test_a_create_that_was_done_before_the_line_broke_is_known_again(
    proxied: tuple[MinioServer, Proxy],
) -> None:
    server, _ = proxied

    def lose_the_answer(data: bytes) -> bytes:
        deaf.stalled = b"my own entry" in data
        return data

    deaf = Proxy(server.port, to_server=lose_the_answer)
    await deaf.mend()
    store, direct = server.store(port=deaf.port, timeout=1), server.store()
    with within(5), pytest.raises(StoreUnavailableError, match="in time"):
        await store.create(BUCKET, KEY, b"my own entry")
    assert await direct.read(BUCKET, KEY) == b"my own entry"
    with pytest.raises(AlreadyExistsError):
        await direct.create(BUCKET, KEY, b"my own entry")
    assert await create_or_compare(direct, BUCKET, KEY, b"my own entry")
    assert not await create_or_compare(direct, BUCKET, KEY, b"another entry")
    await deaf.cut()
    await store.close()
    await direct.close()


async def test_a_frozen_server_is_given_up_and_used_again_when_it_thaws(
    proxied: tuple[MinioServer, Proxy],
) -> None:
    server, _ = proxied
    store = server.store(timeout=1)
    await store.create(BUCKET, KEY, b"entry")
    server.child.signal(signal.SIGSTOP)
    await asyncio.sleep(0.2)
    with within(5), pytest.raises(StoreUnavailableError, match="in time"):
        await store.read(BUCKET, KEY)
    server.child.signal(signal.SIGCONT)
    assert await store.read(BUCKET, KEY) == b"entry"
    await store.close()


async def test_a_server_that_starts_late_or_again_is_found(own_minio: MinioServer) -> None:
    store = own_minio.store(timeout=2)
    with pytest.raises(StoreUnavailableError):
        await store.buckets()
    await own_minio.child.start()
    await store.make_bucket(BUCKET)
    await store.create(BUCKET, KEY, b"entry")
    own_minio.child.kill()
    with pytest.raises(StoreUnavailableError):
        await store.read(BUCKET, KEY)
    await own_minio.child.start()
    assert await store.read(BUCKET, KEY) == b"entry"
    await store.close()


async def test_a_wrong_secret_is_told_for_every_call_by_the_name_of_the_login(
    minio_server: MinioServer, tmp_path: Path
) -> None:
    root = minio_server.store()
    await root.make_bucket(BUCKET)
    store = minio_server.store(secret_key=SECRET)
    for call in every_call(store, tmp_path / "source"):
        with pytest.raises(AccessDeniedError, match="wrong secret for the login 'test-root'") as caught:
            await call
        assert SECRET not in str(caught.value)
    assert await root.list(BUCKET) == ()
    for each in (root, store):
        await each.close()


async def test_a_source_that_shrinks_while_it_is_sent_is_the_sources_fault(
    proxied: tuple[MinioServer, Proxy], tmp_path: Path
) -> None:
    server, proxy = proxied
    store = server.store(port=proxy.port, timeout=5)
    source = tmp_path / "update"
    source.write_bytes(bytes(64 * MIB))
    proxy.stalled = True
    putting = asyncio.ensure_future(store.put(BUCKET, "updates/a", source))
    await asyncio.sleep(0.5)
    with source.open("r+b") as file:
        file.truncate(32 * MIB)
    proxy.stalled = False
    with pytest.raises(OSError, match="became shorter"):
        await putting
    assert await keys(server) == []
    await store.close()


async def test_a_large_file_in_parts_appears_whole_or_not_at_all(
    proxied: tuple[MinioServer, Proxy], tmp_path: Path
) -> None:
    server, _ = proxied
    source = tmp_path / "update"
    source.write_bytes(bytes(range(256)) * (150 * MIB // 256))
    store = server.store(parts_above=MIB)
    putting = asyncio.ensure_future(store.put(BUCKET, "updates/a", source))
    while not putting.done():
        assert await keys(server) in ([], ["updates/a"])
    await putting
    assert await store.read(BUCKET, "updates/a", offset=64 * MIB - 2, length=4) == b"\xfe\xff\x00\x01"
    assert (await store.head(BUCKET, "updates/a")).size == 150 * MIB
    server.child.kill()
    with pytest.raises(StoreUnavailableError):
        await store.put(BUCKET, "updates/b", source)
    await store.close()


async def test_a_full_disk_is_waited_out_and_shows_no_part_of_an_object(tmp_path: Path, webhook: Receiver) -> None:
    require_minio()
    folder = tmp_path / "minio"
    async with AsyncExitStack() as stack:
        data = folder / "data"
        data.mkdir(parents=True)
        mount = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", data)
        if await mount.wait():
            pytest.skip("only root may mount a small disk")
        stack.callback(subprocess.run, ["umount", "-l", data], check=True)
        server = make_minio(folder, webhook)
        stack.callback(server.child.kill)
        await server.child.start()
        store = server.store()
        stack.push_async_callback(store.close)
        await store.make_bucket(BUCKET)
        source = tmp_path / "update"
        source.write_bytes(bytes(40 * MIB))
        await store.put(BUCKET, "updates/a", source)
        await store.put(BUCKET, "updates/b", source)
        with within(20), pytest.raises(StoreUnavailableError):
            await store.put(BUCKET, "updates/c", source)
        whole = {info.key: info.size for info in await store.list(BUCKET)}
        assert whole == {"updates/a": 40 * MIB, "updates/b": 40 * MIB}
        for key in whole:
            await store.delete(BUCKET, key)
        # MinIO empties its bin every five minutes, and when it starts.
        server.child.kill()
        await server.child.start()
        async with asyncio.timeout(20):
            await patiently(lambda: store.put(BUCKET, "updates/d", source), longest=0.5)
        assert await keys(server) == ["updates/d"]
