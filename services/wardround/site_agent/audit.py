"""The site's own log, `audit.jsonl`: what was decided, and every object before it left. One JSON line each.

It is the clinic's record of what it agreed to and what left it, so nothing here ever cuts it.
"""

import errno
import os
from pathlib import Path

from wardround.runtime.clock import Clock
from wardround_messages.base import canonical_bytes


class AuditLog:
    """Appends lines; with `durable` each is on disk when `write` returns."""

    def __init__(self, path: Path, *, clock: Clock, durable: bool = True) -> None:
        self._path = path
        self._clock = clock
        self._durable = durable

    def write(self, what: str, **facts: str | int | None) -> None:
        """Append one line; raises `OSError` where the disk does not take it."""
        line = canonical_bytes({"v": 1, "at": self._clock().isoformat(), "what": what, **facts}) + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
