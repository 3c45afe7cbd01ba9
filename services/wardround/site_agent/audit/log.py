"""The site's own log, `audit.jsonl`: what was decided by which rule or person, what came in, and what left.

It is the clinic's record, so each line is on disk before what it tells of leaves, and holds the digest of the line
before it: `chain.py` finds a line that was changed, and answers at the hub anchor the newest. Nothing here cuts the
log. What a crash or a full disk left of a line stays where it is, and the next line, `torn`, says so.
"""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wardround.runtime.clock import Clock
from wardround.runtime.on_disk import sync_folder
from wardround.runtime.regular_file import check_regular, open_regular
from wardround.runtime.store.transfer import file_digest
from wardround.site_agent.audit.chain import BEGAN, DAMAGED, GAP, LINE_AT_MOST, OWN, TORN, Tail, tail_of
from wardround_messages.base import canonical_bytes, digest
from wardround_messages.objects import LogHead

_WRITING = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC

Fact = str | int | float | None | Sequence["Fact"] | Mapping[str, "Fact"]


@dataclass(frozen=True, slots=True)
class _Known:
    """The file as this process left it."""

    inode: int
    size: int
    tail: Tail


class LogUnwritableError(Exception):
    """The log takes no line, and it is not for want of room: somebody has to see to it."""


class AuditLog:
    """Appends lines; with `durable` each is on disk when `write` returns.

    Any number of threads and processes may write to one log: a lock on the file makes them take turns. A file that
    root makes is given to the owner of the agent's file `agents` where there is one, else to that of the log's folder:
    the agent must be able to go on in it.
    """

    def __init__(self, path: Path, *, clock: Clock, durable: bool = True, agents: Path | None = None) -> None:
        self.durable = durable
        self._path = path
        self._agents = agents
        self._clock = clock
        self._turn = threading.Lock()
        self._known: _Known | None = None

    @property
    def head(self) -> LogHead | None:
        """The newest line that this process knows of, out of the file where it wrote none; None where there is none."""
        known = self._known
        if known is not None:
            return known.tail.head
        try:
            with open_regular(self._path, follow=True) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                return tail_of(file, os.fstat(file.fileno()).st_size).head
        except OSError:
            return None

    def write(self, what: str, **facts: Fact) -> LogHead:
        """Append one line; facts that are None are left out.

        Raises:
            OSError: the disk does not take it, and the log is as before; ValueError: it is no line of a log.
        """
        if taken := OWN & facts.keys():
            raise ValueError(f"{sorted(taken)} are the log's own")
        with self._turn, self._opened() as (descriptor, known):
            lines = _Lines(known.tail, self._clock)
            lines.mend(known.tail, self._lost(known))
            lines.add(what, facts)
            data = bytes(lines.data)
            self._append(descriptor, data, before=known.size)
            self._known = _Known(known.inode, known.size + len(data), lines.tail)
            return lines.head

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, _Known]]:
        """The file, made if there is none, and how it ends; nobody else writes to it meanwhile."""
        while True:
            descriptor = self._open_or_make()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self._is_there(descriptor):
                    known = self._looked_at(descriptor)
                    if not known.tail.is_foreign:
                        yield descriptor, known
                        return
                    self._begin_anew(descriptor)
            finally:
                os.close(descriptor)

    def _open_or_make(self) -> int:
        try:
            descriptor = os.open(self._path, _WRITING | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # also for a link to what is not there yet, which is made, and given to nobody
            descriptor = os.open(self._path, _WRITING | os.O_CREAT | os.O_NONBLOCK, 0o600)
            try:
                check_regular(descriptor, self._path)
            except OSError:
                os.close(descriptor)
                raise
            return descriptor
        self._give_to_agent(descriptor)
        return descriptor

    def _give_to_agent(self, descriptor: int) -> None:
        """A file that was made just now belongs to the agent's user, where this one may say so."""
        if os.geteuid() != 0:
            return
        with suppress(OSError):
            owner = next(path for path in (self._agents, self._path.parent) if path is not None and path.exists())
            status = owner.stat()
            os.fchown(descriptor, status.st_uid, status.st_gid)

    def _is_there(self, descriptor: int) -> bool:
        """Whether the file is still the log, and was not replaced while its lock was waited for."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _looked_at(self, descriptor: int) -> _Known:
        status, known = os.fstat(descriptor), self._known
        if known is not None and (known.inode, known.size) == (status.st_ino, status.st_size):
            return known
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return _Known(status.st_ino, status.st_size, tail_of(file, status.st_size))

    def _lost(self, found: _Known) -> LogHead | None:
        """The line that this process wrote last, where the log no longer reaches so far."""
        mine = None if self._known is None else self._known.tail.head
        head = found.tail.head
        if mine is None or mine == head or (head is not None and head.number > mine.number):
            return None
        return mine

    def _append(self, descriptor: int, data: bytes, *, before: int) -> None:
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, before)  # of these lines alone, which nobody was told to be written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.durable:
            os.fsync(descriptor)
            if before == 0:
                sync_folder(self._path.parent)

    def _begin_anew(self, descriptor: int) -> None:
        """Lay a file that is no chained log aside as `<name>-<time>`, and begin a log that names it by its digest."""
        aside = self._path.with_stem(f"{self._path.stem}-{self._clock():%Y%m%dT%H%M%S%fZ}")
        with self._made(aside) as copy, open(os.dup(descriptor), "rb") as found:
            found.seek(0)
            shutil.copyfileobj(found, copy)
        size, sha256 = file_digest(aside)
        lines = _Lines(Tail(), self._clock)
        lines.add(BEGAN, {"file": aside.name, "size": size, "sha256": sha256})
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.unlink(missing_ok=True)
        with self._made(fresh) as file:
            file.write(lines.data)
        os.replace(fresh, self._path)

    @contextmanager
    def _made(self, path: Path) -> Iterator[BinaryIO]:
        """A new file, for the agent's eyes alone; with `durable` it is on disk at the end."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            self._give_to_agent(descriptor)
            yield file
            if self.durable:
                file.flush()
                os.fsync(descriptor)


class _Lines:
    """Lines to be written in one go, each following the one before."""

    def __init__(self, tail: Tail, clock: Clock) -> None:
        self.data = bytearray()
        self.tail = tail
        self._clock = clock

    @property
    def head(self) -> LogHead:
        assert self.tail.head is not None  # noqa: S101 - a line was added
        return self.tail.head

    def mend(self, found: Tail, lost: LogHead | None) -> None:
        """End what has no end, and say what is amiss."""
        if found.unfinished:
            self.data += b"\n"
        if found.unreadable:
            self.add(DAMAGED, {"lines": found.unreadable + bool(found.fragment)})
        elif found.fragment:
            self.add(TORN, {"size": found.fragment, "sha256": found.last})
        if lost is not None:
            self.add(GAP, {"known_number": lost.number, "known_sha256": lost.sha256})

    def add(self, what: str, facts: Mapping[str, Fact]) -> None:
        before = self.tail.head
        told = {name: fact for name, fact in facts.items() if fact is not None}
        number = 1 if before is None else before.number + 1
        own = {"v": 1, "number": number, "at": self._clock().isoformat(), "what": what, "previous": self.tail.last}
        line = canonical_bytes(told | own)
        if len(line) >= LINE_AT_MOST:
            raise ValueError(f"a line of {len(line)} bytes: the log takes fewer than {LINE_AT_MOST}")
        self.data += line + b"\n"
        self.tail = Tail(LogHead(number=number, sha256=digest(line)), digest(line))
