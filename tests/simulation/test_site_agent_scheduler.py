"""The agent keeps its word while the clinic's scheduler fails as an Airflow does: killed, away, wiped, replies lost."""

import asyncio
import itertools
import random
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from airflow_like import LikeAirflow
from clinic import BUCKET, SITE, Clinic, eventually, failing
from faulty import BUS_CALLS, SCHEDULER_CALLS, STORE_CALLS, Faulty, Fuse, killed_at

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.store.port import StoreUnavailableError
from wardround.site_agent import duty
from wardround_messages.events import SiteSeen, TaskAnswered, TaskStarted
from wardround_messages.names import AnswerKey, Task
from wardround_messages.objects import Answer


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    return await clinic_in(tmp_path)


async def clinic_in(folder: Path) -> Clinic:
    clinic = Clinic(folder)
    clinic.scheduler = LikeAirflow(clinic.settings.paths.spool, clinic.training)
    await clinic.open_experiment()
    return clinic


@pytest.fixture
def airflow(clinic: Clinic) -> LikeAirflow:
    assert isinstance(clinic.scheduler, LikeAirflow)
    return clinic.scheduler


def last_seen(clinic: Clinic, status: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return bool(clinic.of_type(SiteSeen)) and clinic.of_type(SiteSeen)[-1].status == status

    return look


# --- replies lost, and away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["trigger", "wait"])
async def test_a_reply_that_is_lost_leads_to_no_second_training(
    clinic: Clinic, airflow: LikeAirflow, method: str
) -> None:
    airflow.loses = {method}
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 1
    assert airflow.calls.count(method) >= 2


async def test_a_retry_whose_reply_is_lost_is_no_third_training(clinic: Clinic, airflow: LikeAirflow) -> None:
    airflow.crashes = 1
    async with clinic.running():
        await clinic.enrol()
        airflow.go_on.clear()
        await clinic.hub.send(clinic.start())
        await airflow.at_work()
        airflow.loses = {"trigger"}
        airflow.go_on.set()
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 2


async def test_a_scheduler_that_is_away_for_a_while_is_waited_for_and_told_of(
    clinic: Clinic, airflow: LikeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "SEEN_EVERY", 0.01)
    airflow.away = True
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await eventually(last_seen(clinic, "degraded"))
        assert clinic.of_type(SiteSeen)[-1].detail == agent.trouble == "the scheduler is away"
        assert await clinic.objects("answers/") == ()
        airflow.away = False
        assert (await clinic.answer(clinic.start())).outcome == "done"
        await eventually(last_seen(clinic, "ok"))
        assert agent.trouble is None
    assert len(clinic.training.trained) == 1


async def test_a_scheduler_that_goes_away_while_it_trains_is_found_again_with_the_training(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    airflow.go_on.clear()
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        airflow.away = True
        airflow.go_on.set()

        async def noticed() -> bool:
            return agent.trouble == "the scheduler is away"

        await eventually(noticed)
        airflow.away = False
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 1
    assert len(clinic.of_type(TaskStarted)) == 1


# --- the agent dies, the run does not --------------------------------------------------------------------------------


async def dies_while_it_trains(clinic: Clinic, airflow: LikeAirflow) -> None:
    """What it began goes on, and ends when `go_on` is set."""
    airflow.go_on.clear()
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await airflow.at_work()


@pytest.mark.parametrize("ends_meanwhile", [True, False])
async def test_a_training_outlives_the_agent_and_is_answered_by_the_next(
    clinic: Clinic, airflow: LikeAirflow, ends_meanwhile: bool
) -> None:
    await dies_while_it_trains(clinic, airflow)
    if ends_meanwhile:
        airflow.go_on.set()
        await airflow.idle()
        airflow.away = True  # the result is there: nobody need be asked
    async with clinic.running():
        airflow.go_on.set()
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 1


async def test_a_training_that_crashed_while_the_agent_was_dead_is_tried_once_more(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    airflow.crashes = 1
    await dies_while_it_trains(clinic, airflow)
    airflow.go_on.set()
    await airflow.idle()
    async with clinic.running():
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 2


async def test_a_training_that_a_restarted_agent_may_not_look_at_is_stopped_before_it_is_answered(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    await dies_while_it_trains(clinic, airflow)
    airflow.forbids = True
    async with clinic.running() as agent:

        async def noticed() -> bool:
            return agent.trouble is not None

        await eventually(noticed)
        assert await clinic.objects("answers/") == ()
        airflow.forbids = False
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "airflow_login")
    assert len(airflow.cancelled) == 1
    assert clinic.training.trained == []


async def test_a_training_that_goes_on_when_its_task_is_answered_is_stopped_before_the_next_begins(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    """A second agent of the clinic, started by mistake, has answered."""
    await dies_while_it_trains(clinic, airflow)
    key = str(AnswerKey(1, Task.TRAIN, SITE, 1))
    await clinic.store.create(BUCKET, key, b"written by a twin of this site")
    async with clinic.running():
        airflow.go_on.set()
        await clinic.hub.send(clinic.start(round=2))
        assert (await clinic.answer(clinic.start(round=2))).outcome == "done"
    assert len(airflow.cancelled) == 1
    assert airflow.most == 1
    assert len(clinic.training.trained) == 1


async def test_a_task_that_the_scheduler_refuses_at_once_is_answered_at_once(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    airflow.forbids = True
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "airflow_login")


async def test_a_training_that_found_the_disk_full_begins_again_also_by_an_agent_that_was_restarted_meanwhile(
    clinic: Clinic, airflow: LikeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = clinic.settings.paths.spool
    whole, full = shutil.disk_usage(spool.parent), shutil.disk_usage(spool.parent)._replace(free=2**19)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    clinic.training.change = failing("disk_full", "train")
    async with clinic.running() as agent:

        async def waits() -> bool:
            return agent.trouble == "the disk is full"

        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await eventually(waits)
    clinic.training.change = {}
    async with clinic.running():
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: whole)
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 2


async def live_once(folder: Path, at: int, *, carried_out: bool, crashes: int) -> tuple[bool, Clinic, Answer]:
    clinic = await clinic_in(folder)
    clinic.scheduler.crashes = crashes
    await clinic.hub.send(clinic.offer())

    async def send_when_granted() -> None:
        await clinic.consent()
        await clinic.hub.send(clinic.start())

    enrolled = asyncio.create_task(send_when_granted())
    cut = await killed_at(clinic, Fuse(at, carried_out=carried_out))
    async with clinic.running():
        answer = await clinic.answer(clinic.start())
        await enrolled
        await clinic.all_handled()
    return cut, clinic, answer


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("crashes", [0, 1])
async def test_killed_at_every_call_beside_a_scheduler_that_goes_on_it_answers_once(
    tmp_path: Path, carried_out: bool, crashes: int
) -> None:
    at, cut = 0, True
    while cut:
        at += 1
        cut, clinic, answer = await live_once(tmp_path / str(at), at, carried_out=carried_out, crashes=crashes)
        assert len(await clinic.objects("answers/")) == 1
        assert len(await clinic.objects("updates/")) == (answer.outcome == "done")
        assert len(clinic.training.trained) <= 1 + crashes
        assert clinic.scheduler.most == 1
        assert answer.outcome == "done" or (crashes and answer.failure.code == "crashed")
    assert at > 12
    assert answer.outcome == "done"


# --- wiped -----------------------------------------------------------------------------------------------------------


async def test_a_run_that_a_wiped_scheduler_knows_no_more_is_trained_once_again(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    airflow.go_on.clear()
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await airflow.wiped()
        airflow.go_on.set()
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert len(clinic.training.trained) == 1  # the first was wiped before it trained
    assert airflow.calls.count("trigger") == 2


async def test_a_scheduler_that_is_wiped_again_and_again_is_given_up(clinic: Clinic, airflow: LikeAirflow) -> None:
    airflow.go_on.clear()
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await airflow.at_work()
        await airflow.wiped()
        await airflow.at_work()
        await airflow.wiped()
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "run_lost")
    assert airflow.calls.count("trigger") == 2


async def test_a_scheduler_that_was_wiped_while_the_agent_was_dead_trains_once_again(
    clinic: Clinic, airflow: LikeAirflow
) -> None:
    await dies_while_it_trains(clinic, airflow)
    await airflow.wiped()
    airflow.go_on.set()
    async with clinic.running():
        assert (await clinic.answer(clinic.start())).outcome == "done"
    assert airflow.most == len(clinic.training.trained) == 1


# --- cancels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
async def test_a_cancel_is_done_when_the_scheduler_is_back_and_answered_after_that(
    clinic: Clinic, airflow: LikeAirflow, killed: bool
) -> None:
    airflow.go_on.clear()
    task = str(clinic.start().task_id)
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        airflow.away = True
        await clinic.hub.send(clinic.cancel(clinic.start()))

        async def noticed() -> bool:
            return agent.trouble == "the scheduler is away"

        await eventually(noticed)
        await clinic.all_handled()
        assert await clinic.objects("answers/") == ()
        if not killed:
            airflow.away = False
            answer = await clinic.answer(clinic.start())
    if killed:
        async with clinic.running() as agent:
            await eventually(noticed)
            assert await clinic.objects("answers/") == ()
            airflow.away = False
            answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.by_hub, answer.failure.code) == ("cancelled", True, "step_closed")
    assert airflow.cancelled == [task]
    assert clinic.training.trained == []
    airflow.go_on.set()
    await airflow.idle()
    assert clinic.training.trained == []


async def test_a_cancel_whose_reply_is_lost_is_said_again(clinic: Clinic, airflow: LikeAirflow) -> None:
    airflow.go_on.clear()
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        airflow.loses = {"cancel"}
        await clinic.hub.send(clinic.cancel(clinic.start()))
        assert (await clinic.answer(clinic.start())).outcome == "cancelled"
    assert len(airflow.cancelled) == 2


async def test_a_higher_attempt_waits_until_a_scheduler_that_is_away_has_stopped_the_lower(
    tmp_path: Path,
) -> None:
    clinic = Clinic(tmp_path, site="slots = 2")
    airflow = LikeAirflow(clinic.settings.paths.spool, clinic.training)
    clinic.scheduler = airflow
    await clinic.open_experiment()
    airflow.go_on.clear()
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        airflow.away = True
        await clinic.hub.send(clinic.start(attempt=2))
        await clinic.all_handled()
        assert airflow.calls.count("trigger") == 1
        airflow.away = False
        assert (await clinic.answer(clinic.start())).failure.code == "superseded"
        airflow.go_on.set()
        assert (await clinic.answer(clinic.start(attempt=2))).outcome == "done"
    assert airflow.most == 1
    assert clinic.training.trained == [str(clinic.start(attempt=2).task_id)]


class SlowToStop(LikeAirflow):
    """Stops a run as one that has a graphics card to clear."""

    async def cancel(self, task: str) -> None:
        await asyncio.sleep(0.2)
        await super().cancel(task)


async def test_a_run_that_is_being_stopped_has_its_slot_until_it_is_stopped(clinic: Clinic) -> None:
    airflow = SlowToStop(clinic.settings.paths.spool, clinic.training)
    clinic.scheduler = airflow
    airflow.go_on.clear()
    evaluation = clinic.start(task=Task.EVALUATE)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await clinic.hub.send(evaluation)
        await clinic.all_handled()
        await clinic.hub.send(clinic.cancel(clinic.start()))
        assert (await clinic.answer(clinic.start())).outcome == "cancelled"
        airflow.go_on.set()
        assert (await clinic.answer(evaluation)).outcome == "done"
    assert airflow.most == 1


async def test_a_stop_while_the_scheduler_is_away_returns_and_is_done_when_it_is_back(
    clinic: Clinic, airflow: LikeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "STOPS_WITHIN", 0.05)
    airflow.go_on.clear()
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        airflow.away = True
        async with asyncio.timeout(2):
            await agent.stop("fire drill")
        assert await clinic.objects("answers/") == ()
        airflow.away = False
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("cancelled", "site_stopped")
    assert airflow.cancelled == [str(clinic.start().task_id)]


# --- all restarted, in any order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(("broker", "store", "scheduler", "agent"))))
async def test_all_go_down_and_come_back_in_any_order(
    clinic: Clinic, airflow: LikeAirflow, order: tuple[str, ...]
) -> None:
    rng = random.Random(repr(order))
    store = Switched(clinic.store)
    airflow.go_on.clear()
    async with clinic.running(store=store):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await airflow.at_work()
        clinic.broker.stop()
        store.away = airflow.away = True
        airflow.go_on.set()
    running: asyncio.Task[None] | None = None
    bus = MemoryBus(clinic.broker, SITE)
    for part in order:
        await asyncio.sleep(rng.choice([0, 0.01, 0.03]))
        match part:
            case "broker":
                clinic.broker.start()
            case "store":
                store.away = False
            case "scheduler":
                airflow.away = False
            case "agent":
                running = asyncio.create_task(clinic.agent(bus, store=store).run())
    assert running is not None
    answer = await clinic.answer(clinic.start())
    await clinic.said(TaskAnswered)
    running.cancel()
    await asyncio.wait({running})
    await bus.close()
    assert answer.outcome == "done"
    assert airflow.most == len(clinic.training.trained) == 1
    assert len(await clinic.objects("answers/")) == 1


class Switched:
    """A store that may be `away`."""

    def __init__(self, store: Any) -> None:
        self._store = Faulty(store, STORE_CALLS, self._call)
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.away:
            raise StoreUnavailableError("away")
        return await call()


LIVES_AT_MOST = 5.0  # seconds, for an agent of which no call hangs


async def test_whatever_fails_now_and_then_a_task_is_trained_and_answered_once(tmp_path: Path) -> None:
    for seed in range(15):
        rng = random.Random(seed)
        clinic = await clinic_in(tmp_path / str(seed))

        hung = asyncio.Event()

        async def now_and_then(
            call: Callable[[], Awaitable[Any]], rng: random.Random = rng, hung: asyncio.Event = hung
        ) -> Any:
            if rng.random() < 0.15:
                hung.set()
                await asyncio.Event().wait()  # until the agent is killed
            return await call()

        await clinic.hub.send(clinic.offer())
        sent = False
        for _ in range(200):
            bus = MemoryBus(clinic.broker, SITE)
            agent = clinic.agent(
                Faulty(bus, BUS_CALLS, now_and_then),
                store=Faulty(clinic.store, STORE_CALLS, now_and_then),
                scheduler=Faulty(clinic.scheduler, SCHEDULER_CALLS, now_and_then),
            )
            running = asyncio.create_task(agent.run())
            hung.clear()

            async def over(hung: asyncio.Event = hung, clinic: Clinic = clinic, sent: bool = sent) -> bool:
                return hung.is_set() or bool(await clinic.objects("answers/" if sent else "consent/"))

            with suppress(TimeoutError):
                await eventually(over, LIVES_AT_MOST)
            await asyncio.sleep(0.01)  # what else is under way comes further, or hangs too
            running.cancel()
            await asyncio.wait({running})
            await bus.close()
            if not sent and await clinic.objects("consent/"):
                await clinic.hub.send(clinic.start())
                sent = True
            if await clinic.objects("answers/"):
                break
        answer = await clinic.answer(clinic.start())
        assert answer.outcome == "done", f"seed {seed}"
        assert clinic.scheduler.most == len(clinic.training.trained) == 1, f"seed {seed}"
        assert len(await clinic.objects("updates/")) == 1, f"seed {seed}"
