"""One clinic and a hub that only speaks and listens: real bus, store and scheduler, a stub for the training."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.messaging import Messenger, Received
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import ObjectInfo, ObjectStore
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.port import Scheduler
from wardround.site_agent.settings import SiteSettings, load_site
from wardround_messages.base import canonical_json, digest
from wardround_messages.codec import parse
from wardround_messages.commands import CancelTask, OfferExperiment, StartTask
from wardround_messages.journal import GENESIS, ExperimentAccepted, JournalEntry
from wardround_messages.manifest import Cohort, CommonTest, Evaluation, Manifest, Rounds, Strategy, Training
from wardround_messages.messages import Message
from wardround_messages.names import AnswerKey, GlobalKey, JournalKey, Task, bucket_of, site_queue
from wardround_messages.objects import Answer, Consent
from wardround_messages.parts import Failure, Measured, ObjectRef, Trainer, TrainerDescription
from wardround_messages.task_folder import JOB, METRICS, MODEL, RESULT, UPDATE, Job, TaskResult
from wardround_messages.topology import topology

SITE = "clinic-1"
EXPERIMENT = "glioma-1"
BUCKET = bucket_of(EXPERIMENT)

ADDING = TrainerDescription(
    name="adding",
    version="1.0",
    code_sha256="a" * 64,
    parameters_schema={
        "type": "object",
        "properties": {"constant": {"type": "number"}},
        "additionalProperties": False,
    },
    metrics={"loss": "min"},
)

POLICY = """
schema = 1
[leave]
metrics = ["loss", "dice/*"]
[[allow]]
id           = "glioma"
study        = "glioma"
requested_by = ["researcher-a"]
trainers     = ["adding"]
datasets     = ["counting", "counting-test"]
at_most      = { rounds = 20, epochs = 8 }
at_least     = { cases = 10, sites = 2 }
"""


def tensors(**values: list[float]) -> bytes:
    """A safetensors file of F32 vectors."""
    header: dict[str, Any] = {}
    data = b""
    for name, numbers in values.items():
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def manifest_of(**parts: Any) -> Manifest:
    return Manifest(
        id=parts.pop("id", EXPERIMENT),
        study=parts.pop("study", "glioma"),
        purpose="",
        cohort=parts.pop("cohort", Cohort(sites=(SITE, "clinic-2"), quorum=1)),
        rounds=Rounds(count=5),
        training=Training(**({"trainer": "adding", "dataset": "counting"} | parts.pop("training", {}))),
        strategy=Strategy(weight=parts.pop("weight", "cases")),
        evaluation=parts.pop("evaluation", Evaluation(test=CommonTest(site=SITE, dataset="counting-test"))),
    )


class StubTraining:
    """Leaves a real result. `before` may do, raise or wait for what a test wants; `change` alters the result."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.jobs: list[Job] = []
        self.models: list[bytes | None] = []
        self.update = tensors(weight=[1.0, 2.0])
        self.change: dict[str, Any] = {}
        self.leaves_result = True
        self.before: Callable[[Path, Event], None] = lambda folder, cancelled: None

    def __call__(self, folder: Path, *, cancelled: Event) -> None:
        job = parse(Job, (folder / JOB).read_bytes(), at_most=2**20)
        self.trained.append(folder.name)
        self.jobs.append(job)
        model = folder / MODEL
        self.models.append(model.read_bytes() if model.exists() else None)
        self.before(folder, cancelled)
        if self.leaves_result:
            self._leave(folder, job)

    def _leave(self, folder: Path, job: Job) -> None:
        trains = job.task is Task.TRAIN
        if job.task in (Task.INITIALISE, Task.TRAIN):
            (folder / UPDATE).write_bytes(self.update)
        result = {
            "trainer": Trainer(name="adding", version="1.0", code_sha256="a" * 64),
            "cases": 14 if trains else 0,
            "received": None if job.task is Task.INITIALISE else Measured(cases=12, values={"loss": 0.5, "age": 61.0}),
            "trained": {"loss": 0.25, "weight/max": 7.0} if trains else {},
            "steps": 3,
        }
        (folder / METRICS).write_text('{"v":1,"t":1.0,"kind":"metric","name":"loss","value":0.25,"step":3}\n')
        (folder / RESULT).write_bytes(canonical_json(TaskResult.model_validate(result | self.change)))


def failing(code: str, phase: str = "data", text: str = "") -> dict[str, Any]:
    return {"failure": Failure(phase=phase, code=code, hint="see /data/patient-7"), "text": text}


class Clinic:
    """The site `clinic-1`, its agent, and what the hub sees of it."""

    def __init__(self, folder: Path, *, site: str = "", policy: str = POLICY, threads: bool = False) -> None:
        self.folder = folder
        self.settings = write_site(folder, site)
        self.policy = folder / "policy.toml"
        self.policy.write_text(policy)
        self.broker = MemoryBroker(topology((SITE, "clinic-2"), ("researcher-a",)))
        self.hub = Messenger(
            MemoryBus(self.broker, "coordinator"), service="coordinator", origin="hub", clock=wall_clock
        )
        self.store: ObjectStore = MemoryStore()
        self.training = StubTraining()
        self.scheduler: Scheduler = InlineScheduler(self.settings.paths.spool, self.training, threads=threads)
        self.trainers: tuple[TrainerDescription, ...] = (ADDING,)
        self.manifest = manifest_of()
        self.events: list[Message] = []
        self.model = tensors(weight=[0.0, 1.0])

    @property
    def model_ref(self) -> ObjectRef:
        sha256 = digest(self.model)
        return ObjectRef(key=str(GlobalKey(0, sha256[:16])), size=len(self.model), sha256=sha256)

    # --- the hub's part ----------------------------------------------------------------------------------------------

    async def open_experiment(self) -> None:
        """Make the bucket with the journal's first entry and the first model, and listen to what the site says."""
        await self.store.make_bucket(BUCKET)
        entry = JournalEntry.seal(
            experiment=EXPERIMENT,
            number=0,
            at=wall_clock(),
            writer="coordinator",
            cause="",
            previous=GENESIS,
            body=ExperimentAccepted(
                manifest=self.manifest, manifest_sha256=self.manifest.sha256, requested_by="researcher-a"
            ),
        )
        await self.store.create(BUCKET, str(JournalKey(0)), canonical_json(entry))
        await self.store.put(BUCKET, self.model_ref.key, self.model)
        ears = Messenger(MemoryBus(self.broker, "metrics"), service="metrics", origin="hub", clock=wall_clock)
        await ears.listen("wr.metrics", self._hear, offset="first")

    async def _hear(self, received: Received) -> None:
        self.events.append(received.message)

    def offer(self, **parts: Any) -> OfferExperiment:
        return OfferExperiment(
            **{
                "experiment": self.manifest.id,
                "site": SITE,
                "requested_by": "researcher-a",
                "manifest": self.manifest,
                "manifest_sha256": self.manifest.sha256,
                "rounds": 5,
                "offer": 0,
                **parts,
            }
        )

    def start(self, **parts: Any) -> StartTask:
        task = parts.get("task", Task.TRAIN)
        return StartTask(
            **{
                "experiment": self.manifest.id,
                "site": SITE,
                "round": 0 if task is Task.INITIALISE else 1,
                "task": task,
                "attempt": 1,
                "requested_by": "researcher-a",
                "manifest_sha256": self.manifest.sha256,
                "model": None if task in (Task.INITIALISE, Task.CHECK) else self.model_ref,
                "seed": 7,
                **parts,
            }
        )

    def cancel(self, start: StartTask, reason: str = "step_closed") -> CancelTask:
        return CancelTask.model_validate(
            {name: getattr(start, name) for name in ("experiment", "site", "round", "task", "attempt")}
            | {"reason": reason}
        )

    async def consent(self, number: int = 1) -> Consent:
        key = f"consent/{SITE}/{self.manifest.sha256[:16]}-{number:02d}.json"
        return parse(Consent, await self.stored(key), at_most=2**16)

    async def answer(self, start: StartTask) -> Answer:
        key = AnswerKey(start.round, start.task, SITE, start.attempt)
        return parse(Answer, await self.stored(str(key)), at_most=2**16)

    async def stored(self, key: str, within: float = 5) -> bytes:
        """The object, as soon as it is there."""
        await eventually(lambda: self.has(key), within)
        return await self.store.read(BUCKET, key)

    async def has(self, key: str) -> bool:
        return any(info.key == key for info in await self.objects(key))

    async def objects(self, prefix: str = "") -> tuple[ObjectInfo, ...]:
        return await self.store.list(BUCKET, prefix)

    async def enrol(self) -> Consent:
        await self.hub.send(self.offer())
        return await self.consent()

    def of_type(self, kind: type[Message]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def said(self, kind: type[Message], within: float = 5) -> Any:
        """The first event of that type."""

        async def heard() -> bool:
            return bool(self.of_type(kind))

        await eventually(heard, within)
        return self.of_type(kind)[0]

    async def dead_letters(self, count: int = 1) -> list[str]:
        """The reasons of the dead letters, when there are so many."""

        async def enough() -> bool:
            return len(self.broker.dead_letters()) >= count

        await eventually(enough)
        return [letter.reason for letter in self.broker.dead_letters()]

    async def all_handled(self) -> None:
        """Return when the site's queue is empty."""

        async def empty() -> bool:
            return self.broker.depth(site_queue(SITE)) == 0

        await eventually(empty)

    # --- the agent ---------------------------------------------------------------------------------------------------

    def agent(self, bus: MemoryBus | None = None, **parts: Any) -> SiteAgent:
        return SiteAgent(
            parts.pop("settings", self.settings),
            self.policy,
            bus=bus or MemoryBus(self.broker, SITE),
            store=parts.pop("store", self.store),
            scheduler=parts.pop("scheduler", self.scheduler),
            catalogue=parts.pop("catalogue", self.catalogue),
            clock=parts.pop("clock", wall_clock),
            durable=parts.pop("durable", False),
            limit=parts.pop("limit", None),
            door=parts.pop("door", None),
        )

    async def catalogue(self) -> tuple[TrainerDescription, ...]:
        return self.trainers

    @asynccontextmanager
    async def running(self, **parts: Any) -> AsyncIterator[SiteAgent]:
        """An agent that is ready, until the block ends: it is killed there."""
        bus = MemoryBus(self.broker, SITE)
        agent = self.agent(bus, **parts)
        task = asyncio.create_task(agent.run())
        ready = asyncio.create_task(agent.ready.wait())
        try:
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            yield agent
        finally:
            ready.cancel()
            task.cancel()
            await asyncio.wait({task})
            await bus.close()
            if not task.cancelled():
                task.result()

    @property
    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.settings.paths.log.read_text().splitlines()]


def write_site(folder: Path, more: str = "") -> SiteSettings:
    for name in ("counting", "counting-test"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "salt").write_text("grain")
    (folder / "salt").chmod(0o600)
    (folder / "site.toml").write_text(
        f"""
schema = 1
site = "{SITE}"
[paths]
inbox = "inbox.sqlite"
log = "audit.jsonl"
spool = "spool"
[datasets.counting]
path = "counting"
layout = "folders"
split_salt = {{ file = "salt" }}
[datasets.counting-test]
path = "counting-test"
[scheduler]
kind = "inline"
{more}
"""
    )
    return load_site(folder / "site.toml")


async def eventually(true: Callable[[], Awaitable[bool]], within: float = 5) -> None:
    """Wait until the condition holds; fails after `within` seconds."""
    async with asyncio.timeout(within):
        while not await true():  # noqa: ASYNC110 - what is waited for lies in stores and brokers
            await asyncio.sleep(0.001)
