"""What happened in one run, in its order: every call, every object, every training, every fault."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from wardround_messages.names import AnswerKey, JournalKey, Key, parse_key, parse_task_id

Seconds = float
Part = Literal["reads", "commands", "trainings", "failed calls", "crashes", "broken journals"]
SOMEBODY = ""  # who wrote an object of which only the store's listing tells


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, for people."""

    at: Seconds
    who: str
    what: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.at:12.3f}  {self.who:<16} {self.what:<22} {self.about}".rstrip()


@dataclass(frozen=True, slots=True)
class Written:
    """An object that the store took. `fresh` is false where it took the place of another; `by` is `SOMEBODY` where it
    was not seen who wrote it."""

    at: Seconds
    by: str
    bucket: str
    key: str
    data: bytes
    method: Literal["create", "put"]
    fresh: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(slots=True)
class Training:
    """One run of a task at a site's scheduler; `how` tells its end: `done`, `crashed`, `stopped`, `lost`."""

    site: str
    machine: str
    task: str
    began: Seconds
    ended: Seconds | None = None
    how: str = "running"

    @property
    def step(self) -> tuple[str, int, str, str]:
        """What of which only one may be at work: experiment, round, task, site."""
        name = parse_task_id(self.task)
        return name.experiment, name.round, str(name.task), name.site


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault; `over` is when what it disturbed was in order again, None for one of a single moment."""

    at: Seconds
    kind: str
    target: str
    over: Seconds | None = None


@dataclass(frozen=True, slots=True)
class Commanded:
    """A command that the coordinator said, by its id, with the model or closing entry it names."""

    at: Seconds
    by: str
    id: str
    names: str


@dataclass(slots=True)
class History:
    """The record of one run. `clock` gives virtual seconds; `faults_over` is when the last fault was undone."""

    clock: Callable[[], Seconds]
    lines: list[Line] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    commanded: list[Commanded] = field(default_factory=list)
    read_by_coordinators: dict[str, Seconds] = field(default_factory=dict)
    crashes: list[Line] = field(default_factory=list)
    failed_calls: Counter[tuple[str, int]] = field(default_factory=Counter)
    rotten: dict[str, Seconds] = field(default_factory=dict)
    faults_over: Seconds = 0.0
    ended: Seconds = 0.0

    def note(self, who: str, what: str, about: str = "") -> None:
        self.lines.append(Line(self.clock(), who, what, about))

    def inject(self, kind: str, target: str, *, over: Seconds | None = None, about: str = "") -> None:
        now = self.clock()
        self.injected.append(Injected(now, kind, target, over))
        self.lines.append(Line(now, target, f"! {kind}", about if over is None else f"until {over:.3f} {about}"))

    def crash(self, who: str, error: BaseException) -> None:
        """A service ended by itself."""
        self.note(who, "crashed", f"{type(error).__name__}: {error}"[:400])
        self.crashes.append(self.lines[-1])

    def failed_call(self, who: str) -> None:
        self.failed_calls[who, int(self.clock())] += 1

    def read(self, who: str, key: str) -> None:
        """A coordinator has read an object, for the first time."""
        if who.startswith("coordinator"):
            self.read_by_coordinators.setdefault(key, self.clock())

    def objects(self, kind: type[Key]) -> Iterator[tuple[Key, Written]]:
        """What was written under keys of that kind, in the order of the writes."""
        for one in self.written:
            key = parse_key(one.key)
            if isinstance(key, kind):
                yield key, one

    @property
    def journal(self) -> list[Written]:
        """The entries as they were first written, by their number."""
        entries: dict[int, Written] = {}
        for key, one in self.objects(JournalKey):
            if isinstance(key, JournalKey):
                entries.setdefault(key.number, one)
        return [entries[number] for number in sorted(entries)]

    @property
    def answers(self) -> dict[AnswerKey, Written]:
        """The answers as they were first written."""
        found: dict[AnswerKey, Written] = {}
        for key, one in self.objects(AnswerKey):
            if isinstance(key, AnswerKey):
                found.setdefault(key, one)
        return found

    @property
    def digest(self) -> str:
        """Of the whole schedule: two runs with the same digest were the same run."""
        hasher = hashlib.sha256()
        for line in self.lines:
            hasher.update(f"{line.at!r} {line.who} {line.what} {line.about}\n".encode())
        for one in self.written:
            hasher.update(f"{one.at!r} {one.by} {one.key} {one.method} {one.sha256}\n".encode())
        return hasher.hexdigest()
