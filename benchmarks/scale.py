"""What a site costs in a round, with ten sites and with a thousand: whole federations in one process.

    .venv/bin/python benchmarks/scale.py            # 10 sites x 20 rounds, 100 x 20, 1,000 x 3
    .venv/bin/python benchmarks/scale.py --quick    # without the last

A trainer that only adds, a model of 10 kB, everything in memory: what is measured is the federation, not arithmetic or
a disk. Coordinator, aggregator, metrics and all site-agents share one processor, and the CPU time of each is what the
steps of its tasks took. Each case runs in a process of its own. A site-round is one site in one round of training;
what enrolment and the first model cost is in it.
"""

import argparse
import asyncio
import os
import platform
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextvars import Context, ContextVar
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVarTuple, Unpack, cast

from wardround.runtime.bus.port import Packet
from wardround.runtime.logging import configure_logging
from wardround.runtime.store.port import ObjectStore
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import carry_through
from wardround.simulation.sites import Allowed, Clinic, load_clinics, write_clinic
from wardround.training.trainers.adding import AMOUNT
from wardround_messages.manifest import Cohort, Evaluation, Manifest, Rounds, Training
from wardround_messages.names import OBJECTSTORE

Ts = TypeVarTuple("Ts")

MEMORY = Path("/dev/shm")
CASES_EACH = 10
AT_MOST_TIMES = 2.0  # what a site-round may cost with the most sites, as a multiple of that with the fewest
OTHERS = "others"
OWNER = ContextVar("OWNER", default=OTHERS)
STORE_CALLS = frozenset({"create", "put", "read", "head", "list", "delete"})


@dataclass(frozen=True)
class Case:
    sites: int
    rounds: int

    @property
    def site_rounds(self) -> int:
        return self.sites * self.rounds


CASES = (Case(10, 20), Case(100, 20), Case(1000, 3))


@dataclass(frozen=True)
class Measured:
    """Seconds, bytes, and how often; for the whole case."""

    case: Case
    wall: float
    cpu: float
    coordinator: float
    messages: int
    announcements: int
    store_calls: int
    peak: int


class MeteredLoop(asyncio.SelectorEventLoop):
    """Adds up the CPU time that the steps of each service take, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, float] = defaultdict(float)

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        owner = OWNER.get() if context is None else context.get(OWNER, OTHERS)

        def step() -> None:
            began = time.thread_time()
            try:
                callback(*args)
            finally:
                self.spent[owner] += time.thread_time() - began

        return super().call_soon(step, context=context)


class MeteredFederation(Federation):
    """Tells the tasks of each service apart."""

    def start(self, name: str) -> None:
        token = OWNER.set(name.rpartition("-")[0] or name)
        try:
            super().start(name)
        finally:
            OWNER.reset(token)


class CountedStore:
    """An object store whose calls are counted."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name in STORE_CALLS:
            self.calls += 1
        return getattr(self._store, name)


def same_clinics(folder: Path, manifest: Manifest) -> list[Clinic]:
    """Clinics with ten cases each: of the data that come with the example each has one case more than the last."""
    dataset = manifest.training.dataset
    allowed = Allowed(manifest.study, manifest.training.trainer, (dataset,))
    for site in manifest.cohort.sites:
        data = folder / site / dataset
        data.mkdir(parents=True)
        for number in range(CASES_EACH):
            (data / f"case-{number}.txt").touch()
        (data / AMOUNT).write_text("1")
        write_clinic(folder / site, site, {dataset: data}, [allowed], seed=0, scheduler="inline")
    return load_clinics(folder, manifest.cohort.sites)


async def carry_out(case: Case, folder: Path) -> Measured:
    manifest = Manifest(
        id="scale",
        study="scale",
        purpose="",
        cohort=Cohort(sites=tuple(f"clinic-{number}" for number in range(1, case.sites + 1))),
        rounds=Rounds(count=case.rounds),
        training=Training(trainer="adding", dataset="counting", parameters={"size_mb": 0.01}),
        evaluation=Evaluation(final=False),
    )
    clinics = same_clinics(folder, manifest)
    federation = MeteredFederation(folder, clinics, store="memory", threads=False)
    store = CountedStore(federation.store)
    federation.store = cast("ObjectStore", store)
    routed: Counter[str] = Counter()
    route = federation.broker.route

    def count(packet: Packet) -> None:
        routed[packet.exchange] += 1
        route(packet)

    federation.broker.route = count  # type: ignore[method-assign]
    loop = cast("MeteredLoop", asyncio.get_running_loop())
    async with federation.running():
        wall, cpu, before = time.perf_counter(), time.process_time(), dict(loop.spent)
        ending = await carry_through(federation, manifest)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in loop.spent.items()}
        calls, announced = store.calls, routed[OBJECTSTORE]
    if ending.state != "finished":
        raise SystemExit(f"{case} is {ending.state}: {ending.code} {ending.reason}")
    return Measured(
        case=case,
        wall=wall,
        cpu=cpu,
        coordinator=spent["coordinator"],
        messages=routed.total() - announced,
        announcements=announced,
        store_calls=calls,
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def measure(case: Case) -> Measured:
    configure_logging(level="error")
    with (
        tempfile.TemporaryDirectory(prefix="wardround-", dir=MEMORY if MEMORY.is_dir() else None) as folder,
        asyncio.Runner(loop_factory=MeteredLoop) as runner,
    ):
        return runner.run(carry_out(case, Path(folder)))


def row(one: Measured) -> str:
    site_rounds = one.case.site_rounds
    return (
        f"{one.case.sites:>5} {one.case.rounds:>6}  {one.wall:>6.1f} s {one.cpu:>6.1f} s {one.coordinator:>9.1f} s"
        f"  {one.cpu / site_rounds * 1000:>7.2f} ms {one.coordinator / site_rounds * 1000:>9.2f} ms"
        f" {one.messages / site_rounds:>8.1f} {one.announcements / site_rounds:>13.1f}"
        f" {one.store_calls / site_rounds:>11.1f} {one.peak / 2**20:>6.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the thousand sites")
    quick = parser.parse_args().quick
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'in all':>36}{'':>12}{'for each site in a round':>37}")
    print(
        "sites rounds      wall      CPU  coordinator         CPU coordinator messages announcements store calls   peak"
    )
    measured = []
    for case in CASES[:-1] if quick else CASES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            measured.append(alone.submit(measure, case).result())
        print(row(measured[-1]), flush=True)
    least, most = (one.cpu / one.case.site_rounds for one in (measured[0], measured[-1]))
    print(f"a site-round with {measured[-1].case.sites} sites costs {most / least:.2f} times what it costs with 10")
    if most / least > AT_MOST_TIMES:
        raise SystemExit(f"the goal is {AT_MOST_TIMES:g} times")


if __name__ == "__main__":
    main()
