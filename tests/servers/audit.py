"""Every call at a real store, as the store's own audit log tells it: who asked for what, when, and what came of it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import HTTPError

from servers.minio import Receiver

WRITES = frozenset({"PutObject", "CompleteMultipartUpload"})
READ_BACK_WITHIN = 30.0  # seconds: a store that dies while it tells of an object is back by then


@dataclass(frozen=True, slots=True)
class Call:
    """`at` is when the caller had the first byte of the reply: whatever it did on the strength of it came later.
    `data` is what was stored; None where nothing was, or it is gone again."""

    at: datetime
    login: str
    api: str
    bucket: str
    key: str
    status: int
    conditional: bool
    data: bytes | None = None

    @property
    def wrote(self) -> bool:
        return self.api in WRITES and self.status == 200

    @property
    def read(self) -> bool:
        return self.api == "GetObject" and self.status in (200, 206)


class StoreAudit:
    """Hands each call at a bucket to whoever listens, in the order in which the store tells of them.

    A store tells if it was started with `environment`; `root` is a client of it with every right.
    """

    def __init__(self, receiver: Receiver, root: Callable[[], Minio]) -> None:
        self._root = root
        self._listening: dict[str, Callable[[Call], None]] = {}
        self._told: set[str] = set()
        self.environment = {
            "MINIO_AUDIT_WEBHOOK_ENABLE_RECORDER": "on",
            "MINIO_AUDIT_WEBHOOK_ENDPOINT_RECORDER": receiver.address,
        }
        receiver.take = self._take

    @contextmanager
    def listening(self, bucket: str, heard: Callable[[Call], None]) -> Iterator[None]:
        """`heard` is called from another thread."""
        self._listening[bucket] = heard
        try:
            yield
        finally:
            del self._listening[bucket]

    def _take(self, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if (request := entry.get("requestID")) is not None:  # what the store does by itself has none
                if request in self._told:  # a store that stood still does not know whether it was heard
                    continue
                self._told.add(request)
            call = parse(entry)
            if (heard := self._listening.get(call.bucket)) is not None:
                heard(replace(call, data=self._read_back(call)) if call.wrote else call)

    def _read_back(self, call: Call) -> bytes | None:
        """At once, before it is pruned or another takes its place."""
        until = time.monotonic() + READ_BACK_WITHIN
        while time.monotonic() < until:
            try:
                return read_object(self._root(), call.bucket, call.key)
            except S3Error:
                return None
            except HTTPError:
                time.sleep(0.1)
        return None


def read_object(client: Minio, bucket: str, key: str) -> bytes:
    response = client.get_object(bucket, key)
    try:
        return response.data
    finally:
        response.close()
        response.release_conn()


def parse(entry: dict[str, Any]) -> Call:
    """A line of the audit log, which is written when the whole reply has been."""
    api = entry["api"]
    whole, first = (int(api.get(name) or 0) for name in ("timeToResponseInNS", "timeToFirstByteInNS"))
    return Call(
        at=datetime.fromisoformat(entry["time"]) - timedelta(microseconds=max(whole - first, 0) / 1000),
        login=entry.get("accessKey", ""),
        api=api.get("name", ""),
        bucket=api.get("bucket", ""),
        key=api.get("object", ""),
        status=int(api.get("statusCode") or 0),
        conditional="If-None-Match" in entry.get("requestHeader", {}),
    )
