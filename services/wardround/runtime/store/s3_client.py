"""What is asked of an S3 server, request by request, in the thread that calls."""

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from threading import Event
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from minio import Minio
from minio.credentials.credentials import Credentials
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, PrefixFilterRule, QueueConfig
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from wardround.runtime.store.content import Content, opened
from wardround.runtime.store.keys import is_bucket, is_key
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import ObjectInfo
from wardround.runtime.store.s3_connections import Connections
from wardround.runtime.store.s3_errors import OURS_ALREADY, OUT_OF_RANGE, store_errors
from wardround.runtime.store.s3_upload import ONLY_IF_ABSENT, Source, Uploader

# Not `s3:ObjectCreated:*`, which is also said when tags or retention change.
EVENTS = [f"s3:ObjectCreated:{how}" for how in ("Put", "Post", "Copy", "CompleteMultipartUpload")]

PART = 64 * 2**20  # of 10,000 that an object may have
# More bytes at once cost more: the buffers come fresh from the system. 1 MiB took 0.65 ms of CPU instead of 1.2 ms.
RECEIVED_AT_ONCE = 128 * 2**10
SLOWEST = 16 * 2**10  # bytes per second: a slower answer counts as none


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how it is spoken to; `S3Store` explains each."""

    address: str
    region: str
    ca: Path | None
    connections: int
    timeout: float
    queue: str
    parts_above: int


class S3Client:
    """One login at one server. Every method may raise the port's errors; several threads may call at once."""

    def __init__(self, server: Server, access_key: str, secret_key: str) -> None:
        at = urlsplit(server.address)
        if at.scheme not in ("http", "https") or not at.netloc or "@" in at.netloc or at.path.strip("/") or at.query:
            raise ValueError("the store's address must be http:// or https://, a host and a port, and nothing else")
        secure = at.scheme == "https"
        self._connections = Connections(
            size=server.connections,
            timeout=server.timeout,
            context=ssl.create_default_context(cafile=server.ca) if secure else None,
        )
        self._minio = Minio(
            at.netloc, access_key, secret_key, secure=secure, region=server.region, http_client=self._connections
        )
        place = at._replace(path="", fragment="")
        self._uploader = Uploader(self._connections, place, Credentials(access_key, secret_key), server.region)
        self._server = server
        self._login = access_key

    def create(self, bucket: str, key: str, data: bytes) -> None:
        with self._errors(bucket, key):
            self._uploader.upload(bucket, key, data, conditions=ONLY_IF_ABSENT)

    def put(self, bucket: str, key: str, source: Content, given_up: Event, passage: Passage | None) -> None:
        """Once `given_up` is set, no more of a file is sent."""
        if isinstance(source, bytes) and passage is None:
            with self._errors(bucket, key):
                self._uploader.upload(bucket, key, source)
            return
        with opened(source) as (file, size):
            content = Source(file, key, size, given_up, passage or Passage(size))
            try:
                with self._errors(bucket, key):
                    self._put_file(bucket, key, content)
            except Exception:
                if content.failure is not None:
                    raise content.failure from None
                raise

    def read(self, bucket: str, key: str, offset: int, length: int | None) -> bytes:
        with self._errors(bucket, key):
            try:
                response = self._minio.get_object(bucket, key, offset=offset, length=length or 0)
            except S3Error as error:
                if error.code == OUT_OF_RANGE:
                    return b""
                raise
            try:
                return self._received(response, offset, length)
            finally:
                response.close()
                response.release_conn()

    def head(self, bucket: str, key: str) -> ObjectInfo:
        with self._errors(bucket, key):
            found = self._minio.stat_object(bucket, key)
        return ObjectInfo(key, found.size or 0, found.etag or "")

    def list(self, bucket: str, prefix: str) -> tuple[ObjectInfo, ...]:
        with self._errors(bucket):
            found = [
                ObjectInfo(one.object_name, one.size or 0, (one.etag or "").strip('"'))
                for one in self._minio.list_objects(bucket, prefix, recursive=True)
                if one.object_name and is_key(one.object_name)
            ]
        return tuple(sorted(found, key=attrgetter("key")))

    def delete(self, bucket: str, key: str) -> None:
        with self._errors(bucket, key):
            self._minio.remove_object(bucket, key)

    def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        queues = [
            QueueConfig(
                queue=self._server.queue,
                events=EVENTS,
                prefix_filter_rule=PrefixFilterRule(prefix) if prefix else None,
            )
            for prefix in _outermost(prefixes)
        ]
        with self._errors(bucket):
            self._minio.set_bucket_notification(bucket_name=bucket, config=NotificationConfig(queue_config_list=queues))

    def buckets(self) -> tuple[str, ...]:
        with store_errors("the list of buckets", self._login):
            return tuple(sorted(one.name for one in self._minio.list_buckets() if is_bucket(one.name)))

    def make_bucket(self, bucket: str) -> None:
        with self._errors(bucket):
            try:
                self._minio.make_bucket(bucket)
            except S3Error as error:
                if error.code != OURS_ALREADY:
                    raise

    def cut(self) -> None:
        """End every request that is in progress."""
        self._connections.cut()

    def close(self) -> None:
        """Close all connections; to be called when no request is in progress."""
        self._connections.clear()

    def _put_file(self, bucket: str, key: str, content: Source) -> None:
        if content.size <= self._server.parts_above:
            self._uploader.upload(bucket, key, content)
        else:
            file = cast("BinaryIO", content)  # minio-py calls nothing but `read`
            self._minio.put_object(bucket, key, file, content.size, part_size=PART, num_parallel_uploads=1)

    def _received(self, response: BaseHTTPResponse, offset: int, length: int | None) -> bytes:
        """The body, no more than was asked for."""
        if offset and response.status != 206:
            raise ProtocolError("the server sent the whole object where a part of it was asked for")
        if "content-length" not in response.headers:
            raise ProtocolError("the server does not tell the object's size")
        announced = int(response.headers["content-length"])
        left = announced if length is None else min(length, announced)
        deadline = time.monotonic() + self._server.timeout + left / SLOWEST
        parts = []
        while left:
            part = response.read1(min(left, RECEIVED_AT_ONCE))
            if not part:
                raise ProtocolError(f"the object ended {left} bytes too soon")
            if time.monotonic() > deadline:
                raise ReadTimeoutError(None, None, f"{left} bytes were left after the longest time")  # type: ignore[arg-type]
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextmanager
    def _errors(self, bucket: str, key: str | None = None) -> Iterator[None]:
        with store_errors(bucket if key is None else f"{bucket}/{key}", self._login):
            yield


def _outermost(prefixes: Sequence[str]) -> list[str]:
    """Without those below another of them: S3 refuses prefixes that overlap."""
    return [
        one for one in sorted(set(prefixes)) if not any(one != other and one.startswith(other) for other in prefixes)
    ]
