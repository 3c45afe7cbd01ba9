"""Whether a site's own log is what was written, by its chain and by what people outside the clinic hold of it."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from wardround.site_agent.audit.chain import ChainBrokenError, Line, chained
from wardround_messages.base import canonical_json, digest
from wardround_messages.objects import Answer, LogHead

ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What `source` says of the log: a line with this digest, and number, is in it, and after it the line of the
    answer with the digest `answer`."""

    source: str
    sha256: str | None = None
    number: int | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that is a chain from its first line on. `anchors` is how many were found in it."""

    lines: int
    head: LogHead | None
    first: datetime | None
    last: datetime | None
    anchors: int


def anchor_of(answer: Answer, source: str) -> Anchor:
    """The line that an answer anchors, and the answer itself."""
    head = answer.log
    return Anchor(
        source,
        sha256=None if head is None else head.sha256,
        number=None if head is None else head.number,
        answer=digest(canonical_json(answer)),
    )


def verify(lines: Iterable[Line], anchors: Collection[Anchor] = ()) -> Verified:
    """Read the whole log, in memory that grows with the anchors alone.

    Raises:
        ChainBrokenError: naming the first line that was changed, taken out, put in or moved, or that is missing.
    """
    heads = {anchor.sha256: anchor for anchor in anchors if anchor.sha256 is not None}
    numbers: defaultdict[int, list[Anchor]] = defaultdict(list)
    for anchor in anchors:
        if anchor.number is not None:
            numbers[anchor.number].append(anchor)
    answers = {anchor.answer: anchor for anchor in anchors if anchor.answer is not None}
    first, last = None, None
    for line in chained(lines, {sha256: anchor.number for sha256, anchor in heads.items()}):
        first, last = first or line, line
        for anchor in numbers.pop(line.number, ()):
            if anchor.sha256 != line.sha256:
                raise ChainBrokenError(line.position, f"was changed: {anchor.source} gives another digest for it")
        heads.pop(line.sha256, None)
        _find_answer(answers, line)
    _check_all_found(heads.values(), answers.values(), last)
    return Verified(
        lines=0 if last is None else last.number,
        head=None if last is None else last.head,
        first=None if first is None else first.at,
        last=None if last is None else last.at,
        anchors=len(anchors),
    )


def _find_answer(answers: dict[str, Anchor], line: Line) -> None:
    named = line.facts.get("sha256")
    if line.what != ANSWER or not isinstance(named, str):
        return
    anchor = answers.get(named)
    if anchor is not None and line.number > (anchor.number or 0):
        del answers[named]


def _check_all_found(heads: Collection[Anchor], answers: Collection[Anchor], last: Line | None) -> None:
    position = 0 if last is None else last.position
    for anchor in heads:
        if anchor.number is not None:
            raise ChainBrokenError(
                position + 1, f"is missing: {anchor.source} knows line number {anchor.number}, so the end was cut off"
            )
        raise ChainBrokenError(
            position, f"is the last, and none has the digest that {anchor.source} gives: the end was cut off or changed"
        )
    for anchor in answers:
        raise ChainBrokenError(
            position + 1,
            f"is missing: no line tells of {anchor.source}, so the end was cut off, or it is of another log",
        )
