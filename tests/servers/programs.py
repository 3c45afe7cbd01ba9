"""How the programs of a stack are doing, as their own figures and the supervisor's log tell it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from wardround.stack.folder import LOGS, Plan
from wardround.stack.loopback import loopback_client
from wardround.stack.ports import LOOPBACK

LOOK_EVERY = 1.0  # seconds
BEGAN = "process_start_time_seconds"
CALLS = ("wardround_store_seconds_count", "wardround_publish_seconds_count")
KILLED = -9


async def failed_calls(plan: Plan) -> AsyncIterator[tuple[str, int]]:
    """How many calls a second at the store and the broker each service made in vain since it told so last, for ever.
    One that dies takes along what it counted since the last look."""
    known: dict[str, Look] = {}
    async with loopback_client(timeout=LOOK_EVERY) as client:
        while True:
            for name in plan.services:
                try:
                    told = await client.get(f"http://{LOOPBACK}:{plan.ports[name]}/metrics")
                except httpx.HTTPError:
                    continue
                now = look(told.text, at=time.time())
                if (last := known.get(name)) is not None:
                    yield name, calls_a_second(last, now)
                known[name] = now
            await asyncio.sleep(LOOK_EVERY)


@dataclass(frozen=True, slots=True)
class Look:
    """What a service's figures tell at a time: when its process began, and how many calls it made in vain since."""

    at: float
    began: float
    failed: int


def look(figures: str, *, at: float) -> Look:
    samples = [sample for family in text_string_to_metric_families(figures) for sample in family.samples]
    (began,) = (sample.value for sample in samples if sample.name == BEGAN)
    calls = (each for each in samples if each.name in CALLS and each.labels["outcome"] == "unavailable")
    return Look(at, began, failed=sum(int(each.value) for each in calls))


def calls_a_second(before: Look, now: Look) -> int:
    """A service that is busy or down is not heard for seconds. One that was started anew counts from zero: all its
    calls were made since then."""
    if now.began > before.began:
        before = Look(now.began, now.began, failed=0)
    return ceil((now.failed - before.failed) / max(now.at - before.at, LOOK_EVERY))


class Deaths:
    """Of the programs of the stack in the folder, from now on."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / LOGS / "supervisor.log"
        self._told_before = self._log.stat().st_size

    def by_themselves(self, killed: Iterable[str]) -> Iterator[tuple[datetime, str, int]]:
        """When, which, and with which exit status: all that died but once for each time that it was `killed`."""
        left = Counter(killed)
        with self._log.open() as log:
            log.seek(self._told_before)
            for line in log:
                told = json.loads(line) if line.startswith("{") else {}
                if told.get("event") != "program_died":
                    continue
                program, status = told["program"], told["status"]
                if status == KILLED and left[program] > 0:
                    left[program] -= 1
                else:
                    yield datetime.fromisoformat(told["timestamp"]), program, status
