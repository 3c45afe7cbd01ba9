"""The chain of a site's own log: its lines as they lie in the file, and the one at which they stop to be a chain.

A line is one JSON object in canonical form. It holds its number, dense from 1, and in `previous` the SHA-256 of the
bytes of the line before, without the newline. Nothing here writes, and nothing grows with the log.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from wardround.runtime.regular_file import open_regular
from wardround_messages.base import Count, Model, Sha256, Timestamp, canonical_bytes
from wardround_messages.journal import GENESIS
from wardround_messages.objects import LogHead

LINE_AT_MOST = 256 * 1024
TAIL = 4 * LINE_AT_MOST

# What the log says of itself. A fragment, left by a crash or a full disk, is followed by the line `torn`; a line that
# was whole and could not be read when the next one was written by `damaged`; lines that are gone by `gap`.
BEGAN, TORN, DAMAGED, GAP = "began", "torn", "damaged", "gap"

CHUNK = 2**16

Known = Mapping[str, int | None]
NOTHING_KNOWN: Known = MappingProxyType({})


class _Own(Model):
    """What every line has, whatever it tells."""

    v: int
    number: Count
    at: Timestamp
    what: str
    previous: Sha256


_OWN: TypeAdapter[_Own] = TypeAdapter(_Own)
OWN = frozenset(_Own.model_fields)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file. `fault` says why it is none of the log, and is empty for all others; `facts` are what it
    tells besides number, time and kind. `ended` by a newline."""

    position: int
    sha256: str
    ended: bool
    fault: str = ""
    number: int = 0
    at: datetime | None = None
    what: str = ""
    previous: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> LogHead:
        return LogHead(number=self.number, sha256=self.sha256)


class ChainBrokenError(Exception):
    """The log is not what was written. `line` is the place in the file, counted from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line} {reason}")
        self.line = line
        self.reason = reason


def line_of(raw: bytes, position: int, *, ended: bool = True) -> Line:
    """The line with these bytes, which hold no newline."""
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        content = _content(raw)
        own = _OWN.validate_json(canonical_bytes({name: content[name] for name in OWN & content.keys()}))
        if own.v != 1 or own.number == 0:
            raise ValueError("is of an unknown version")
    except ValidationError as error:
        return Line(position, sha256, ended, fault=f"lacks a right '{error.errors()[0]['loc'][0]}'")
    except ValueError as error:
        return Line(position, sha256, ended, fault=str(error))
    facts = {name: value for name, value in content.items() if name not in OWN}
    return Line(position, sha256, ended, "", own.number, own.at, own.what, own.previous, facts)


def _content(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    if canonical_bytes(content) != raw:
        raise ValueError("is not in the form in which the agent writes")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(name)


@contextmanager
def opened(path: Path) -> Iterator[Iterator[Line]]:
    """The lines that are in the log now, whether an agent writes to it or not. Raises `OSError`."""
    with open_regular(path, follow=True) as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # no line is half written while it is held
        size = os.fstat(file.fileno()).st_size
        fcntl.flock(file, fcntl.LOCK_UN)
        yield read_lines(file, size)


def read_lines(file: BinaryIO, until: int | None = None) -> Iterator[Line]:
    """All lines from where the file stands, or those that begin before the offset `until`, one at a time."""
    position, offset = 0, 0
    while (until is None or offset < until) and (raw := file.readline(LINE_AT_MOST + 1)):
        position, offset = position + 1, offset + len(raw)
        if raw.endswith(b"\n"):
            yield line_of(raw[:-1], position)
        elif len(raw) <= LINE_AT_MOST:
            yield line_of(raw, position, ended=False)
        else:
            yield _far_too_long(raw, file, position)


def _far_too_long(raw: bytes, file: BinaryIO, position: int) -> Line:
    hasher = hashlib.sha256()
    while raw and not raw.endswith(b"\n"):
        hasher.update(raw)
        raw = file.readline(CHUNK)
    hasher.update(raw.removesuffix(b"\n"))
    return Line(position, hasher.hexdigest(), bool(raw), fault=f"is longer than {LINE_AT_MOST} bytes")


def chained(lines: Iterable[Line], known: Known = NOTHING_KNOWN) -> Iterator[Line]:
    """The lines of the log, as long as they are a chain; fragments that a line `torn` names are passed over.

    `known` are digests that somebody else vouches for, with the line's number where that is known too: only with that
    of the last line can it be told of the last two which was changed.

    Raises:
        ChainBrokenError: naming the line that was changed, or that stands where another belongs.
    """
    before: Line | None = None
    number = 0
    for line, after, later in _with_two_more(lines):
        if line.fault or not line.ended:
            _check_fragment(line, after, later)
        else:
            _check_place(before, line, after, number, known)
            number = line.number
            yield line
        before = line


def _with_two_more(lines: Iterable[Line]) -> Iterator[tuple[Line, Line | None, Line | None]]:
    coming: Iterator[Line | None] = chain(lines, (None, None))
    window = list(islice(coming, 3))
    while (line := window[0]) is not None:
        yield line, window[1], window[2]
        window = [*window[1:], next(coming, None)]


def _check_fragment(line: Line, after: Line | None, later: Line | None) -> None:
    """Only what the next line calls torn may be no line of the log."""
    if not line.ended:
        unfinished = "has no end: a crash or a full disk may leave it so, and the agent mends it with its next line"
        raise ChainBrokenError(line.position, line.fault or unfinished)
    if after is None or after.fault:
        raise ChainBrokenError(line.position, line.fault)
    if _follows(after, line):
        if after.what == DAMAGED:
            raise ChainBrokenError(line.position, f"{line.fault}, and was not already when line {after.position} came")
        if after.what != TORN:
            raise ChainBrokenError(after.position, "follows a line that is none of the log")
    elif after.what == TORN and later is not None and not _follows(later, after):
        raise ChainBrokenError(after.position, "was changed: it is not what the line after it says")
    else:
        raise ChainBrokenError(line.position, line.fault)


def _check_place(before: Line | None, line: Line, after: Line | None, number: int, known: Known) -> None:
    follows = line.previous == GENESIS if before is None else _follows(line, before)
    if line.number != number + 1:
        raise ChainBrokenError(line.position, _out_of_turn(line.number, number))
    if not follows:
        vouched_for = line.sha256 in known or (after is not None and _follows(after, line))
        if before is None:
            raise ChainBrokenError(line.position, "was changed: it is the first, and says that it follows another")
        if not vouched_for and (after is not None or line.number in known.values()):
            raise ChainBrokenError(line.position, "was changed: it does not follow the line before it")
        also = "" if vouched_for else f" (or line {line.position}, the last, was: its digest would tell)"
        raise ChainBrokenError(before.position, f"was changed: it is not what line {line.position} says{also}")
    if line.what == GAP:
        lost = f"line {line.facts.get('known_number')} with the digest {line.facts.get('known_sha256')}"
        raise ChainBrokenError(line.position, f"tells that {lost} had gone: the log was cut or replaced before it")


def _follows(line: Line, before: Line) -> bool:
    return not line.fault and line.previous == before.sha256


def _out_of_turn(found: int, last: int) -> str:
    how = "taken out or moved" if found > last + 1 else "doubled, put in or moved"
    return f"has number {found} where {last + 1} belongs: a line was {how}, or this one was changed"


@dataclass(frozen=True, slots=True)
class Tail:
    """How a log ends. `head` is its last line that can be read, `last` the digest of what lies after all others.

    `unfinished`: no newline ends the file, and what follows the last one has `fragment` bytes, none where that is
    `head` itself. `unreadable` is how many whole lines after `head` cannot be read.
    """

    head: LogHead | None = None
    last: str = GENESIS
    unfinished: bool = False
    fragment: int = 0
    unreadable: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether the file is no chained log at all: whole lines, and none of them is of the log."""
        return self.head is None and self.unreadable > 0


def tail_of(file: BinaryIO, size: int) -> Tail:
    """How the log in the file ends, of which no more is read than needed."""
    file.seek(max(0, size - TAIL))
    if size > TAIL:
        file.readline(TAIL)  # its beginning is not there
    tail = _tail(file)
    if tail.head is None and size > TAIL:
        file.seek(0)
        tail = _tail(file)
    return tail


def _tail(file: BinaryIO) -> Tail:
    tail, offset = Tail(), file.tell()
    for line in read_lines(file):
        length, offset = file.tell() - offset, file.tell()
        if not line.fault:
            tail = Tail(line.head, line.sha256, unfinished=not line.ended)
        elif line.ended:
            tail = Tail(tail.head, line.sha256, unreadable=tail.unreadable + 1)
        else:
            tail = Tail(tail.head, line.sha256, unfinished=True, fragment=length, unreadable=tail.unreadable)
    return tail
