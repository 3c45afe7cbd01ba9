"""A site's own log for people: as a table, and in words what left the clinic."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wardround.site_agent.audit.chain import Line
from wardround_messages.base import canonical_bytes

COLUMNS = (
    *("line", "number", "at", "what", "experiment", "study", "requested_by", "task", "dataset"),
    *("rule", "verdict", "outcome", "code", "reason", "action", "by", "rounds"),
    *("trainer", "trainer_version", "trainer_sha256", "manifest_sha256", "key", "size", "sha256"),
    *("cases", "cases_used", "cases_sha256", "trained", "received", "metrics"),
    *("more", "previous", "line_sha256"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes spreadsheets compute a cell
UNREADABLE = "unreadable"

LEFT = {
    "consent": "the clinic's word",
    "update": "the weights",
    "answer": "the answer",
    "metrics": "reports during the training",
}
TASKS_AT_MOST = 1000  # whose reports are counted at a time


def row(line: Line) -> tuple[str, ...]:
    """The cells of a line, in the order of `COLUMNS`; `more` holds as JSON what has no column."""
    if line.fault:
        found: dict[str, Any] = {"what": UNREADABLE, "reason": line.fault}
    else:
        found = dict(line.facts)
        more = {name: found.pop(name) for name in sorted(found.keys() - set(COLUMNS))}
        found |= {"number": line.number, "at": line.at, "what": line.what, "previous": line.previous}
        found["more"] = more or None
    found |= {"line": line.position, "line_sha256": line.sha256}
    return tuple(_cell(found.get(name)) for name in COLUMNS)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return f"'{value}" if value.startswith(FORMULA) or value.lstrip().startswith(FORMULA) else value
        case datetime():
            return value.isoformat()
        case dict() | list():
            return canonical_bytes(value).decode()
    return str(value)


@dataclass(frozen=True, slots=True)
class Span:
    """Which lines are asked for: from `since` on, before `until`, of one experiment or of all."""

    since: datetime
    until: datetime | None = None
    experiment: str | None = None

    def holds(self, line: Line) -> bool:
        return (
            line.at is not None
            and self.since <= line.at
            and (self.until is None or line.at < self.until)
            and self.experiment in (None, line.facts.get("experiment"))
        )


def what_left(lines: Iterable[Line], span: Span) -> Iterator[Line]:
    """The lines that tell of something that left the clinic."""
    return (line for line in lines if line.what in LEFT and span.holds(line))


def as_object(line: Line) -> dict[str, Any]:
    """What the line tells, without the chain."""
    at = None if line.at is None else line.at.isoformat()
    return {"number": line.number, "at": at, "what": line.what, **line.facts}


@dataclass(slots=True)
class Totals:
    """How many of each left, and how many bytes."""

    numbers: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    def count(self, line: Line) -> None:
        self.numbers[line.what] += 1
        size = line.facts.get("size")
        self.sizes[line.what] += size if isinstance(size, int) else 0

    def as_object(self) -> dict[str, dict[str, int]]:
        return {what: {"count": self.numbers[what], "bytes": self.sizes[what]} for what in LEFT}

    def as_text(self) -> str:
        return "; ".join(f"{what}: {self.numbers[what]:,} ({self.sizes[what]:,} bytes)" for what in LEFT)


def in_words(lines: Iterable[Line], totals: Totals) -> Iterator[str]:
    """A paragraph for each thing that left, the reports of a training together in one; `totals` counts them all."""
    reports: dict[str, _Reports] = {}
    for line in lines:
        totals.count(line)
        task = str(line.facts.get("task", ""))
        if line.what == "metrics":
            reports.setdefault(task, _Reports(line)).add(line)
            if len(reports) > TASKS_AT_MOST:
                yield reports.pop(next(iter(reports))).in_words()
            continue
        if line.what == "answer" and task in reports:
            yield reports.pop(task).in_words()
        yield _paragraph(line, _time(line), LEFT[line.what], _object(line))
    for told in reports.values():
        yield told.in_words()


class _Reports:
    """The reports during one training."""

    def __init__(self, first: Line) -> None:
        self._first = self._last = first
        self._count = 0
        self._names: set[str] = set()

    def add(self, line: Line) -> None:
        self._last = line
        self._count += 1
        self._names |= _names(line.facts.get("metrics"))
        self._names |= {name for name in ("progress", "epoch", "step") if name in line.facts}

    def in_words(self) -> str:
        time = f"{_time(self._first)} to {_time(self._last)}"
        names = ", ".join(sorted(self._names)) or "no figure"
        return _paragraph(self._first, time, f"{LEFT['metrics']}: {self._count:,}", [f"with {names}"])


def _paragraph(line: Line, time: str, thing: str, about: list[str]) -> str:
    facts = line.facts
    whom = f"study '{facts.get('study', '?')}'; asked by {facts.get('requested_by', '?')}"
    rule = f"allowed by rule '{facts['rule']}'" if "rule" in facts else "no rule of the policy"
    return "\n  ".join(
        [
            f"{time}  {thing}, for {facts.get('task') or facts.get('experiment', '?')}",
            f"{whom}; {rule if _said_yes(facts) else 'it is a no' + _by_rule(facts)}",
            *about,
        ]
    )


def _said_yes(facts: Mapping[str, Any]) -> bool:
    return facts.get("verdict") not in ("declined", "withdrawn") and facts.get("outcome") != "refused"


def _by_rule(facts: Mapping[str, Any]) -> str:
    return f" by rule '{facts['rule']}'" if "rule" in facts else ""


def _object(line: Line) -> list[str]:
    facts = line.facts
    said = " ".join(str(facts[name]) for name in ("verdict", "outcome", "code", "reason") if name in facts)
    return [
        *([said] if said else []),
        *_figures(facts),
        f"{facts.get('size', '?')} bytes: {facts.get('key', '?')}",
        f"sha256 {facts.get('sha256', '?')}",
    ]


def _figures(facts: Mapping[str, Any]) -> list[str]:
    parts = []
    if "cases_used" in facts:
        cases = facts.get("cases")
        parts.append(f"cases used: {facts['cases_used']}" + ("" if cases is None else f"; this number left: {cases}"))
    if trained := facts.get("trained"):
        parts.append(f"figures of the training: {_listed(trained)}")
    if isinstance(received := facts.get("received"), dict):
        cases = received.get("cases")
        on = "" if cases is None else f", on {cases} cases, a number that left"
        parts.append(f"figures of the model received{on}: {_listed(received.get('values'))}")
    return parts


def _listed(figures: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items()) if isinstance(figures, dict) else "?"


def _names(figures: Any) -> set[str]:
    return set(figures) if isinstance(figures, dict) else set()


def _time(line: Line) -> str:
    return "?" if line.at is None else f"{line.at:%Y-%m-%d %H:%M:%S}"
