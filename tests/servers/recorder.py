"""What happened in an experiment on a real stack, recorded from outside, as the history that the checker of the
simulation judges: the store's audit log, the commands at the broker, the trainings, each service's own figures, and
the supervisor's log. No service knows of it.

Where a journal is broken is not recorded: services do not tell it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from math import inf
from pathlib import Path
from threading import Lock
from typing import Literal

from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from servers.audit import Call, StoreAudit, read_object
from servers.overhearing import overhearing
from servers.programs import Deaths, failed_calls
from servers.trainings import Seen, Trainings, how_it_ended
from wardround.coordinator.evolve import evolve
from wardround.coordinator.state import State
from wardround.runtime.bus.port import Delivery
from wardround.simulation.faults.history import SOMEBODY, Commanded, History, Line, Training, Written
from wardround.simulation.faults.plan import Incident, Plan, Schedule
from wardround.simulation.faults.run import Outcome
from wardround.simulation.sites import SITE_FILE
from wardround.site_agent.settings import load_site
from wardround.stack.folder import Plan as StackPlan
from wardround.stack.sites import SITES
from wardround_messages.journal import JournalEntry
from wardround_messages.manifest import Manifest, share_of
from wardround_messages.names import AnswerKey, JournalKey, bucket_of, parse_key, parse_task_id

UNRECORDED = frozenset({"broken journals"})
TOLD_WITHIN = 10.0  # seconds: until the store has told of all that lies in it
LISTED_EVERY = 3.0
DEADLY = frozenset({"killed", "wiped", "away"})


class Recording:
    """Of one experiment. `history` grows while the experiment goes on."""

    def __init__(self, folder: Path, stack: StackPlan, manifest: Manifest, root: Minio) -> None:
        self.began = time.time()
        self.history = History(self._clock)
        sites = {site: load_site(folder / SITES / site / SITE_FILE) for site in stack.sites}
        slots = {settings.scheduler.slots for settings in sites.values()}
        self.plan = plan_of(manifest, stack, slots=max(slots))
        self.trainings = Trainings({site: settings.paths.spool for site, settings in sites.items()}, manifest.id)
        self._experiment = manifest.id
        self._bucket = bucket_of(manifest.id)
        self._stack = stack
        self._root = root
        self._noting = Lock()
        self._there: set[str] = set()
        self._entries: dict[int, bytes] = {}
        self._state: State | None = None
        self._deaths = Deaths(folder)

    @property
    def state(self) -> State | None:
        """As the journal tells it, None before entry 0."""
        while (data := self._entries.get(0 if self._state is None else self._state.entries)) is not None:
            self._state = evolve(self._state, JournalEntry.model_validate_json(data))
        return self._state

    async def until(self, told: Callable[[State], bool], *, within: float = 90) -> None:
        """Wait until the journal tells so."""
        try:
            async with asyncio.timeout(within):
                while (state := self.state) is None or not told(state):  # noqa: ASYNC110 - told by another thread
                    await asyncio.sleep(0.02)
        except TimeoutError:
            step = None if state is None else state.step
            standing = "not accepted" if state is None else f"{state.phase}, paused: {state.paused}, step: {step}"
            raise AssertionError(f"{self._experiment} after {within:.0f} s: {standing}") from None

    async def until_training(self, site: str, round_: int, *, within: float = 90) -> None:
        """Wait until the site trains in that round."""
        async with asyncio.timeout(within):
            while not any(  # noqa: ASYNC110 - processes raise no event
                each.site == site and parse_task_id(each.task).round == round_ and each.ended is None
                for each in self.trainings.seen
            ):
                await asyncio.sleep(0.02)

    # --- what is heard -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def at_work(self, audit: StoreAudit, password: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(audit.listening(self._bucket, self._heard_call))
            await stack.enter_async_context(overhearing(self._stack, password, self._heard_command))
            watching = [
                asyncio.create_task(each)
                for each in (self.trainings.watch(), self._count_failed_calls(), self._look_for_the_untold())
            ]
            try:
                yield
            finally:
                for each in watching:
                    each.cancel()
                ended = await asyncio.gather(*watching, return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended

    def _clock(self) -> float:
        return time.time() - self.began

    def _second(self, at: datetime) -> float:
        return at.timestamp() - self.began

    def _heard_call(self, call: Call) -> None:
        at = self._second(call.at)
        if call.wrote and call.data is not None:
            method: Literal["create", "put"] = "create" if call.conditional else "put"
            self._note(Written(at, call.login, call.bucket, call.key, call.data, method, fresh=True))
        elif call.api == "DeleteObject":
            self._there.discard(call.key)
        elif call.read and call.login == "coordinator":
            self.history.read_by_coordinators.setdefault(call.key, at)
        elif call.status == 412:
            self.history.lines.append(Line(at, call.login, "412", call.key))

    def _note(self, written: Written) -> None:
        with self._noting:
            listed = [one for one in self.history.written if one.key == written.key and one.by == SOMEBODY]
            if listed:  # the store told of it at last
                self.history.written[self.history.written.index(listed[0])] = written
                return
            self.history.written.append(replace(written, fresh=written.key not in self._there))
            self._there.add(written.key)
            if isinstance(key := parse_key(written.key), JournalKey):
                self._entries.setdefault(key.number, written.data)

    async def _look_for_the_untold(self) -> None:
        """A store that dies takes along what it had not told yet."""
        while True:
            await asyncio.sleep(LISTED_EVERY)
            with suppress(HTTPError, MinioException):
                await asyncio.to_thread(self._list, before=time.time() - LISTED_EVERY)

    def _list(self, *, before: float) -> dict[str, float]:
        """All objects, with when they were written; those written before, and not told of, are noted.

        Raises:
            HTTPError, MinioException: the store is away.
        """
        listed = {
            one.object_name: one.last_modified.timestamp()
            for one in self._root.list_objects(self._bucket, recursive=True)
        }
        for key, at in listed.items():
            if at < before and key not in self._there:
                data = read_object(self._root, self._bucket, key)
                self._note(Written(at - self.began, SOMEBODY, self._bucket, key, data, "put", fresh=True))
        return listed

    async def _heard_command(self, delivery: Delivery) -> None:
        packet = delivery.packet
        if packet.correlation_id == self._experiment and packet.user_id == "coordinator" and packet.message_id:
            said = Commanded(self._clock(), "coordinator", packet.message_id, packet.body.decode())
            self.history.commanded.append(said)

    async def _count_failed_calls(self) -> None:
        async for service, number in failed_calls(self._stack):
            self.history.failed_calls[service, int(self._clock())] += number

    # --- the end -----------------------------------------------------------------------------------------------------

    async def outcome(self) -> Outcome:
        """What there is to be judged, once the experiment has ended and no clinic trains any more."""
        history = self.history
        history.ended = self._clock()
        async with asyncio.timeout(60):
            while self.trainings.at_work:  # noqa: ASYNC110 - processes raise no event
                await asyncio.sleep(0.1)
        objects = await asyncio.to_thread(self._objects)
        history.written.sort(key=lambda one: one.at)
        history.trainings = [self._training(each) for each in self.trainings.seen]
        killed = (one.target for one in history.injected if one.kind in DEADLY)
        history.crashes = [
            Line(self._second(at), program, "crashed", f"it ended with status {status}")
            for at, program, status in self._deaths.by_themselves(killed)
        ]
        incidents = tuple(
            Incident(one.at, one.kind, one.target, 0.0 if one.over is None else one.over - one.at)
            for one in history.injected
        )
        schedule = Schedule(seed=0, profile="servers", plan=self.plan, lasts=history.faults_over, incidents=incidents)
        return Outcome(self.plan, schedule, history, objects, broken={}, unrecorded=UNRECORDED)

    def _objects(self) -> dict[str, bytes]:
        until = time.monotonic() + TOLD_WITHIN
        while time.monotonic() < until and not self._list(before=0).keys() <= self._there:
            time.sleep(0.2)
        return {key: read_object(self._root, self._bucket, key) for key in self._list(before=time.time())}

    def _training(self, seen: Seen) -> Training:
        began, ended = self._second(seen.began), self._second(seen.last)
        return Training(seen.site, f"{seen.site}'s machine", seen.task, began, ended, self._end_of(seen, began, ended))

    def _end_of(self, seen: Seen, began: float, ended: float) -> str:
        again = min((self._second(each.began) for each in self.trainings.seen if _is_later(each, seen)), default=inf)
        killed = (one for one in self.history.injected if one.kind == "killed" and one.target == seen.site)
        with_its_agent = any(began - 1 <= one.at <= ended + 1 for one in killed)  # a local training ends with it
        return how_it_ended(seen, self._answered(seen.task, before=again), with_its_agent=with_its_agent)

    def _answered(self, task: str, *, before: float) -> str | None:
        name = parse_task_id(task)
        answer = self.history.answers.get(AnswerKey(name.round, name.task, name.site, name.attempt))
        if answer is None or answer.at > before:
            return None
        return str(json.loads(answer.data)["outcome"])


def _is_later(one: Seen, than: Seen) -> bool:
    return one.task == than.task and one.began > than.began


def plan_of(manifest: Manifest, stack: StackPlan, *, slots: int) -> Plan:
    """The experiment as the checker knows it."""
    return Plan(
        sites=len(manifest.cohort.sites),
        rounds=manifest.rounds.count,
        quorum=share_of(manifest.cohort.quorum, len(manifest.cohort.sites)),
        weighted=manifest.strategy.weight == "cases",
        evaluates=manifest.evaluation.final,
        deadline=manifest.rounds.deadline,
        grace=manifest.rounds.grace,
        pauses=manifest.rounds.on_missed == "pause",
        coordinators=stack.coordinators,
        aggregators=stack.aggregators,
        slots=slots,
    )
