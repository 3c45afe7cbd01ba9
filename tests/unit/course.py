"""An experiment's course without any I/O: a journal in a list, a store in dictionaries, a clock turned by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

from wardround.coordinator.commands import ExperimentCommand, Refusal, carry_out
from wardround.coordinator.decide import Observed, decide
from wardround.coordinator.due import due
from wardround.coordinator.evolve import evolve
from wardround.coordinator.state import State
from wardround.coordinator.steps import StoredAnswer
from wardround_messages import journal as facts
from wardround_messages.base import digest
from wardround_messages.commands import CancelTask, OfferExperiment, StartTask
from wardround_messages.journal import GENESIS, Fact, JournalEntry
from wardround_messages.manifest import Cohort, Evaluation, Manifest, ModelPlan, Rounds, Training
from wardround_messages.names import AnswerKey, ConsentKey, GlobalKey, Task, UpdateKey
from wardround_messages.objects import Answer, Consent, Result
from wardround_messages.parts import Failure, LeftOut, Measured, ObjectRef

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def manifest_of(sites: int = 3, *, quorum: Any = 2, count: int = 2, **parts: Any) -> Manifest:
    cohort = Cohort(
        sites=tuple(f"clinic-{number}" for number in range(1, sites + 1)),
        quorum=quorum,
        sample=parts.pop("sample", "all"),
    )
    rounds = Rounds(count=count, **parts.pop("rounds", {}))
    return Manifest(
        id="glioma-1",
        study="glioma",
        purpose="",
        seed=7,
        cohort=cohort,
        rounds=rounds,
        model=parts.pop("model", ModelPlan()),
        training=Training(trainer="adding", dataset="counting"),
        evaluation=parts.pop("evaluation", Evaluation(final=False)),
        **parts,
    )


def model_ref(round_: int, salt: str = "") -> ObjectRef:
    sha256 = digest(f"model {round_} {salt}".encode())
    return ObjectRef(key=str(GlobalKey(round_, sha256[:16])), size=100, sha256=sha256)


class Course:
    """Drives the pure core as the shell does: decide, append, fold, until nothing more is to be written."""

    def __init__(self, manifest: Manifest | None = None, *, initial: ObjectRef | None = None) -> None:
        self.manifest = manifest or manifest_of()
        self.now = BEGIN
        self.entries: list[JournalEntry] = []
        self.answers: dict[AnswerKey, StoredAnswer] = {}
        self.consents: list[tuple[str, Consent]] = []
        self.result: Result | None = None
        self.state: State | None = None
        accepted = facts.ExperimentAccepted(
            manifest=self.manifest, manifest_sha256=self.manifest.sha256, requested_by="researcher-a", initial=initial
        )
        self.append(accepted, "start-1")

    @property
    def known(self) -> State:
        assert self.state is not None
        return self.state

    @property
    def observed(self) -> Observed:
        return Observed(tuple(self.consents), dict(self.answers), self.result)

    def append(self, body: Fact, cause: str = "") -> None:
        entry = JournalEntry.seal(
            experiment=self.manifest.id,
            number=len(self.entries),
            at=self.now,
            writer="course",
            cause=cause,
            previous=self.entries[-1].sha256 if self.entries else GENESIS,
            body=body,
        )
        self.state = evolve(self.state, entry)
        self.entries.append(entry)

    def settle(self) -> list[Fact]:
        """Write all that follows; returns the bodies written."""
        written: list[Fact] = []
        while proposals := decide(self.known, self.observed, self.now):
            for proposed in proposals:
                self.append(proposed.body, proposed.cause)
                written.append(proposed.body)
            assert len(written) < 300, "decide never comes to rest"
        return written

    def wait(self, **duration: float) -> list[Fact]:
        self.now += timedelta(**duration)
        return self.settle()

    def order(self, command: ExperimentCommand, command_id: str = "order-1") -> Refusal | list[Fact]:
        led_to = carry_out(self.known, command, command_id, self.answers)
        if isinstance(led_to, Refusal):
            return led_to
        for proposed in led_to:
            self.append(proposed.body, proposed.cause)
        return [proposed.body for proposed in led_to] + self.settle()

    # --- what others do ----------------------------------------------------------------------------------------------

    def consent(self, site: str, verdict: Any = "granted", *, rounds: int | None = None) -> list[Fact]:
        known = self.known.sites[site]
        number = 1 + max([known.consent, *(c.number for _, c in self.consents if c.site == site)])
        consent = Consent(
            experiment=self.manifest.id,
            site=site,
            manifest_sha256=self.manifest.sha256,
            number=number,
            offer=self.known.offered,
            verdict=verdict,
            rounds=rounds or self.known.rounds,
            code="policy",
            at=self.now,
        )
        self.consents.append((str(ConsentKey(site, self.manifest.sha256[:16], number)), consent))
        return self.settle()

    def enrol(self) -> list[Fact]:
        for site in self.known.sites:
            self.consent(site)
        return self.settle()

    def answer(
        self,
        site: str,
        outcome: Any = "done",
        *,
        attempt: int = 1,
        step: tuple[int, Task] | None = None,
        settle: bool = True,
        **changes: Any,
    ) -> list[Fact]:
        if step is None:
            assert self.known.step is not None
            step = self.known.step.name
        round_, task = step
        built_on = self.known.models[round_ - 1] if task is Task.TRAIN else None
        if task in (Task.EVALUATE, Task.TEST):
            built_on = self.known.models[round_]
        sha256 = digest(f"{round_} {site} {attempt}".encode())
        fields: dict[str, Any] = {
            "experiment": self.manifest.id,
            "round": round_,
            "task": task,
            "site": site,
            "attempt": attempt,
            "manifest_sha256": self.manifest.sha256,
            "outcome": outcome,
            "built_on": built_on.sha256 if built_on else None,
            "at": self.now,
        }
        if outcome != "done":
            fields["failure"] = Failure(phase="training", code="trainer_error")
        elif task in (Task.TRAIN, Task.INITIALISE):
            key = str(UpdateKey(round_, site, sha256[:16]))
            fields |= {"cases": 10, "update": ObjectRef(key=key, size=10, sha256=sha256)}
        if outcome == "done" and task is not Task.INITIALISE:
            fields["received"] = Measured(cases=4, values={"loss": 0.5})
        answer = Answer(**(fields | changes))
        self.answers[AnswerKey(round_, task, site, attempt)] = StoredAnswer(digest(repr(answer).encode()), answer)
        return self.settle() if settle else []

    def aggregate(self, *, left_out: tuple[str, ...] = (), settle: bool = True) -> list[Fact]:
        """The aggregator answers the closing entry; a model comes out where the quorum is left."""
        step = self.known.step
        assert step is not None
        assert step.closing is not None
        members = [member.site for member in step.closing.members]
        used = tuple(site for site in members if site not in left_out)
        self.result = Result(
            experiment=self.manifest.id,
            round=step.round,
            task=step.task,
            closing=step.closing.number,
            closing_sha256=step.closing.sha256,
            model=model_ref(step.round) if len(used) >= step.quorum else None,
            used=used,
            left_out=tuple(LeftOut(site=site, code="digest") for site in members if site in left_out),
        )
        return self.settle() if settle else []

    def all_done(self) -> list[Fact]:
        """Every site asked answers `done` with the attempt it was asked for; the aggregator follows."""
        written: list[Fact] = []
        for task in self.asked():
            self.answer(task.site, attempt=task.attempt, settle=False)
        written += self.settle()
        if self.known.step is not None and self.known.step.closing is not None:
            written += self.aggregate()
        return written

    def to_training(self) -> None:
        """Enrolled, first model made, round 1 open."""
        self.enrol()
        self.all_done()
        assert self.known.step is not None
        assert self.known.step.name == (1, Task.TRAIN)

    # --- what is said ------------------------------------------------------------------------------------------------

    def asked(self) -> list[StartTask]:
        return [command for command in due(self.known, self.answers) if isinstance(command, StartTask)]

    def offered(self) -> list[str]:
        return [command.site for command in due(self.known, self.answers) if isinstance(command, OfferExperiment)]

    def cancelled(self) -> list[CancelTask]:
        return [command for command in due(self.known, self.answers) if isinstance(command, CancelTask)]

    def kinds(self) -> list[str]:
        return [type(entry.body).__name__ for entry in self.entries]


def only(bodies: list[Fact], kind: type[Fact]) -> Any:
    """The one body of that kind."""
    (found,) = [body for body in bodies if isinstance(body, kind)]
    return found
