"""What a report is made of: runs that were read, and what each is held against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wardround.metrics.history import History
from wardround_messages.figures import Figures
from wardround_messages.journal import JournalEntry
from wardround_messages.names import AnswerKey
from wardround_messages.parts import Failure, Trainer

Goal = Literal["min", "max"]


@dataclass(frozen=True, slots=True)
class RunRead:
    """One experiment as its store tells it.

    `head` is the journal's last entry. `trainers` says which sites ran which code, `failures` why an answer was none.
    """

    history: History
    figures: Mapping[int, Figures]
    head: JournalEntry
    trainers: Mapping[Trainer, frozenset[str]] = field(default_factory=dict)
    failures: Mapping[AnswerKey, Failure] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.history.manifest.seed


@dataclass(frozen=True, slots=True)
class Compared:
    """A federated run with the same training on pooled data, and at each site alone, where these exist."""

    run: RunRead
    pooled: RunRead | None = None
    alone: Mapping[str, RunRead] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """The sites whose data all say of themselves that they are synthetic; `all` where there is no other site.

    `words` are what one of the data sets says of itself, empty where it says no more than that.
    """

    sites: tuple[str, ...]
    all: bool
    words: str


@dataclass(frozen=True, slots=True)
class Material:
    """What the report is on, and the same with other seeds.

    `synthetic` is what is known of data that are made up, None where no site's say so of themselves. `declared` are the
    metrics that the trainer declares, with the way that each gets better; none where it is not installed.
    """

    main: Compared
    seeds: Mapping[int, Compared] = field(default_factory=dict)
    synthetic: Synthetic | None = None
    declared: Mapping[str, Goal] = field(default_factory=dict)

    @property
    def by_seed(self) -> Mapping[int, Compared]:
        """Every comparison once, by its seed; what lies with the seeds comes before the main run of the same seed."""
        return dict(sorted({self.main.run.seed: self.main, **self.seeds}.items()))
