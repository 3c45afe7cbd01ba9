"""An experiment in one line of a list: out of its board, or, once finished, out of the two ends of its journal."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.history import Entry
from wardround_messages import journal as facts
from wardround_messages.figures import Figures
from wardround_messages.names import Task

State = Literal["enrolling", "running", "paused", "finished", "failed", "aborted", "broken"]
STATES: tuple[State, ...] = ("enrolling", "running", "paused", "finished", "failed", "aborted", "broken")
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Summary:
    """`round` is that of the latest model, `value` what that model was worth by the manifest's `metric`, as far as it
    was measured. A `check` is a throwaway that only asks and tries, see `wardround check`. Of a journal that was broken
    from its first entry on, nothing else is known."""

    experiment: str
    state: State
    study: str | None = None
    requested_by: str | None = None
    round: int = 0
    rounds: int = 0
    started_at: datetime | None = None
    changed_at: datetime | None = None
    metric: str | None = None
    value: float | None = None
    reason: str = ""
    mode: Literal["train", "check"] = "train"

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed", "aborted")


def summary_of(board: ExperimentBoard) -> Summary | None:
    """None where nothing is known of the experiment."""
    history = board.history
    if history is None:
        return None if board.broken is None else Summary(board.experiment, "broken", reason=board.broken)
    best = history.manifest.model.best
    score = history.scores.get(history.latest_model)
    return Summary(
        experiment=board.experiment,
        state="broken" if board.broken is not None else "paused" if history.paused is not None else history.phase,
        study=history.manifest.study,
        requested_by=history.requested_by,
        round=max(history.latest_model, 0),
        rounds=history.rounds_planned,
        started_at=history.started_at,
        changed_at=history.changed_at,
        metric=None if best is None else best.metric,
        value=None if score is None else score.value,
        reason=board.broken or history.reason,
        mode=history.manifest.mode,
    )


def newest(boards: Iterable[ExperimentBoard], *, at_most: int) -> list[Summary]:
    """Those that go on, then those that ended; of each the one that changed last comes first. Checks are left out."""
    found = [summary for board in boards if (summary := summary_of(board)) is not None and summary.mode == "train"]
    found.sort(key=lambda each: (not each.ended, each.changed_at or LONG_AGO, each.experiment), reverse=True)
    return found[:at_most]


@dataclass(frozen=True, slots=True)
class Ends:
    """The first entry of a finished experiment's journal, and the last ones, oldest first, from the last model on."""

    experiment: str
    accepted: Entry
    last: Sequence[Entry]

    @property
    def round(self) -> int:
        return max(entry.fact.round for entry in self.last if isinstance(entry.fact, facts.ExperimentFinished))

    @property
    def summary(self) -> Summary:
        fact = self.accepted.fact
        assert isinstance(fact, facts.ExperimentAccepted)  # noqa: S101 - no other is taken for the first
        best = fact.manifest.model.best
        measured = [
            entry.fact.received.get(best.metric)
            for entry in self.last
            if best is not None and isinstance(entry.fact, facts.StepClosed) and entry.fact.task is Task.EVALUATE
        ]
        return Summary(
            experiment=self.experiment,
            state="finished",
            study=fact.manifest.study,
            requested_by=fact.requested_by,
            round=self.round,
            rounds=max(self.round, fact.manifest.rounds.count),
            started_at=self.accepted.at,
            changed_at=self.last[-1].at,
            metric=None if best is None else best.metric,
            value=next((value for value in measured if value is not None), None),
            mode=fact.manifest.mode,
        )

    def written(self, figures: Figures, rounds: Collection[int]) -> bool:
        """Whether the figures of the last round, and the `rounds` there are figures of, tell all of it."""
        closed = {step.task: step.closed_at for step in figures.steps}
        for entry in self.last:
            match entry.fact:
                case facts.StepClosed() as fact if fact.round != self.round or closed.get(fact.task) != entry.at:
                    return False
                case facts.ModelAdopted() if figures.model is None or figures.model.adopted_at != entry.at:
                    return False
                case facts.AnswersLate():
                    return False
        return set(rounds) >= set(range(self.round + 1))
