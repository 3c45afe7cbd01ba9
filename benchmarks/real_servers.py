"""A round over real RabbitMQ and MinIO with every service in a process of its own: `round_overhead.py --servers`, and
with an Airflow at each clinic: `round_overhead.py --airflow`.

A round is counted from one `StepOpened` of a training to the next, by the journal's own times. `between` is the part of
it in which no clinic has anything to do: from the moment the last clinic says that its answer is stored to the first
message of the next round. Beside it stands a bare loop of minio-py that moves the same bytes in the same order, with
one thread for each clinic, and does nothing else. Memory is the most that each process ever held (VmHWM). The parts of
a round are told by the events of the clinics, each by the clock of this one machine.
"""

import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil

from wardround.client.hub import Hub
from wardround.client.hubs import Connections, Profile, connections
from wardround.hub.folder import STORE_ROOT, HubFolder
from wardround.runtime.journal import Journal
from wardround.simulation.sites import RESEARCHER
from wardround.stack import control
from wardround.stack.folder import Plan, read_state
from wardround_messages.events import EntryRecorded, TaskAccepted, TaskAnswered, TaskStarted
from wardround_messages.journal import StepOpened
from wardround_messages.manifest import Cohort, Evaluation, Manifest, Rounds, Training
from wardround_messages.names import Task


@dataclass(frozen=True)
class Case:
    sites: int
    megabytes: float
    rounds: int


CASES = (Case(3, 1, 21), Case(8, 1, 11), Case(3, 50, 6), Case(8, 50, 6), Case(3, 200, 5), Case(8, 200, 4))
QUICK = (Case(3, 1, 21),)
MIB = 2**20

Turn = tuple[int, str]  # a round and a clinic


@dataclass
class Times:
    """What was heard on the stream."""

    opened: dict[int, datetime] = field(default_factory=dict)
    accepted: dict[Turn, datetime] = field(default_factory=dict)
    started: dict[Turn, datetime] = field(default_factory=dict)
    answered: dict[Turn, datetime] = field(default_factory=dict)

    @property
    def between(self) -> list[float]:
        """Seconds from the last answer of a round to the opening of the next."""
        last: dict[int, datetime] = {}
        for (number, _), at in self.answered.items():
            last[number] = max(at, last.get(number, at))
        return [
            (self.opened[number + 1] - at).total_seconds() for number, at in last.items() if number + 1 in self.opened
        ]

    @property
    def parts(self) -> dict[str, list[float]]:
        """Seconds that a clinic's turn spent in each of its parts."""
        opened = {turn: self.opened[turn[0]] for turn in self.accepted if turn[0] in self.opened}
        return {
            "command, policy": _spans(opened, self.accepted),
            "model fetched, run at work": _spans(self.accepted, self.started),
            "training, end seen, answer stored": _spans(self.started, self.answered),
        }


def _spans(begins: dict[Turn, datetime], ends: dict[Turn, datetime]) -> list[float]:
    return [(ends[turn] - at).total_seconds() for turn, at in begins.items() if turn in ends]


def manifest_of(case: Case) -> Manifest:
    return Manifest(
        id=f"overhead-{case.sites}-{case.megabytes:g}".replace(".", "-"),
        study="counting",
        purpose="",
        cohort=Cohort(sites=tuple(f"clinic-{number}" for number in range(1, case.sites + 1))),
        rounds=Rounds(count=case.rounds),
        training=Training(trainer="adding", dataset="counting", parameters={"size_mb": float(case.megabytes)}),
        evaluation=Evaluation(final=False),
    )


async def run(case: Case, to: Connections) -> tuple[list[float], Times, str]:
    """The seconds of each round, what was heard meanwhile, and the digest of the last model."""
    manifest, times = manifest_of(case), Times()
    async with Hub(to) as hub:
        heard = asyncio.create_task(_hear(hub, manifest.id, times))
        await asyncio.sleep(0.5)
        await hub.start(manifest)
        async for view in hub.watch(manifest.id):
            if view.ended and view.phase != "finished":
                raise SystemExit(f"{manifest.id} is {view.phase}: {view.reason}")
        await asyncio.sleep(0.5)
        heard.cancel()
        await asyncio.wait({heard})
        entries = await Journal(to.store, manifest.id, writer="benchmark", clock=datetime.now).read_on()
    opened = [
        each.entry.at
        for each in entries
        if isinstance(each.entry.body, StepOpened) and each.entry.body.task is Task.TRAIN
    ]
    model = view.model
    return [(b - a).total_seconds() for a, b in pairwise(opened)], times, "" if model is None else model.sha256


async def _hear(hub: Hub, experiment: str, times: Times) -> None:
    async for received in hub.events(follow=True, experiment=experiment):
        match received.message:
            case TaskAccepted(task=Task.TRAIN) as said:
                times.accepted.setdefault((said.round, said.site), received.envelope.time)
            case TaskStarted(task=Task.TRAIN) as said:
                times.started.setdefault((said.round, said.site), received.envelope.time)
            case TaskAnswered(task=Task.TRAIN) as said:
                times.answered.setdefault((said.round, said.site), received.envelope.time)
            case EntryRecorded(body=StepOpened(task=Task.TRAIN) as step):
                times.opened.setdefault(step.round, received.envelope.time)
            case _:
                pass


def bare_loop(case: Case, hub: HubFolder, times: int) -> list[float]:
    """The seconds of each pass: every clinic GETs a model and PUTs an update, the hub GETs all and PUTs one."""
    from minio import Minio

    address = hub.roster.store.removeprefix("http://")
    client = Minio(
        address,
        access_key=STORE_ROOT,
        secret_key=hub.store_secret(STORE_ROOT).read_text(),
        secure=False,
        region="us-east-1",
    )
    bucket = "bare-loop"
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)
    passes = []
    with tempfile.TemporaryDirectory(prefix="wardround-") as folder, ThreadPoolExecutor(case.sites) as pool:
        file = Path(folder, "update")
        file.write_bytes(bytes(int(case.megabytes * MIB)))

        def clinic(number: int) -> None:
            client.fget_object(bucket, "model", str(Path(folder, f"model-{number}")))
            client.fput_object(bucket, f"update-{number}", str(file), part_size=512 * MIB)

        def read(number: int) -> None:
            client.fget_object(bucket, f"update-{number}", str(Path(folder, f"read-{number}")))

        client.fput_object(bucket, "model", str(file), part_size=512 * MIB)
        for _ in range(times):
            began = time.perf_counter()
            list(pool.map(clinic, range(case.sites)))
            list(pool.map(read, range(case.sites)))
            client.fput_object(bucket, "model", str(file), part_size=512 * MIB)
            passes.append(time.perf_counter() - began)
    return passes


def most_memory(folder: Path) -> dict[str, float]:
    """The most that each program ever held, in MB."""
    state = read_state(folder)
    found = {}
    for program in () if state is None else state.programs:
        if program.pid is None:
            continue
        family = [psutil.Process(program.pid), *psutil.Process(program.pid).children(recursive=True)]
        found[program.name] = max(_high_water(process.pid) for process in family)
    return found


def _high_water(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


async def measure(case: Case, *, airflow: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="wardround-stack-") as temporary:
        folder = Path(temporary, "stack")
        plan = Plan(name="bench", sites=manifest_of(case).cohort.sites, seed=7, airflow=airflow)
        await control.up(folder, plan, say=lambda _: None)
        try:
            hub = HubFolder.open(folder / "hub")
            rounds, times, _ = await run(case, connections(_profile(hub)))
            memory = most_memory(folder)
            bare = bare_loop(case, hub, 3)
        finally:
            await control.down(folder)
    _print(case, rounds, times.between, bare, memory)
    for part, seconds in times.parts.items():
        print(
            f"      {part}: {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})", flush=True
        )


def _profile(hub: HubFolder) -> Profile:
    secrets = {
        "password": {"file": str(hub.broker_secret(RESEARCHER))},
        "store_key": {"id": RESEARCHER, "file": str(hub.store_secret(RESEARCHER))},
    }
    known = {"broker": hub.roster.broker, "store": hub.roster.store, "username": RESEARCHER}
    return Profile.model_validate({**known, **secrets})


def _print(case: Case, rounds: list[float], between: list[float], bare: list[float], memory: dict[str, float]) -> None:
    each, gap, loop = (statistics.median(values) for values in (rounds, between, bare))
    ranged = f"{each:.3f} ({min(rounds):.3f} to {max(rounds):.3f})"
    print(
        f"{case.sites:>5} {case.megabytes:>5g} MB {len(rounds):>6}  {ranged:>26}  {gap * 1000:>7.0f} ms  {loop:>6.3f} s"
        f"  {each / loop:>5.1f}",
        flush=True,
    )
    groups = {name: name.partition(".")[2] or name for name in memory}
    agents = {name for name in memory if name.startswith("clinic-") and groups[name] == name}
    most: dict[str, float] = {}
    for name, size in memory.items():
        group = "an agent" if name in agents else groups[name]
        most[group] = max(size, most.get(group, 0))
    shown = ", ".join(f"{name} {size:.0f}" for name, size in most.items())
    print(f"      most memory (MB): {shown}", flush=True)


def main(*, quick: bool, airflow: bool = False) -> None:
    print("sites    model rounds           seconds a round           between   bare loop  ratio")
    for case in QUICK if quick or airflow else CASES:
        asyncio.run(measure(case, airflow=airflow))
