"""What a run comes to in numbers, and many runs together."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wardround.simulation.faults.evidence import Evidence, evidence_of
from wardround.simulation.faults.history import Injected
from wardround.simulation.faults.life import delays
from wardround.simulation.faults.run import Outcome
from wardround_messages.journal import StepOpened
from wardround_messages.names import AnswerKey, ResultKey, Task, parse_key

RECOVERS_FROM = frozenset(
    {
        "kill",
        "killed",
        "rebooted",
        "frozen",
        "cut off",
        "mute",
        "deaf",
        "disk full",
        "store away",
        "broker away",
        "broker wiped",
    }
)


@dataclass(slots=True)
class Figures:
    """Of one run or many. A site-round is one site in one round of training.

    `recoveries` gives for each kind of fault the virtual seconds from when it was undone until the next entry, answer
    or result was stored; `delays` how late awaited objects were noticed where every announcement was lost.
    """

    runs: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    attempted: int = 0
    acknowledged: int = 0
    counted: int = 0
    lost: int = 0
    counted_twice: int = 0
    unexpected: int = 0
    trainings: int = 0
    wasted: int = 0
    refused_appends: int = 0
    calls: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    delays: list[float] = field(default_factory=list)

    def add(self, other: "Figures") -> None:
        for name in (
            "runs",
            "attempted",
            "acknowledged",
            "counted",
            "lost",
            "counted_twice",
            "unexpected",
            "trainings",
            "wasted",
            "refused_appends",
            "calls",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.injected += other.injected
        self.delays += other.delays
        for kind, seconds in other.recoveries.items():
            self.recoveries[kind] += seconds


def figures_of(outcome: Outcome, violations: Sequence[object]) -> Figures:
    evidence = evidence_of(outcome)
    history = outcome.history
    asked = {
        (body.round, site)
        for one in evidence.recorded
        if isinstance(body := one.entry.body, StepOpened) and body.task is Task.TRAIN
        for site in body.asked
    }
    done = {
        (key.round, key.site)
        for key in evidence.answers
        if key.task is Task.TRAIN and (answer := evidence.answer(key)) is not None and answer.outcome == "done"
    }
    counted = [
        (adopted.round, site)
        for _, adopted, closed in evidence.adoptions
        if closed.task is Task.TRAIN
        for site in adopted.used
    ]
    promises = Counter(str(violation).partition(":")[0] for violation in violations)
    silent = outcome.schedule is not None and outcome.schedule.profile == "silence"
    return Figures(
        runs=1,
        injected=Counter(fault.kind for fault in history.injected),
        attempted=len(asked),
        acknowledged=len(done),
        counted=len(set(counted)),
        lost=promises["P5"],
        counted_twice=len(counted) - len(set(counted)),
        unexpected=promises["P3"],
        trainings=len(history.trainings),
        wasted=len(history.trainings) - _trainings_of_use(evidence),
        refused_appends=sum(line.what == "412" and line.about.startswith("journal/") for line in history.lines),
        calls=sum(line.what.startswith(("bus.", "store.", "scheduler.")) for line in history.lines),
        recoveries=_recoveries(outcome),
        delays=list(delays(evidence)) if silent else [],
    )


def _trainings_of_use(evidence: Evidence) -> int:
    """Those that led to an answer that was counted."""
    return sum(len(closed.members) for _, closed in evidence.closings)


def recoveries(outcome: Outcome) -> Iterator[tuple[Injected, float]]:
    """For each fault after which something went on: the seconds from when it was undone until then."""
    progress = [one.at for one in outcome.history.written if _is_progress(one.key)]
    for fault in outcome.history.injected:
        over = _undone(outcome, fault)
        after = next((at for at in progress if at >= over), None)
        if after is not None:
            yield fault, after - over


def _recoveries(outcome: Outcome) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for fault, seconds in recoveries(outcome):
        if fault.kind in RECOVERS_FROM:
            found[fault.kind].append(seconds)
    return found


def _undone(outcome: Outcome, fault: Injected) -> float:
    """When the fault was undone: what was killed was started again, and what lasted was put right at the latest with
    all else."""
    if fault.over is not None:
        return min(fault.over, outcome.history.faults_over)
    starts = (line.at for line in outcome.history.lines if (line.who, line.what) == (fault.target, "started"))
    return next((at for at in starts if at >= fault.at), fault.at)


def _is_progress(key: str) -> bool:
    return key.startswith("journal/") or isinstance(parse_key(key), AnswerKey | ResultKey)
