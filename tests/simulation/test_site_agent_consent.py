"""People at a clinic: they approve, refuse and withdraw, stop everything and let it work again."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from clinic import BUCKET, EXPERIMENT, POLICY, Clinic, eventually, manifest_of

from wardround.runtime.clock import wall_clock
from wardround.runtime.store.port import StoreUnavailableError
from wardround.site_agent import duty
from wardround.site_agent.audit.chain import opened
from wardround.site_agent.audit.check import verify
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.judgement import RefusedError
from wardround_messages.events import MetricsReported, SiteSeen, TaskAnswered, TaskStarted
from wardround_messages.names import Task
from wardround_messages.objects import Consent

MANUAL = POLICY + 'approval = "manual"\n'


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path, policy=MANUAL)
    await clinic.open_experiment()
    return clinic


@pytest.fixture
async def training(tmp_path: Path) -> Clinic:
    """A clinic in which rules decide, and whose trainings go on until they are cancelled."""
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled
    return clinic


def until_cancelled(folder: Path, cancelled: Event) -> None:
    assert cancelled.wait(30)
    raise SystemExit


def verdicts(consents: tuple[Consent, ...]) -> list[str]:
    return [consent.verdict for consent in consents]


# --- a person's word -------------------------------------------------------------------------------------------------


async def test_what_a_person_refuses_is_declined_and_may_be_approved_later(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.refuse(EXPERIMENT, "not this year", by="alice")
        declined = await clinic.consent(2)
        with pytest.raises(RefusedError, match="nothing_pending"):
            await agent.refuse(EXPERIMENT, "again")
        await agent.approve(EXPERIMENT, by="alice")
        assert (await clinic.consent(3)).verdict == "granted"
    assert (declined.verdict, declined.code, declined.reason) == ("declined", "refused_by_person", "not this year")
    assert [(line["action"], line["by"]) for line in clinic.audit if line["what"] == "person"] == [
        ("refuse", "alice"),
        ("approve", "alice"),
    ]


async def test_people_who_decide_all_at_once_leave_one_consistent_history(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        said = await asyncio.gather(
            *(
                decide
                for number in range(10)
                for decide in (
                    agent.approve(EXPERIMENT, by=f"a{number}"),
                    agent.withdraw(EXPERIMENT, "no", by=f"w{number}"),
                    agent.refuse(EXPERIMENT, "no", by=f"r{number}"),
                )
            ),
            return_exceptions=True,
        )
    assert {type(each) for each in said} <= {type(None), RefusedError}
    stored = await clinic.objects("consent/")
    consents = [await clinic.consent(number) for number in range(1, len(stored) + 1)]
    assert [consent.number for consent in consents] == list(range(1, len(stored) + 1))
    assert all(one.verdict != following.verdict for one, following in pairwise(consents))
    with Inbox.read(clinic.settings.paths.inbox) as inbox:
        assert inbox.consents_of(EXPERIMENT)[-1] == consents[-1]
    with opened(clinic.settings.paths.log) as lines:
        assert verify(lines, ()).lines == len(clinic.audit)


async def test_while_more_rounds_wait_for_a_persons_word_those_granted_are_trained(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=9, rounds=8))
        assert (await clinic.consent(3)).verdict == "pending"
        await clinic.hub.send(clinic.start(round=5))
        assert (await clinic.answer(clinic.start(round=5))).outcome == "done"
        await clinic.hub.send(clinic.start(round=6))
        refused = await clinic.answer(clinic.start(round=6))
        await agent.approve(EXPERIMENT)
        assert (await clinic.consent(4)).rounds == 8
        await clinic.hub.send(clinic.start(round=6, attempt=2))
        assert (await clinic.answer(clinic.start(round=6, attempt=2))).outcome == "done"
    assert (refused.outcome, refused.failure.code) == ("refused", "no_consent")


async def test_refusing_more_rounds_leaves_those_granted_and_withdrawing_takes_these_back(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=9, rounds=8))
        await clinic.consent(3)
        await agent.refuse(EXPERIMENT, "five are enough")
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"
        await agent.withdraw(EXPERIMENT, "")
        assert (await clinic.consent(5)).verdict == "withdrawn"
        await clinic.hub.send(clinic.start(round=2))
        assert (await clinic.answer(clinic.start(round=2))).outcome == "refused"
        with pytest.raises(RefusedError, match="nothing_granted"):
            await agent.withdraw(EXPERIMENT, "again")


async def test_withdrawing_ends_also_what_stands_while_more_rounds_are_considered(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=9, rounds=8))
        await clinic.consent(3)
        await agent.withdraw(EXPERIMENT, "")
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "refused"


async def test_a_person_is_asked_once_for_a_manifest_and_again_for_another(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=3))
        again = await clinic.consent(3)
        clinic.manifest = manifest_of(training={"epochs": 2})
        await clinic.hub.send(clinic.offer(offer=7))
        other = await clinic.consent()
    assert (again.verdict, again.code, again.offer) == ("granted", "approved", 3)
    assert (other.verdict, other.number) == ("pending", 1)


async def test_a_person_may_approve_what_a_rule_granted_before_the_policy_asked_for_one(clinic: Clinic) -> None:
    clinic.policy.write_text(POLICY)
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        assert len(await clinic.objects("consent/")) == 1  # the rule is enough
        clinic.policy.write_text(MANUAL)
        await agent.approve(EXPERIMENT)
        assert (await clinic.consent(2)).code == "approved"
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"


async def test_what_a_person_says_counts_at_once_and_leaves_when_the_store_is_back(clinic: Clinic) -> None:
    store = Away(clinic.store)
    async with clinic.running(store=store) as agent:
        await clinic.hub.send(clinic.offer())
        await eventually(store.was_asked)
        async with asyncio.timeout(2):
            given = await agent._on_duty.approve(EXPERIMENT, by="alice", reason="")
        assert await clinic.objects("consent/") == ()
        store.back = True
        assert (await clinic.consent(2)).verdict == "granted"
    assert verdicts(given) == ["granted"]


class Away:
    """A store that is not there until it is `back`."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._asked = False
        self.back = False

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            self._asked = True
            if not self.back:
                raise StoreUnavailableError("away")
            return await getattr(self._store, name)(*args, **options)

        return call

    async def was_asked(self) -> bool:
        return self._asked


async def test_a_consent_of_a_lost_inbox_can_be_withdrawn(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
    (clinic.folder / "inbox.sqlite").unlink()
    async with clinic.running() as agent:
        await agent.withdraw(EXPERIMENT, "the ethics board asks for it")
    assert (await clinic.consent(3)).verdict == "withdrawn"


async def test_a_lost_inbox_that_is_asked_for_more_rounds_still_knows_those_granted(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
    (clinic.folder / "inbox.sqlite").unlink()
    async with clinic.running():
        await clinic.hub.send(clinic.offer(offer=9, rounds=8))
        assert (await clinic.consent(3)).verdict == "pending"
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"


# --- everything stops ------------------------------------------------------------------------------------------------


async def test_stopping_ends_what_is_in_hand_and_refuses_what_comes(training: Clinic) -> None:
    clinic = training
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await agent.stop("fire drill", by="alice")
        ended = await clinic.answer(clinic.start())
        await clinic.hub.send(clinic.start(round=2))
        refused = await clinic.answer(clinic.start(round=2))
        (line,) = [line for line in clinic.audit if line["what"] == "person"]
    assert (ended.outcome, ended.by_hub, ended.failure.code) == ("cancelled", False, "site_stopped")
    assert (refused.outcome, refused.failure.phase, refused.failure.code) == ("refused", "policy", "site_stopped")
    assert (line["action"], line["by"], line["reason"]) == ("stop", "alice", "fire drill")
    assert "fire drill" not in refused.failure.hint
    assert len(clinic.training.trained) == 1
    assert (await clinic.objects("updates/")) == ()


async def test_an_offer_to_a_stopped_clinic_is_neither_granted_nor_declined_until_it_works_again(
    training: Clinic,
) -> None:
    clinic = training
    async with clinic.running() as agent:
        await agent.stop()
        await clinic.hub.send(clinic.offer())
        await clinic.all_handled()
        with pytest.raises(RefusedError, match="site_stopped"):
            await agent.approve(EXPERIMENT)
        assert await clinic.objects("consent/") == ()
        await agent.resume(by="alice")
        assert (await clinic.consent()).verdict == "granted"
        assert await clinic.objects("consent/") == await clinic.objects("consent/clinic-1/")


async def test_a_clinic_stays_stopped_over_a_restart(training: Clinic) -> None:
    clinic = training
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.stop("fire drill")
    async with clinic.running() as agent:
        await clinic.hub.send(clinic.offer(offer=4, rounds=8))
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).failure.code == "site_stopped"
        assert len(await clinic.objects("consent/")) == 1
        await agent.resume()
    clinic.training.before = lambda folder, cancelled: None
    async with clinic.running():
        assert (await clinic.consent(2)).rounds == 8
        await clinic.hub.send(clinic.start(round=2))
        assert (await clinic.answer(clinic.start(round=2))).outcome == "done"


async def test_a_training_goes_on_in_no_restarted_agent_of_a_clinic_that_was_stopped_meanwhile(
    training: Clinic,
) -> None:
    clinic = training
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        standstill = agent._on_duty._site.standstill
    standstill.begin(at=wall_clock(), by="alice", reason="")
    async with clinic.running():
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "site_stopped")
    assert str(clinic.start().task_id) not in clinic.scheduler._runs.going()


async def test_a_stop_returns_though_the_scheduler_hangs_and_says_what_is_not_over(
    training: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = training
    monkeypatch.setattr(duty, "STOPS_WITHIN", 0.05)
    scheduler = HangingCancel(clinic.scheduler)
    async with clinic.running(scheduler=scheduler) as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        async with asyncio.timeout(2):
            over = await agent._on_duty.stop(by="alice", reason="")
        assert over == {clinic.start().task_id: False}
        assert await clinic.objects("answers/") == ()  # not before the run is stopped
        scheduler.go_on.set()
        assert (await clinic.answer(clinic.start())).failure.code == "site_stopped"


class HangingCancel:
    """A scheduler whose `cancel` takes until it may `go_on`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def cancel(self, task: str) -> None:
        await self.go_on.wait()
        await self._inner.cancel(task)


async def test_a_task_that_was_being_stopped_when_the_agent_was_killed_does_not_go_on_once_resumed(
    training: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = training
    monkeypatch.setattr(duty, "STOPS_WITHIN", 0.05)
    async with clinic.running(scheduler=HangingCancel(clinic.scheduler)) as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await agent.stop()
        agent._on_duty._site.standstill.end()
    async with clinic.running():
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.by_hub, answer.failure.code) == ("refused", False, "site_stopped")


async def test_a_consent_that_waits_for_the_store_does_not_leave_a_clinic_that_is_stopped_meanwhile(
    training: Clinic,
) -> None:
    clinic, store = training, Away(training.store)
    async with clinic.running(store=store) as agent:
        await clinic.hub.send(clinic.offer())
        await eventually(store.was_asked)
        await agent.stop()
        store.back = True

        async def given_up() -> bool:
            return len(agent._on_duty.enrolment._store._storing._locks) == 0

        await eventually(given_up)
        assert await clinic.objects("consent/") == ()
        await agent.resume()
        assert (await clinic.consent()).verdict == "granted"


async def test_a_no_leaves_a_stopped_clinic_too(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await agent.stop()
        await agent.withdraw(EXPERIMENT, "for good")
        assert (await clinic.consent(3)).verdict == "withdrawn"


async def test_the_hub_sees_at_once_that_a_clinic_is_stopped_and_that_it_works_again(training: Clinic) -> None:
    clinic = training

    def seen(status: str) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return bool(clinic.of_type(SiteSeen)) and clinic.of_type(SiteSeen)[-1].status == status

        return look

    async with clinic.running() as agent:
        await clinic.said(SiteSeen)
        await agent.stop("fire drill")
        await eventually(seen("degraded"))
        assert clinic.of_type(SiteSeen)[-1].detail == "a person at the clinic has stopped all work there"
        assert agent.trouble == clinic.of_type(SiteSeen)[-1].detail
        await agent.resume()
        await eventually(seen("ok"))
        assert agent.trouble is None


async def test_what_waited_to_be_said_is_not_said_by_a_stopped_clinic(training: Clinic) -> None:
    clinic = training
    clinic.training.before = lambda folder, cancelled: None
    async with clinic.running() as agent:
        await clinic.enrol()
        clinic.broker.stop()
        for _ in range(5):
            agent._on_duty._site.say(metrics_of(clinic))
        await agent.stop()
        clinic.broker.start()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskAnswered)
    # The first may have been on its way already when the broker went away.
    assert len(clinic.of_type(MetricsReported)) <= 1


def metrics_of(clinic: Clinic) -> MetricsReported:
    start = clinic.start()
    return MetricsReported(
        site=start.site,
        experiment=start.experiment,
        round=start.round,
        task=Task.TRAIN,
        attempt=1,
        progress=None,
        metrics={"loss": 0.5},
        epoch=None,
        step=None,
    )


async def test_the_clinic_that_was_stopped_twice_keeps_the_first_word(training: Clinic) -> None:
    async with training.running() as agent:
        await agent.stop("first", by="alice")
        await agent.stop("second", by="bob")
        assert agent._on_duty.stopped.by == "alice"
        await agent.resume()
        await agent.resume()
        assert agent._on_duty.stopped is None


async def test_the_inbox_is_read_while_the_agent_works_and_after(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        with Inbox.read(clinic.settings.paths.inbox) as inbox:
            assert verdicts(inbox.consents_of(EXPERIMENT)) == ["pending"]
    with Inbox.read(clinic.settings.paths.inbox) as inbox:
        assert inbox.experiments_offered() == (EXPERIMENT,)
        assert inbox.came_at(clinic.offer()) is not None
    assert sorted(path.name for path in clinic.folder.glob("inbox*")) == ["inbox.sqlite", "inbox.sqlite.lock"]
    assert await clinic.store.list(BUCKET, "consent/") != ()
