"""What a round costs beyond the training: whole federations in one process, with a trainer that only adds.

    .venv/bin/python benchmarks/round_overhead.py [--quick] [--servers | --airflow]

A round is counted from one `StepOpened` of a training to the next, by the journal's own times.
"""

import argparse
import asyncio
import os
import platform
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import real_servers

from wardround.runtime.journal import Journal
from wardround.runtime.logging import configure_logging
from wardround.simulation.federation import Federation
from wardround.simulation.memory import reuse_large_buffers
from wardround.simulation.researcher import carry_through
from wardround.simulation.sites import make_clinics
from wardround_messages.journal import StepOpened
from wardround_messages.manifest import Cohort, Evaluation, Manifest, Rounds, Training
from wardround_messages.names import Task


@dataclass(frozen=True)
class Case:
    sites: int
    megabytes: float
    rounds: int
    store: Literal["memory", "folder"]


CASES = (
    Case(3, 1, 40, "memory"),
    Case(3, 1, 40, "folder"),
    Case(3, 0.01, 40, "folder"),
    Case(100, 0.01, 20, "folder"),
    Case(100, 1, 20, "folder"),
)


def manifest_of(case: Case) -> Manifest:
    return Manifest(
        id="overhead",
        study="overhead",
        purpose="",
        cohort=Cohort(sites=tuple(f"clinic-{number}" for number in range(1, case.sites + 1))),
        rounds=Rounds(count=case.rounds),
        training=Training(trainer="adding", dataset="counting", parameters={"size_mb": float(case.megabytes)}),
        evaluation=Evaluation(final=False),
    )


async def measure(case: Case, folder: Path) -> tuple[list[float], float, float]:
    """The seconds of each round, and wall and CPU seconds from the start command to the end of the experiment."""
    manifest = manifest_of(case)
    clinics = make_clinics(folder / "sites", manifest, scheduler="inline")
    federation = Federation(folder, clinics, store=case.store)
    async with federation.running():
        wall, cpu = time.perf_counter(), time.process_time()
        ending = await carry_through(federation, manifest)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if ending.state != "finished":
            raise SystemExit(f"{case} is {ending.state}: {ending.code} {ending.reason}")
        entries = await Journal(federation.store, manifest.id, writer="benchmark", clock=federation.clock).read_on()
    opened = [
        stored.entry.at
        for stored in entries
        if isinstance(stored.entry.body, StepOpened) and stored.entry.body.task is Task.TRAIN
    ]
    return [(b - a).total_seconds() for a, b in pairwise(opened)], wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three sites only")
    parser.add_argument("--servers", action="store_true", help="real RabbitMQ and MinIO, each service a process")
    parser.add_argument("--airflow", action="store_true", help="the same with an Airflow at each of three clinics")
    given = parser.parse_args()
    quick = given.quick
    configure_logging(level="error")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if given.servers or given.airflow:
        real_servers.main(quick=quick, airflow=given.airflow)
        return
    reuse_large_buffers()  # as `wardround simulate` does
    print("sites    model rounds   store              ms a round   in all      CPU     peak")
    for case in CASES:
        if quick and case.sites > 3:
            continue
        with tempfile.TemporaryDirectory(prefix="wardround-") as folder:
            rounds, wall, cpu = asyncio.run(measure(case, Path(folder)))
        low, middle, high = min(rounds), statistics.median(rounds), max(rounds)
        each = f"{middle * 1000:.1f} ({low * 1000:.1f} to {high * 1000:.1f})"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{case.sites:>5} {case.megabytes:>5g} MB {case.rounds:>6} {case.store:>7}  {each:>22}  {wall:>5.1f} s"
            f"  {cpu:>5.1f} s  {peak:>4.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
