"""A person's no stands: no offer, no restart and no task on its way undoes it, and a tightened policy holds at once."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from clinic import EXPERIMENT, POLICY, Clinic, eventually, failing, manifest_of
from test_site_agent_consent import Away, until_cancelled, verdicts

from wardround.runtime.clock import wall_clock
from wardround.runtime.store.port import StoreUnavailableError
from wardround.site_agent import training
from wardround.site_agent.scheduler.port import Began, RunEnd
from wardround_messages.events import MetricsReported, TaskStarted
from wardround_messages.names import Task

pytestmark = pytest.mark.timeout(120)

MANUAL = POLICY + 'approval = "manual"\n'
TEXT = POLICY.replace("[leave]", '[leave]\nerrors = "text"')


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    """A clinic in which rules decide, and whose trainings are in threads."""
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    return clinic


def inbox_of(agent: Any) -> Any:
    return agent._on_duty._site.inbox


def nothing_open(agent: Any) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return inbox_of(agent).open_offers() == ()

    return look


# --- offers that come after, or waited before -------------------------------------------------------------------------


async def test_a_refusal_answers_every_older_offer_too(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await agent.stop()
        await clinic.hub.send(clinic.offer())
        await clinic.hub.send(clinic.offer(offer=5))
        await clinic.all_handled()
        await agent.refuse(EXPERIMENT, "not this year")
        await agent.resume()
        await eventually(nothing_open(agent), 30)
        assert verdicts(inbox_of(agent).consents_of(EXPERIMENT)) == ["declined"]


async def test_of_several_offers_that_waited_the_newest_is_answered(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await agent.stop()
        await clinic.hub.send(clinic.offer(offer=5, rounds=20))
        await clinic.hub.send(clinic.offer(rounds=10))
        await clinic.all_handled()
        await agent.resume()
        await eventually(nothing_open(agent), 30)
        (consent,) = inbox_of(agent).consents_of(EXPERIMENT)
    assert (consent.verdict, consent.offer, consent.rounds) == ("granted", 5, 20)


@pytest.mark.parametrize("approval", ["automatic", "manual"])
async def test_what_a_person_took_back_is_granted_by_no_rule_until_a_person_approves(
    clinic: Clinic, approval: str
) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.withdraw(EXPERIMENT, "the ethics board asks for it")
        clinic.policy.write_text(POLICY + f'approval = "{approval}"\n')
        await clinic.hub.send(clinic.offer(offer=7))
        again = await clinic.consent(3)
        await clinic.hub.send(clinic.start())
        refused = await clinic.answer(clinic.start())
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=9))
        assert (await clinic.consent(5)).verdict == "granted"
    assert (again.verdict, again.code, again.offer) == ("declined", "withdrawn", 7)
    assert (refused.outcome, refused.failure.code) == ("refused", "no_consent")


async def test_what_a_person_refused_is_granted_by_no_rule_under_another_manifest_either(clinic: Clinic) -> None:
    clinic.policy.write_text(MANUAL)
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.refuse(EXPERIMENT, "not this year")
        clinic.policy.write_text(POLICY)
        await clinic.hub.send(clinic.offer(offer=7))
        again = await clinic.consent(3)
        clinic.manifest = manifest_of(training={"epochs": 2})
        await clinic.hub.send(clinic.offer(offer=9))
        other = await clinic.consent()
        await agent.approve(EXPERIMENT)
        assert (await clinic.consent(2)).verdict == "granted"
    assert (again.verdict, again.code) == (other.verdict, other.code) == ("declined", "refused_by_person")


async def test_a_no_to_more_rounds_leaves_those_granted_and_stands_when_they_are_asked_for_again(
    clinic: Clinic,
) -> None:
    clinic.policy.write_text(MANUAL)
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=7, rounds=8))
        await clinic.consent(3)
        await agent.refuse(EXPERIMENT, "five are enough")
        clinic.policy.write_text(POLICY)
        await clinic.hub.send(clinic.offer(offer=9, rounds=8))
        more = await clinic.consent(5)
        await clinic.hub.send(clinic.offer(offer=11, rounds=5))
        same = await clinic.consent(6)
    assert (more.verdict, more.code) == ("declined", "refused_by_person")
    assert (same.verdict, same.rounds) == ("granted", 5)


# --- tasks on their way ----------------------------------------------------------------------------------------------


async def test_a_task_that_began_while_the_withdrawal_waited_for_its_turn_is_ended(clinic: Clinic) -> None:
    clinic.training.before = until_cancelled
    async with clinic.running() as agent:
        await clinic.enrol()
        async with agent._on_duty.enrolment._turn(EXPERIMENT):
            withdrawing = asyncio.create_task(agent.withdraw(EXPERIMENT, ""))
            await clinic.hub.send(clinic.start())
            await clinic.said(TaskStarted, 30)
        await withdrawing
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("cancelled", "withdrawn")
    assert await clinic.objects("updates/") == ()


def take_back(clinic: Clinic, agent: Any) -> None:
    """As a withdrawal does at the moment in which it counts, before the tasks in hand are ended."""
    (grant,) = inbox_of(agent).grants(EXPERIMENT)
    inbox_of(agent).keep_consent(
        grant.model_copy(update={"number": grant.number + 1, "verdict": "withdrawn", "code": "withdrawn"})
    )


async def test_the_consent_is_looked_at_again_when_the_training_is_over(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    async with clinic.running() as agent:
        await clinic.enrol()
        clinic.training.before = lambda folder, cancelled: take_back(clinic, agent)
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "no_consent")
    assert await clinic.objects("updates/") == ()


class FailsOnce:
    """A store whose first `put` comes to nothing, and before which something happens."""

    def __init__(self, store: Any, happens: Callable[[], None]) -> None:
        self._store = store
        self._happens = happens
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, *args: Any, **more: Any) -> Any:
        if not self._failed:
            self._failed = True
            self._happens()
            raise StoreUnavailableError("away")
        return await self._store.put(*args, **more)


@pytest.mark.parametrize("task", [Task.TRAIN, Task.INITIALISE])
async def test_an_update_that_waits_for_the_store_does_not_leave_after_a_withdrawal(clinic: Clinic, task: Task) -> None:
    store = FailsOnce(clinic.store, lambda: take_back(clinic, agent))
    async with clinic.running(store=store) as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start(task=task))
        answer = await clinic.answer(clinic.start(task=task))
    assert (answer.outcome, answer.failure.code, answer.update) == ("refused", "no_consent", None)
    assert await clinic.objects("updates/") == ()


async def test_a_run_goes_on_in_no_agent_that_begins_while_the_clinic_is_stopped_and_the_store_away(
    clinic: Clinic,
) -> None:
    clinic.training.before = until_cancelled
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted, 30)
        agent._on_duty._site.standstill.begin(at=wall_clock(), by="alice", reason="")
    store = Away(clinic.store)

    async def ended() -> bool:
        return str(clinic.start().task_id) not in clinic.scheduler._runs.going()

    async with clinic.running(store=store):
        await eventually(ended, 20)
        store.back = True
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "site_stopped")


async def test_a_stop_ends_what_is_in_hand_also_where_a_resume_went_unnoticed(clinic: Clinic) -> None:
    clinic.training.before = until_cancelled
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.stop()
        agent._on_duty._site.standstill.end()  # as the command does for an agent that is down
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted, 30)
        await agent.stop()
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("cancelled", "site_stopped")


async def test_a_stop_names_what_ended_since_its_file_was_written(clinic: Clinic) -> None:
    clinic.training.before = until_cancelled
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted, 30)
        agent._on_duty._site.standstill.begin(at=wall_clock(), by="alice", reason="")
        agent._on_duty.heed()
        await clinic.answer(clinic.start())
        assert await agent._on_duty.stop(by="alice", reason="") == {clinic.start().task_id: True}
        assert await agent._on_duty.stop(by="alice", reason="") == {}


class SlowToLeave:
    """A scheduler whose `wait` takes a while to end when it is cancelled. `overlapped`: a `cancel` came meanwhile."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._waited_for = 0
        self.overlapped: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def wait(self, task: str, *, began: Began) -> RunEnd:
        self._waited_for += 1
        try:
            return await self._inner.wait(task, began=began)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            raise
        finally:
            self._waited_for -= 1

    async def cancel(self, task: str) -> None:
        self.overlapped.append(self._waited_for > 0)
        await self._inner.cancel(task)


async def test_a_run_is_cancelled_when_nobody_waits_for_it_any_more(clinic: Clinic) -> None:
    clinic.training.before = until_cancelled
    scheduler = SlowToLeave(clinic.scheduler)
    async with clinic.running(scheduler=scheduler) as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted, 30)
        await agent.stop()
        await clinic.answer(clinic.start())
    assert scheduler.overlapped
    assert not any(scheduler.overlapped)


# --- a policy that was tightened -------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [None, POLICY.replace('"loss", ', ""), MANUAL])
async def test_metrics_leave_as_the_policy_stands_when_they_do(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, now: str | None
) -> None:
    monkeypatch.setattr(training, "REPORTED_EVERY", 0.01)
    go_on = Event()

    def write_some(folder: Path, cancelled: Event) -> None:
        (folder / "metrics.jsonl").write_text('{"v":1,"t":1.0,"kind":"metric","name":"loss","value":9.0}\n' * 5)
        assert go_on.wait(30)

    clinic.training.before = write_some
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        first = await clinic.said(MetricsReported, 30)
        if now is None:
            clinic.policy.unlink()
        else:
            clinic.policy.write_text(now)
        go_on.set()
        await clinic.answer(clinic.start())
    assert first.metrics == {"loss": 9.0}
    assert [report.metrics for report in clinic.of_type(MetricsReported) if report.metrics] == [{"loss": 9.0}]


@pytest.mark.parametrize("now", [None, POLICY, MANUAL])
async def test_words_stay_where_the_policy_no_longer_lets_them_leave(clinic: Clinic, now: str | None) -> None:
    clinic.policy.write_text(TEXT)
    clinic.training.change = failing("trainer_error", phase="train", text="patient-7")

    def tighten(folder: Path, cancelled: Event) -> None:
        if now is None:
            clinic.policy.unlink()
        else:
            clinic.policy.write_text(now)

    clinic.training.before = tighten
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code, answer.failure.hint) == ("failed", "trainer_error", "")


async def test_of_a_check_no_words_leave_though_the_policy_lets_them(clinic: Clinic) -> None:
    clinic.policy.write_text(TEXT)
    clinic.training.change = failing("data_missing", text="patient-7")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(task=Task.CHECK))
        answer = await clinic.answer(clinic.start(task=Task.CHECK))
    assert (answer.outcome, answer.failure.code, answer.failure.hint) == ("refused", "data_missing", "")
