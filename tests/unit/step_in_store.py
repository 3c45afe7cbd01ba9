"""A closed step in a store, as the coordinator and the sites leave it, for tests of the aggregator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from safetensors.numpy import save

from wardround.runtime.journal import Journal, Stored
from wardround.runtime.store.port import ObjectStore
from wardround.runtime.store.transfer import read_model
from wardround_messages.base import digest
from wardround_messages.commands import AggregateStep
from wardround_messages.journal import ExperimentAccepted, Fact, QuorumReached, StepClosed, StepOpened
from wardround_messages.manifest import Cohort, Manifest, Rounds, Strategy, Training
from wardround_messages.names import GlobalKey, ResultKey, Task, UpdateKey, bucket_of
from wardround_messages.objects import RESULT_AT_MOST, Result
from wardround_messages.parts import Member, ObjectRef

EXPERIMENT = "glioma-1"
BUCKET = bucket_of(EXPERIMENT)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def noon() -> datetime:
    return NOON


def model(**tensors: Any) -> bytes:
    """A safetensors file; lists are float32, `__` in a name stands for a dot."""
    return save(
        {
            name.replace("__", "."): value if isinstance(value, np.ndarray) else np.array(value, np.float32)
            for name, value in tensors.items()
        }
    )


async def write(journal: Journal, body: Fact) -> Stored:
    """Append a fact to the journal."""
    return await journal.append(journal.draft(body))


@dataclass
class StepInStore:
    """Set it up, `write` it, hand the command to an aggregator. `updates` is what lies in the store for each site."""

    store: ObjectStore
    updates: Mapping[str, bytes]
    base: bytes | None = None
    cases: Mapping[str, int | None] = field(default_factory=dict)
    quorum: int = 1
    weight: Any = "cases"
    norm_at_most: float | None = None
    optimizer_state: Any = "reset"
    round: int = 1
    between: tuple[Fact, ...] = ()
    announced: Mapping[str, ObjectRef] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return Task.INITIALISE if self.base is None else Task.TRAIN

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            id=EXPERIMENT,
            study="glioma",
            purpose="Known by heart",
            cohort=Cohort(sites=("clinic-1", "clinic-2", "clinic-3", "clinic-4"), quorum=1),
            rounds=Rounds(count=5),
            strategy=Strategy(weight=self.weight, norm_at_most=self.norm_at_most),
            training=Training(trainer="adding", dataset="counting", optimizer_state=self.optimizer_state),
        )

    def ref(self, site: str) -> ObjectRef:
        sha256 = digest(self.updates[site])
        key = str(UpdateKey(self.round, site, sha256[:16]))
        return ObjectRef(key=key, size=len(self.updates[site]), sha256=sha256)

    def base_ref(self) -> ObjectRef | None:
        if self.base is None:
            return None
        sha256 = digest(self.base)
        key = str(GlobalKey(max(self.round - 1, 0), sha256[:16]))
        return ObjectRef(key=key, size=len(self.base), sha256=sha256)

    async def write(self) -> AggregateStep:
        """Put everything into the store; a further call opens and closes another step."""
        await self.store.make_bucket(BUCKET)
        base = self.base_ref()
        if base is not None and self.base is not None:
            await self.store.put(BUCKET, base.key, self.base)
        for site, update in self.updates.items():
            await self.store.put(BUCKET, self.ref(site).key, update)
        members = tuple(
            Member(
                site=site,
                attempt=1,
                answer_sha256="0" * 64,
                cases=self.cases.get(site, 1),
                update=self.announced.get(site) or self.ref(site),
            )
            for site in self.updates
        )
        journal = Journal(self.store, EXPERIMENT, writer="test", clock=noon)
        if not await journal.read_on():
            manifest = self.manifest
            await write(
                journal,
                ExperimentAccepted(manifest=manifest, manifest_sha256=manifest.sha256, requested_by="researcher-a"),
            )
        sites = tuple(sorted(self.updates))
        await write(
            journal, StepOpened(round=self.round, task=self.task, asked=sites, quorum=self.quorum, built_on=base)
        )
        await write(journal, QuorumReached(round=self.round, task=self.task, done=sites))
        for fact in self.between:
            await write(journal, fact)
        closing = await write(
            journal,
            StepClosed(round=self.round, task=self.task, why="complete", quorum_met=True, members=members, others=()),
        )
        return AggregateStep(
            experiment=EXPERIMENT,
            round=self.round,
            task=self.task,
            closing=closing.entry.number,
            closing_sha256=closing.entry.sha256,
        )

    async def result(self, command: AggregateStep) -> Result:
        return await read_model(self.store, BUCKET, str(ResultKey(command.closing)), Result, at_most=RESULT_AT_MOST)

    async def model(self, result: Result) -> bytes:
        """The merged model, proven to be the one that the result names."""
        assert result.model is not None
        data = await self.store.read(BUCKET, result.model.key)
        assert (len(data), digest(data)) == (result.model.size, result.model.sha256)
        return data
