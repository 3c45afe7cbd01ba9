"""A site's agent killed at every step, and with everything around it away in turn."""

import asyncio
import errno
import resource
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from clinic import Clinic, eventually, failing, tensors
from faulty import SCHEDULER_CALLS, STORE_CALLS, Faulty, Fuse, killed_at
from structlog.testing import capture_logs

from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.port import AccessDeniedError, StoreUnavailableError
from wardround.site_agent import duty
from wardround.site_agent.audit.log import AuditLog
from wardround.site_agent.inbox import REMEMBERED, Inbox
from wardround.site_agent.patience import outage
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.port import (
    Began,
    RunEnd,
    Scheduler,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
    nobody_asks,
)
from wardround.site_agent.trainers import TrainersError
from wardround_messages.events import SiteSeen, TaskAnswered, TaskStarted
from wardround_messages.objects import Answer, LogHead


async def one_life_cut_short(folder: Path, at: int, *, carried_out: bool, crashes: int) -> tuple[bool, Clinic, Answer]:
    clinic = Clinic(folder)
    await clinic.open_experiment()

    def crash(folder: Path, cancelled: Event) -> None:
        if len(clinic.training.trained) <= crashes:
            raise MemoryError

    clinic.training.before = crash
    await clinic.hub.send(clinic.offer())
    enrolled = asyncio.create_task(send_when_granted(clinic))
    cut = await killed_at(clinic, Fuse(at, carried_out=carried_out))
    async with clinic.running():
        answer = await clinic.answer(clinic.start())
        await enrolled
        await clinic.all_handled()
    return cut, clinic, answer


async def send_when_granted(clinic: Clinic) -> None:
    await clinic.consent()
    await clinic.hub.send(clinic.start())


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("crashes", [0, 1, 99])
async def test_killed_at_every_call_it_answers_once_and_trains_no_more_than_allowed(
    tmp_path: Path, carried_out: bool, crashes: int
) -> None:
    at, cut = 0, True
    while cut:
        at += 1
        cut, clinic, answer = await one_life_cut_short(tmp_path / str(at), at, carried_out=carried_out, crashes=crashes)
        answers, updates = await clinic.objects("answers/"), await clinic.objects("updates/")
        consents = await clinic.objects("consent/")
        assert len(answers) == len(consents) == 1
        assert len(clinic.training.trained) <= (1 if crashes == 0 else 2)
        # A kill between the count and the retry may cost the retry, never more.
        assert answer.outcome == "done" or (crashes > 0 and answer.failure.code == "crashed")
        assert len(updates) == (answer.outcome == "done")
        assert clinic.broker.dead_letters() == ()
    assert at > 12
    assert answer.outcome == ("failed" if crashes > 1 else "done")


class Outage:
    """Every third call fails, before or after it was carried out."""

    def __init__(self, error: Exception, *, carried_out: bool) -> None:
        self._error = error
        self._carried_out = carried_out
        self._calls = 0

    async def __call__(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._calls += 1
        if self._calls % 3 != 1:
            return await call()
        if self._carried_out:
            await call()
        raise self._error


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_store_that_is_away_delays_and_loses_nothing(tmp_path: Path, carried_out: bool) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    store = Faulty(clinic.store, STORE_CALLS, Outage(StoreUnavailableError("503"), carried_out=carried_out))
    async with clinic.running(store=store):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        await clinic.said(TaskAnswered)
    assert answer.outcome == "done"
    assert len(clinic.training.trained) == len(await clinic.objects("answers/")) == 1
    assert len(await clinic.objects("consent/")) == 1


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_scheduler_that_is_away_delays_and_trains_once(tmp_path: Path, carried_out: bool) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    fault = Outage(SchedulerUnavailableError("502"), carried_out=carried_out)
    async with clinic.running(scheduler=Faulty(clinic.scheduler, SCHEDULER_CALLS, fault)):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert len(clinic.training.trained) == 1


async def test_an_outage_shows_in_the_sites_status_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "SEEN_EVERY", 0.01)
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    back = asyncio.Event()

    async def away(call: Callable[[], Awaitable[Any]]) -> Any:
        if not back.is_set():
            raise StoreUnavailableError("timeout")
        return await call()

    def seen(status: str) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return bool(clinic.of_type(SiteSeen)) and clinic.of_type(SiteSeen)[-1].status == status

        return look

    async with clinic.running(store=Faulty(clinic.store, STORE_CALLS, away)):
        await clinic.hub.send(clinic.offer())
        await eventually(seen("degraded"))
        assert clinic.of_type(SiteSeen)[-1].detail == "the object store is away"
        back.set()
        await clinic.consent()
        await eventually(seen("ok"))


async def test_a_broker_that_is_away_does_not_hold_up_an_answer(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    go_on = Event()
    clinic.training.before = lambda folder, cancelled: assert_true(go_on.wait(5))
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        clinic.broker.stop()
        go_on.set()
        answer = await clinic.answer(clinic.start())
        clinic.broker.start()
        await clinic.said(TaskAnswered)
    assert answer.outcome == "done"


def assert_true(value: bool) -> None:
    assert value


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_leaves_no_partial_file_and_the_task_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "SEEN_EVERY", 0.01)
    clinic = Clinic(tmp_path)
    clinic.model = tensors(weight=[0.0] * 500_000)
    await clinic.open_experiment()

    async def said_to_be_full() -> bool:
        return any(seen.detail == "the disk is full" for seen in clinic.of_type(SiteSeen))

    async def no_part_of_the_model_left() -> bool:
        return not any(clinic.settings.paths.spool.rglob("model.safetensors*"))

    async with clinic.running():
        await clinic.enrol()
        with files_at_most(2**20):
            await clinic.hub.send(clinic.start())
            await eventually(said_to_be_full)
            await eventually(no_part_of_the_model_left)
            assert clinic.training.trained == []
            assert await clinic.objects("answers/") == ()
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"


@pytest.mark.parametrize("says_so", [True, False], ids=["says so", "leaves nothing"])
async def test_a_training_that_found_the_disk_full_begins_again_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says_so: bool
) -> None:
    monkeypatch.setattr(duty, "SEEN_EVERY", 0.01)
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    whole, full = shutil.disk_usage(tmp_path), shutil.disk_usage(tmp_path)._replace(free=2**19)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)

    def find_no_room(folder: Path, cancelled: Event) -> None:
        if not says_so:
            raise OSError(errno.ENOSPC, "no room")

    async def said_to_be_full() -> bool:
        return any(seen.detail == "the disk is full" for seen in clinic.of_type(SiteSeen))

    clinic.training.before = find_no_room
    clinic.training.change = failing("disk_full", "train")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await eventually(said_to_be_full)
        assert len(clinic.training.trained) == 1
        clinic.training.before, clinic.training.change = lambda folder, cancelled: None, {}
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: whole)
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert len(clinic.training.trained) == 2


async def test_a_disk_that_is_full_again_and_again_ends_the_attempt(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    clinic.training.change = failing("disk_full", "train")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "disk_full")
    assert len(clinic.training.trained) == 2


async def test_a_training_given_up_is_not_begun_anew_by_a_machine_that_has_forgotten_it(
    tmp_path: Path,
) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()

    def crash(folder: Path, cancelled: Event) -> None:
        raise MemoryError

    async def is_given_up() -> bool:
        return any(line["what"] == "answer" for line in clinic.audit)

    async def no_answer_is_stored(call: Callable[[], Awaitable[Any]]) -> Any:
        if clinic.training.trained:
            raise StoreUnavailableError("503")
        return await call()

    clinic.training.before = crash
    async with clinic.running(store=Faulty(clinic.store, STORE_CALLS, no_answer_is_stored)):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await eventually(is_given_up)
    rebooted = InlineScheduler(clinic.settings.paths.spool, clinic.training, threads=False)
    async with clinic.running(scheduler=rebooted):
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "crashed")
    assert len(clinic.training.trained) == 2


class OneAnswer:
    """A scheduler that has the same to say of every run."""

    def __init__(self, *, trigger: Exception | None = None, wait: Exception | RunEnd) -> None:
        self._trigger = trigger
        self._wait = wait
        self.triggered = 0

    async def trigger(self, task: str, *, again: bool = False) -> None:
        self.triggered += 1
        if self._trigger is not None:
            raise self._trigger

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        if isinstance(self._wait, Exception):
            raise self._wait
        return self._wait

    async def cancel(self, task: str) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("scheduler", "outcome", "code", "triggered"),
    [
        (
            OneAnswer(trigger=SchedulerError("dag_missing", "no such DAG"), wait=RunEnd(True)),
            "failed",
            "dag_missing",
            1,
        ),
        (OneAnswer(wait=SchedulerError("dag_paused", "unpause it")), "failed", "dag_paused", 1),
        (OneAnswer(wait=RunEnd(True)), "failed", "no_result", 1),
        (OneAnswer(wait=RunEnd(False, "import_error", "/opt/dags/x.py")), "failed", "import_error", 2),
        (OneAnswer(wait=RunEnd(False)), "failed", "crashed", 2),
        (OneAnswer(wait=RunEnd(False, "cancelled")), "cancelled", "cancelled", 1),
        (OneAnswer(wait=UnknownRunError()), "failed", "run_lost", 2),
    ],
)
async def test_what_the_scheduler_says_is_answered_with_its_reason(
    tmp_path: Path, scheduler: OneAnswer, outcome: str, code: str, triggered: int
) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    scheduler.triggered = 0
    async with clinic.running(scheduler=scheduler):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.by_hub, answer.failure.code, answer.failure.hint) == (
        outcome,
        False,
        code,
        "the run was stopped at the clinic" if outcome == "cancelled" else answer.failure.hint,
    )
    assert "/opt" not in answer.failure.hint
    assert scheduler.triggered == triggered


class SlowToStop:
    """A scheduler whose first attempt trains for ever and takes its time to stop; `course` is what happened."""

    def __init__(self, inner: Scheduler) -> None:
        self._inner = inner
        self.course: list[str] = []

    async def trigger(self, task: str, *, again: bool = False) -> None:
        self.course.append(f"trigger {task[-3:]}")
        if not task.endswith("a01"):
            await self._inner.trigger(task, again=again)

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        if task.endswith("a01"):
            began()
            await asyncio.Event().wait()
        return await self._inner.wait(task, began=began)

    async def cancel(self, task: str) -> None:
        await asyncio.sleep(0.02)
        self.course.append(f"stopped {task[-3:]}")

    async def close(self) -> None: ...


async def test_a_higher_attempt_begins_when_the_lower_one_has_stopped_and_is_answered(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, site="slots = 2")
    await clinic.open_experiment()
    scheduler = SlowToStop(clinic.scheduler)
    async with clinic.running(scheduler=scheduler):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await clinic.hub.send(clinic.start(attempt=2))
        second = await clinic.answer(clinic.start(attempt=2))
        first = await clinic.answer(clinic.start())
    assert (first.outcome, first.by_hub, first.failure.code) == ("cancelled", True, "superseded")
    assert second.outcome == "done"
    assert scheduler.course == ["trigger a01", "stopped a01", "trigger a02"]


def break_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a fault of the code, which no waiting mends."""

    def broken(self: AuditLog, what: str, **facts: Any) -> LogHead:
        raise RuntimeError("a fault")

    monkeypatch.setattr(AuditLog, "write", broken)


async def left_for_later(logs: list[Any]) -> None:
    async def left() -> bool:
        return "left_for_later" in [line["event"] for line in logs]

    await eventually(left)


async def test_a_task_that_came_to_nothing_is_taken_up_when_the_hub_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    clinic.training.before = lambda folder, cancelled: break_the_log(monkeypatch)
    with capture_logs() as logs:
        async with clinic.running():
            await clinic.enrol()
            await clinic.hub.send(clinic.start())
            await left_for_later(logs)
            monkeypatch.undo()
            await clinic.hub.send(clinic.start())
            answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert len(clinic.training.trained) == 1


async def test_an_offer_that_came_to_nothing_is_answered_when_the_hub_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    break_the_log(monkeypatch)
    with capture_logs() as logs:
        async with clinic.running():
            await clinic.hub.send(clinic.offer())
            await left_for_later(logs)
            monkeypatch.undo()
            await clinic.hub.send(clinic.offer())
            consent = await clinic.consent()
            await clinic.hub.send(clinic.offer())
            await clinic.all_handled()
            await clinic.hub.send(clinic.start())
            await clinic.answer(clinic.start())
    assert (consent.verdict, consent.number) == ("granted", 1)
    assert len(await clinic.objects("consent/")) == 1


async def test_what_had_no_bucket_is_said_when_the_hub_repeats_it_and_there_is_one(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)

    async def neither_stored() -> bool:
        return {"consent_not_stored", "answer_not_stored"} <= {line["event"] for line in logs}

    with capture_logs() as logs:
        async with clinic.running():
            await clinic.hub.send(clinic.offer())
            await clinic.hub.send(clinic.start())
            await eventually(neither_stored)
            await clinic.open_experiment()
            assert (await clinic.enrol()).verdict == "granted"
            await clinic.hub.send(clinic.start())
            assert (await clinic.answer(clinic.start())).outcome == "done"


async def test_an_inbox_that_cannot_forget_for_want_of_room_does_not_end_the_agent(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    long_ago = wall_clock() - REMEMBERED - timedelta(days=1)
    with Inbox.open(clinic.settings.paths.inbox, durable=False) as inbox:
        for round_ in range(1, 2000):
            inbox.take(clinic.cancel(clinic.start(round=round_)), at=long_ago)

    def known() -> bool:
        database = sqlite3.connect(clinic.settings.paths.inbox)
        try:
            return bool(database.execute("SELECT count(*) FROM messages").fetchone()[0])
        finally:
            database.close()

    async def forgotten() -> bool:
        return not known()

    with files_at_most(40 * 1024):  # enough to read by, and not to delete so many
        async with clinic.running() as agent:
            assert agent.ready.is_set()
            assert known()
            files = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
            await eventually(forgotten)


async def test_an_error_of_the_agents_own_fails_that_task_and_no_other(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    (clinic.settings.paths.spool).mkdir()
    in_the_way = clinic.settings.paths.spool / "carry"
    async with clinic.running():
        await clinic.enrol()
        in_the_way.write_text("a file where a folder should be")
        await clinic.hub.send(clinic.start())
        broken = await clinic.answer(clinic.start())
        in_the_way.unlink()
        await clinic.hub.send(clinic.start(attempt=2))
        done = await clinic.answer(clinic.start(attempt=2))
    assert (broken.outcome, broken.failure.code) == ("failed", "agent_error")
    assert done.outcome == "done"


async def test_a_task_whose_bucket_is_gone_ends_without_an_answer(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    gone = clinic.start(experiment="elsewhere")
    async with clinic.running():
        await clinic.hub.send(gone)
        await clinic.all_handled()
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"
    async with clinic.running():
        seen = clinic.of_type(SiteSeen)[-1]
    assert seen.tasks == ()


async def test_trainers_that_cannot_be_listed_show_in_the_status(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()

    async def broken() -> tuple[Any, ...]:
        raise TrainersError("python cannot be started")

    async with clinic.running(catalogue=broken):
        seen = await clinic.said(SiteSeen)
    assert (seen.trainers, seen.status, seen.detail) == ((), "degraded", "the trainers installed here cannot be listed")


def test_outages_are_told_from_errors_that_do_not_mend(tmp_path: Path) -> None:
    assert outage(OSError(errno.ENOSPC, "")) == "the disk is full"
    assert outage(OSError(errno.EACCES, "")) is None
    assert outage(StoreUnavailableError()) == "the object store is away"
    assert outage(AccessDeniedError()) == "the object store refuses this site's login"
    assert outage(BusUnavailableError()) == "the broker is away"
    assert outage(ValueError()) is None
    database = sqlite3.connect(tmp_path / "full.sqlite")
    database.execute("CREATE TABLE t (x)")
    database.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    with pytest.raises(sqlite3.OperationalError) as mistaken:
        database.execute("SELECT nonsense FROM nowhere")
    database.close()
    assert outage(full.value) == "the inbox cannot be written"
    assert outage(mistaken.value) is None
