"""A made-up experiment, told fact by fact: its journal, its objects, the events that go with them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.history import Entry
from wardround.runtime.store.port import ObjectStore
from wardround_messages import journal as facts
from wardround_messages.base import canonical_json, digest
from wardround_messages.events import (
    EntryRecorded,
    MetricsReported,
    Progress,
    TaskAccepted,
    TaskAnswered,
    TaskStarted,
    TransferReported,
)
from wardround_messages.figures import Figures
from wardround_messages.journal import GENESIS, Fact, JournalEntry
from wardround_messages.manifest import Best, Cohort, CommonTest, Evaluation, Manifest, ModelPlan, Rounds, Training
from wardround_messages.names import AnswerKey, GlobalKey, JournalKey, ResultKey, Task, UpdateKey, bucket_of
from wardround_messages.objects import Answer, Result
from wardround_messages.parts import Failure, LeftOut, Measured, Member, NotCounted, ObjectRef

START = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
SITES = ("clinic-1", "clinic-2", "clinic-3")


def manifest(experiment: str = "brain-tumour", rounds: int = 10, quorum: int = 2) -> Manifest:
    return Manifest(
        id=experiment,
        study="glioma",
        purpose="Segment oedema, core and enhancing tumour",
        cohort=Cohort(sites=SITES, quorum=quorum),
        rounds=Rounds(count=rounds, deadline=6000, grace=600),
        model=ModelPlan(best=Best(metric="dice/mean", goal="max")),
        training=Training(trainer="brain-tumour-unet", dataset="brain-mri", epochs=4),
        evaluation=Evaluation(test=CommonTest(site="clinic-1", dataset="brain-mri-test")),
    )


def model_ref(round_: int) -> ObjectRef:
    sha256 = digest(f"model {round_}".encode())
    return ObjectRef(key=str(GlobalKey(round_, sha256[:16])), size=4_800_000, sha256=sha256)


def update_ref(round_: int, site: str) -> ObjectRef:
    sha256 = digest(f"update {round_} {site}".encode())
    return ObjectRef(key=str(UpdateKey(round_, site, sha256[:16])), size=4_800_000, sha256=sha256)


class Story:
    """Tells an experiment minute by minute; `entries` and `objects` are what the store would hold."""

    def __init__(self, told: Manifest | None = None) -> None:
        self.manifest = told or manifest()
        self.now = START
        self.entries: list[JournalEntry] = []
        self.objects: dict[str, bytes] = {}
        self.write(
            facts.ExperimentAccepted(
                manifest=self.manifest, manifest_sha256=self.manifest.sha256, requested_by="researcher-a"
            )
        )

    # --- the journal -------------------------------------------------------------------------------------------

    def write(self, body: Fact, *, after: float = 60) -> JournalEntry:
        self.now += timedelta(seconds=after)
        entry = JournalEntry.seal(
            experiment=self.manifest.id,
            number=len(self.entries),
            at=self.now,
            writer="coordinator",
            cause="",
            previous=self.entries[-1].sha256 if self.entries else GENESIS,
            body=body,
        )
        self.entries.append(entry)
        self.objects[str(JournalKey(entry.number))] = canonical_json(entry)
        return entry

    def enrol(self, granted: Iterable[str] = SITES) -> None:
        granted = tuple(granted)
        for number, site in enumerate(SITES, 1):
            self.write(
                facts.SiteConsented(
                    site=site,
                    consent=number,
                    verdict="granted" if site in granted else "declined",
                    rounds=10,
                    offer=0,
                    code="allowed" if site in granted else "policy",
                    reason="" if site in granted else "no rule allows the study",
                )
            )
        self.write(facts.EnrolmentClosed(granted=granted, others=tuple(set(SITES) - set(granted))))

    def first_model(self) -> None:
        self.open(0, Task.INITIALISE, asked=("clinic-1",), quorum=1)
        self.answer(0, Task.INITIALISE, "clinic-1")
        self.close(0, Task.INITIALISE, members={"clinic-1": 1})
        self.adopt(0)

    def open(self, round_: int, task: Task = Task.TRAIN, asked: tuple[str, ...] = SITES, quorum: int = 2) -> None:
        base = None if task is Task.INITIALISE else model_ref(round_ - 1 if task is Task.TRAIN else round_)
        self.write(facts.StepOpened(round=round_, task=task, asked=asked, quorum=quorum, built_on=base))

    def close(
        self,
        round_: int,
        task: Task = Task.TRAIN,
        *,
        members: dict[str, int],
        others: tuple[NotCounted, ...] = (),
        why: str = "complete",
        received: dict[str, float | None] | None = None,
        quorum_met: bool = True,
    ) -> JournalEntry:
        named = [
            (site, attempt, self.objects[str(AnswerKey(round_, task, site, attempt))])
            for site, attempt in sorted(members.items())
        ]
        return self.write(
            facts.StepClosed.model_validate(
                {
                    "round": round_,
                    "task": task,
                    "why": why,
                    "quorum_met": quorum_met,
                    "members": tuple(
                        Member(
                            site=site,
                            attempt=attempt,
                            answer_sha256=digest(data),
                            cases=14,
                            update=update_ref(round_, site) if task in (Task.TRAIN, Task.INITIALISE) else None,
                        )
                        for site, attempt, data in named
                    ),
                    "others": others,
                    "received": received or {},
                }
            )
        )

    def adopt(self, round_: int, *, left_out: tuple[LeftOut, ...] = ()) -> None:
        closing = self.entries[-1]
        assert isinstance(closing.body, facts.StepClosed)
        used = tuple(m.site for m in closing.body.members if m.site not in {left.site for left in left_out})
        self.result(closing, round_, used, left_out)
        self.write(
            facts.ModelAdopted(
                round=round_, model=model_ref(round_), closing=closing.number, used=used, left_out=left_out
            ),
            after=0.2,
        )

    # --- what lies beside it -----------------------------------------------------------------------------------

    def answer(
        self,
        round_: int,
        task: Task,
        site: str,
        *,
        attempt: int = 1,
        outcome: str = "done",
        code: str = "trainer_error",
        dice: float | None = 0.7,
    ) -> Answer:
        done = outcome == "done"
        answer = Answer.model_validate(
            {
                "experiment": self.manifest.id,
                "round": round_,
                "task": task,
                "site": site,
                "attempt": attempt,
                "manifest_sha256": self.manifest.sha256,
                "outcome": outcome,
                "cases": 14 if done else None,
                "received": Measured(cases=4, values={"dice/mean": dice, "loss": 0.5})
                if done and task is not Task.INITIALISE
                else None,
                "trained": {"loss": 0.41} if done and task is Task.TRAIN else {},
                "update": update_ref(round_, site) if done and task in (Task.TRAIN, Task.INITIALISE) else None,
                "failure": None if done else Failure(phase="train", code=code),
                "seconds": {"training": 800.0, "received": 42.0} if done else {},
                "at": self.now,
            }
        )
        self.objects[str(AnswerKey(round_, task, site, attempt))] = canonical_json(answer)
        return answer

    def result(
        self, closing: JournalEntry, round_: int, used: tuple[str, ...], left_out: tuple[LeftOut, ...] = ()
    ) -> None:
        assert isinstance(closing.body, facts.StepClosed)
        result = Result(
            experiment=self.manifest.id,
            round=round_,
            task=closing.body.task,
            closing=closing.number,
            closing_sha256=closing.sha256,
            model=model_ref(round_),
            used=used,
            left_out=left_out,
            norms=dict.fromkeys(used, 1.5),
            drift=0.9,
        )
        self.objects[str(ResultKey(closing.number))] = canonical_json(result)

    # --- longer passages ---------------------------------------------------------------------------------------

    def round(self, round_: int, dice: float = 0.7) -> None:
        """A round in which everybody answers."""
        self.open(round_)
        for site in SITES:
            self.answer(round_, Task.TRAIN, site, dice=dice)
        self.close(round_, members=dict.fromkeys(SITES, 1), received={"dice/mean": dice, "loss": 0.5})
        self.adopt(round_)

    def finish(self, round_: int, dice: float = 0.8) -> None:
        for task, asked in ((Task.EVALUATE, SITES), (Task.TEST, ("clinic-1",))):
            self.open(round_, task, asked=asked, quorum=min(2, len(asked)))
            for site in asked:
                self.answer(round_, task, site, dice=dice)
            self.close(round_, task, members=dict.fromkeys(asked, 1), received={"dice/mean": dice, "loss": 0.3})
        self.write(facts.ExperimentFinished(round=round_, model=model_ref(round_)))

    @classmethod
    def whole(cls, rounds: int = 3, experiment: str = "brain-tumour") -> "Story":
        story = cls(manifest(experiment, rounds=rounds))
        story.enrol()
        story.first_model()
        for round_ in range(1, rounds + 1):
            story.round(round_, dice=0.6 + round_ / 100)
        story.finish(rounds)
        return story

    # --- as others see it --------------------------------------------------------------------------------------

    @property
    def bucket(self) -> str:
        return bucket_of(self.manifest.id)

    @property
    def events(self) -> list[EntryRecorded]:
        return [self.event(entry) for entry in self.entries]

    def event(self, entry: JournalEntry) -> EntryRecorded:
        data = canonical_json(entry)
        return EntryRecorded.of(entry, len(data), digest(data))

    async def lay(self, store: ObjectStore) -> None:
        """Put everything told so far into the store."""
        await store.make_bucket(self.bucket)
        for key, data in self.objects.items():
            await store.put(self.bucket, key, data)

    def board(self) -> ExperimentBoard:
        """The board of the whole story, all entries in order; figures are not made."""
        return ExperimentBoard(self.manifest.id).recorded(
            Entry(entry.number, entry.at, entry.body) for entry in self.entries
        )

    def accepted(self, round_: int, site: str, attempt: int = 1) -> TaskAccepted:
        return TaskAccepted(experiment=self.manifest.id, round=round_, task=Task.TRAIN, site=site, attempt=attempt)

    def started(self, round_: int, site: str, attempt: int = 1) -> TaskStarted:
        return TaskStarted(experiment=self.manifest.id, round=round_, task=Task.TRAIN, site=site, attempt=attempt)

    def reported(self, round_: int, site: str, done: int, of: int = 12, **metrics: float | None) -> MetricsReported:
        return MetricsReported(
            experiment=self.manifest.id,
            round=round_,
            task=Task.TRAIN,
            site=site,
            attempt=1,
            progress=Progress(phase="train", done=done, of=of),
            metrics=metrics,
            epoch=done // 3,
            step=done,
        )

    def moving(self, round_: int, site: str, done: int, of: int, **changes: Any) -> TransferReported:
        return TransferReported(
            experiment=self.manifest.id,
            round=round_,
            task=Task.TRAIN,
            site=site,
            attempt=1,
            **{"phase": "fetching", "done": done, "of": of, "per_second": 20, **changes},
        )

    def answered(
        self, round_: int, site: str, outcome: str = "done", attempt: int = 1, task: Task = Task.TRAIN
    ) -> TaskAnswered:
        return TaskAnswered.model_validate(
            {
                "experiment": self.manifest.id,
                "round": round_,
                "task": task,
                "site": site,
                "attempt": attempt,
                "outcome": outcome,
                "code": None if outcome == "done" else "policy",
                "update_size": 4_800_000 if outcome == "done" else None,
            }
        )


def row(figures: Figures, site: str, task: Task = Task.TRAIN):  # type: ignore[no-untyped-def]
    """One site's figures in one step."""
    step = next(step for step in figures.steps if step.task is task)
    return next(found for found in step.sites if found.site == site)
