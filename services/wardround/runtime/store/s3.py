"""Objects on a server that speaks S3: MinIO, or another with conditional writes."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import ParamSpec, TypeVar

from wardround.runtime.store.content import Content
from wardround.runtime.store.keys import check_bucket, check_key, check_prefix, check_range
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import ObjectInfo
from wardround.runtime.store.s3_client import S3Client, Server
from wardround.runtime.store.s3_probe import CreateOnlyError, prove_create_only

__all__ = ["CreateOnlyError", "S3Store"]

QUEUE = "arn:minio:sqs::HUB:amqp"
GIB = 2**30

P = ParamSpec("P")
R = TypeVar("R")


class S3Store:
    """An `ObjectStore` on an S3 server, through minio-py in a few threads of its own.

    Nothing is tried twice: a call ends in bounded time, and whether to try again is the caller's decision. A cancelled
    call lets its request run to the end; what it wrote may stand. A file is sent in one request, in memory that does
    not grow with it. On MinIO a key cannot lie below another object's key (`a` and `a/b`): `InvalidKeyError`.
    """

    def __init__(
        self,
        address: str,
        *,
        access_key: str,
        secret_key: str,
        ca: Path | None = None,
        region: str = "us-east-1",
        threads: int = 8,
        queue: str = QUEUE,
        timeout: float = 30.0,
        parts_above: int = 5 * GIB,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: `https://host:port` or `http://host:port`, without a path.
            ca: certificates to trust, in PEM; by default those that the system trusts.
            threads: how many requests at once.
            queue: ARN of where the server announces to.
            timeout: seconds without a byte from the server before it counts as away.
            parts_above: bytes; S3 takes no more in one request than 5 GiB. A larger file is sent in parts of 64 MiB.

        Raises:
            ValueError: the address is not one; OSError, ssl.SSLError: `ca` cannot be read.
        """
        server = Server(address, region, ca, threads, timeout, queue, parts_above)
        self._client = S3Client(server, access_key, secret_key)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="s3")

    async def prove_create_only(self) -> None:
        """See that this server lets one of several creators win, in the bucket `wr-hub`.

        Raises:
            CreateOnlyError: it does not, and must not be used; StoreError: it is away, or refuses this login.
        """
        await prove_create_only(self)

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        _check_names(bucket, key)
        await self._run(self._client.create, bucket, key, data)

    async def put(self, bucket: str, key: str, source: Content, *, passage: Passage | None = None) -> None:
        """Raises `OSError` where the source cannot be read. Once cancelled, no more of a file is sent, and no object
        appears. While `passage` holds it up, a thread waits."""
        _check_names(bucket, key)
        given_up = Event()
        try:
            await self._run(self._client.put, bucket, key, source, given_up, passage)
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        _check_names(bucket, key)
        check_range(offset, length)
        if length == 0:
            await self.head(bucket, key)
            return b""
        return await self._run(self._client.read, bucket, key, offset, length)

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        _check_names(bucket, key)
        return await self._run(self._client.head, bucket, key)

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        check_bucket(bucket)
        check_prefix(prefix)
        return await self._run(self._client.list, bucket, prefix)

    async def delete(self, bucket: str, key: str) -> None:
        _check_names(bucket, key)
        await self._run(self._client.delete, bucket, key)

    async def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        check_bucket(bucket)
        for prefix in prefixes:
            check_prefix(prefix)
        await self._run(self._client.announce, bucket, prefixes)

    async def buckets(self) -> tuple[str, ...]:
        return await self._run(self._client.buckets)

    async def make_bucket(self, bucket: str) -> None:
        check_bucket(bucket)
        await self._run(self._client.make_bucket, bucket)

    async def close(self) -> None:
        """End the requests of calls that were cancelled, and close all connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.cut()
        await asyncio.to_thread(self._threads.shutdown)
        self._client.close()

    async def _run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))


def _check_names(bucket: str, key: str) -> None:
    check_bucket(bucket)
    check_key(key)
