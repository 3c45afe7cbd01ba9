"""A real MinIO for tests."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject

from wardround.hub.store_admin import StoreAdministrator
from wardround.runtime.store.s3 import S3Store
from wardround.stack.minio import find_minio, minio
from wardround.stack.ports import LOOPBACK, free_ports
from wardround.stack.program import Child

ROOT_USER = "test-root"
ROOT_PASSWORD = "secret-of-the-tests"
WEBHOOK_ARN = "arn:minio:sqs::TESTS:webhook"


def require_minio() -> None:
    """Skip the test where MinIO is missing, or fail it where CI must not leave it out."""
    if find_minio() is None:
        reason = "MinIO is not installed here: `make servers` builds it, or name it in WARDROUND_MINIO"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


class Listening(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A store that was killed is no error of who listens to it."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass(slots=True)
class Receiver:
    """An HTTP server that a store announces to; each body goes to `take`, in the order in which they come."""

    take: Callable[[bytes], None] = field(default=lambda body: None)
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.do_GET()

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.server = Listening((LOOPBACK, 0), Handler)

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server.server_address[1]}/"


@dataclass(slots=True)
class MinioServer:
    """A server at work, and its root login."""

    address: str
    port: int
    child: Child
    receiver: Receiver

    @property
    def administrator(self) -> StoreAdministrator:
        return StoreAdministrator(self.address, ROOT_USER, ROOT_PASSWORD)

    def store(
        self, access_key: str = ROOT_USER, secret_key: str = ROOT_PASSWORD, *, port: int | None = None, **options: Any
    ) -> S3Store:
        """The store as a login sees it, at the server itself or at a proxy's port."""
        address = self.address if port is None else self.address.replace(str(self.port), str(port))
        return S3Store(address, access_key=access_key, secret_key=secret_key, **{"queue": WEBHOOK_ARN, **options})

    def clean(self) -> None:
        """Remove all buckets, and hear no more announcements."""
        self.receiver.take = lambda body: None
        client = Minio(self.address.removeprefix("http://"), ROOT_USER, ROOT_PASSWORD, secure=False, region="us-east-1")
        for bucket in client.list_buckets():
            names = (DeleteObject(one.object_name or "") for one in client.list_objects(bucket.name, recursive=True))
            assert list(client.remove_objects(bucket.name, names)) == []
            client.remove_bucket(bucket.name)
        client._http.clear()


def make_minio(
    folder: Path, receiver: Receiver, *, amqp: str | None = None, certificates: Path | None = None
) -> MinioServer:
    """A server of the caller's own, who starts and kills its child, again and again on the same folder and port."""
    webhook = {
        "MINIO_NOTIFY_WEBHOOK_ENABLE_TESTS": "on",
        "MINIO_NOTIFY_WEBHOOK_ENDPOINT_TESTS": receiver.address,
    }
    (port,) = free_ports(1)
    program = minio(
        folder,
        port=port,
        root_user=ROOT_USER,
        root_password=ROOT_PASSWORD,
        amqp=amqp,
        environment=webhook,
        certificates=certificates,
    )
    scheme = "http" if certificates is None else "https"
    return MinioServer(f"{scheme}://{LOOPBACK}:{port}", port, Child(program), receiver)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver at work, in a thread of its own."""
    receiver = Receiver()
    thread = Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


@pytest.fixture(scope="session")
def webhook() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def shared_minio(tmp_path_factory: pytest.TempPathFactory, webhook: Receiver) -> Iterator[MinioServer]:
    require_minio()
    server = make_minio(tmp_path_factory.mktemp("minio"), webhook)
    asyncio.run(server.child.start())
    yield server
    server.child.kill()


@pytest.fixture
def minio_server(shared_minio: MinioServer) -> Iterator[MinioServer]:
    """The session's server, without any bucket."""
    yield shared_minio
    shared_minio.clean()


@pytest.fixture
def own_minio(tmp_path: Path, webhook: Receiver) -> Iterator[MinioServer]:
    """A server of the test's own, not yet started, to be killed and started again."""
    require_minio()
    server = make_minio(tmp_path / "minio", webhook)
    yield server
    server.child.kill()
