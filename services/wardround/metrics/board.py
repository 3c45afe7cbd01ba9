"""The board: of each experiment the history, the figures, the tasks at work, the log.

Journal entries are folded in by their number, whatever the order they come in: a later one waits, and `missing` says
that the journal has to be read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from wardround.metrics import live
from wardround.metrics.evolve import evolve
from wardround.metrics.figures import worth_keeping
from wardround.metrics.history import Entry, History
from wardround.metrics.lines import Line, answered_line, entry_line, refused_line
from wardround.metrics.view import ExperimentView
from wardround.metrics.viewing import view_of
from wardround_messages.events import EntryRecorded, OfTask, Refused, SiteSeen, TaskAnswered
from wardround_messages.figures import Figures
from wardround_messages.objects import Answer

LINES_KEPT = 50


@dataclass(frozen=True, slots=True)
class ExperimentBoard:
    """What is known of one experiment.

    `waiting` holds entries heard of ahead of their turn, `heard_of` the highest number heard of, `unwritten` the
    rounds whose figures changed since they were kept. `broken` says why its journal cannot be followed any further.
    """

    experiment: str
    history: History | None = None
    waiting: Mapping[int, Entry] = field(default_factory=dict)
    heard_of: int = -1
    unwritten: frozenset[int] = frozenset()
    figures: Mapping[int, Figures] = field(default_factory=dict)
    tasks: live.Tasks = field(default_factory=dict)
    seen: Mapping[str, datetime] = field(default_factory=dict)
    log: tuple[Line, ...] = ()
    broken: str | None = None

    @property
    def next(self) -> int:
        return 0 if self.history is None else self.history.next

    @property
    def missing(self) -> bool:
        """An entry was heard of that is not here: the journal has it."""
        return self.next <= self.heard_of

    @property
    def ended(self) -> bool:
        return self.history is not None and self.history.ended

    def recorded(self, entries: Iterable[Entry]) -> "ExperimentBoard":
        """With the entries folded in as far as there is no gap; those known already change nothing.

        Raises:
            IllegalEntryError: an entry cannot follow the ones before it.
        """
        waiting = dict(self.waiting) | {entry.number: entry for entry in entries if entry.number >= self.next}
        history, log = self.history, list(self.log)
        while (entry := waiting.pop(0 if history is None else history.next, None)) is not None:
            history = evolve(history, entry)
            if (line := entry_line(history, entry)) is not None:
                log.append(line)
        return replace(
            self,
            history=history,
            waiting=waiting,
            heard_of=max(self.heard_of, *waiting, -1),
            unwritten=self.unwritten | _changed(self.history, history),
            log=tuple(log[-LINES_KEPT:]),
        )

    def heard(self, event: EntryRecorded) -> "ExperimentBoard":
        """With an event of the journal; one without its body leaves a gap for the journal to fill.

        Raises:
            IllegalEntryError: the entry cannot follow the ones before it.
        """
        if self.broken is not None:
            return self
        entries = () if event.body is None else (Entry(event.number, event.at, event.body),)
        return replace(self, heard_of=max(self.heard_of, event.number)).recorded(entries)

    def said(self, message: OfTask, at: datetime, answer: Answer | None = None) -> "ExperimentBoard":
        """With what a site said of its task, and the answer itself where it was read."""
        if self.history is None or message.site not in self.history.sites:
            return self
        seen = _later(self.seen, message.site, at)
        tasks = live.heard(self.tasks, message, at)
        if tasks is self.tasks:
            return replace(self, seen=seen)
        log = self.log
        if isinstance(message, TaskAnswered):
            log = (*log, answered_line(message, answer, at))[-LINES_KEPT:]
        if answer is not None:
            tasks = live.answered(tasks, answer)
        return replace(self, tasks=tasks, log=log, seen=seen)

    def in_hand(self, seen: SiteSeen, at: datetime) -> "ExperimentBoard":
        """With a site's list of what it does."""
        if self.history is None or seen.site not in self.history.sites:
            return self
        return replace(self, tasks=live.in_hand(self.tasks, seen, self.experiment, at))

    def refused(self, message: Refused, at: datetime) -> "ExperimentBoard":
        """With a command that was not carried out; the same refusal heard twice is one line."""
        line = refused_line(message, at)
        return self if line in self.log else replace(self, log=(*self.log, line)[-LINES_KEPT:])

    def kept(self, figures: Figures) -> "ExperimentBoard":
        """With the figures of a round as they are now stored."""
        return replace(
            self,
            figures={**self.figures, figures.round: figures},
            unwritten=self.unwritten - {figures.round},
        )

    def view(self, sites: Mapping[str, datetime]) -> ExperimentView | None:
        """A snapshot to show; None before the first entry. `sites` says when each site was last heard of at all."""
        if self.history is None:
            return None
        seen = dict(self.seen)
        for site, at in sites.items():
            seen = _later(seen, site, at)
        return view_of(self.history, self.figures, self.tasks, seen, self.log, self.broken)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a site last said of itself, and when."""

    said: SiteSeen
    at: datetime


class Board:
    """All experiments at hand. Of those that ended, the ones untouched for longest are let go: the store has it all."""

    def __init__(self, *, keep_ended: int = 100) -> None:
        self._keep_ended = max(keep_ended, 1)  # one that is read again on demand must stay to be shown
        self._experiments: dict[str, ExperimentBoard] = {}
        self._sites: dict[str, Sighting] = {}

    def __getitem__(self, experiment: str) -> ExperimentBoard:
        return self._experiments.get(experiment) or ExperimentBoard(experiment)

    def __setitem__(self, experiment: str, board: ExperimentBoard) -> None:
        self._experiments.pop(experiment, None)
        self._experiments[experiment] = board
        if board.ended:
            ended = [name for name, known in self._experiments.items() if known.ended and not known.unwritten]
            for name in ended[: max(len(ended) - self._keep_ended, 0)]:
                del self._experiments[name]

    def __contains__(self, experiment: str) -> bool:
        return experiment in self._experiments

    @property
    def running(self) -> tuple[str, ...]:
        """The experiments that go on."""
        return tuple(name for name, board in self._experiments.items() if not board.ended)

    @property
    def experiments(self) -> Mapping[str, ExperimentBoard]:
        """All that are at hand, by name."""
        return MappingProxyType(self._experiments)

    @property
    def sites(self) -> Mapping[str, Sighting]:
        """Every site that ever said what it has, by name: no more than the broker has logins for."""
        return MappingProxyType(self._sites)

    def experiment(self, name: str) -> ExperimentView | None:
        """A snapshot of the experiment to show; None while nothing is known of it."""
        return self[name].view({site: sighting.at for site, sighting in self._sites.items()})

    def seen(self, message: SiteSeen, at: datetime) -> None:
        """A site said what it has in hand."""
        known = self._sites.get(message.site)
        if known is None or at >= known.at:
            self._sites[message.site] = Sighting(message, at)
        for name in {task.experiment for task in message.tasks} & self._experiments.keys():
            self._experiments[name] = self._experiments[name].in_hand(message, at)


def _changed(before: History | None, after: History | None) -> frozenset[int]:
    """The rounds of which something settled has changed."""
    if after is None or before is after:
        return frozenset()
    known = {} if before is None else before.rounds
    return frozenset(
        number for number, round_ in after.rounds.items() if round_ is not known.get(number) and worth_keeping(round_)
    )


def _later(seen: Mapping[str, datetime], site: str, at: datetime) -> dict[str, datetime]:
    return {**seen, site: max(at, seen.get(site, at))}
