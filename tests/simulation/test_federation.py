"""Services that die, are doubled, or lose their messages: the experiment goes on by itself."""

import asyncio
import random
from pathlib import Path

import pytest
from whole import clinics_for, counting, finish, journal_of, run, state_of

from wardround.coordinator.app import Coordinator
from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.messaging import Messenger, Received
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import Ending, carry_through
from wardround.simulation.sites import RESEARCHER
from wardround_messages import journal as facts
from wardround_messages.commands import AbortExperiment, Command, ExtendExperiment, PauseExperiment, StartExperiment
from wardround_messages.events import CommandRefused, EntryRecorded, ExperimentRefused
from wardround_messages.manifest import Brought, Evaluation, Forked, Manifest, ModelPlan
from wardround_messages.messages import Event
from wardround_messages.names import ANSWERS_PREFIX, DEAD_QUEUE, HUB, METRICS_STREAM, ConsentKey, JournalKey, bucket_of


class Researcher:
    """Hears all that is said, and says what a test wants said."""

    def __init__(self, federation: Federation) -> None:
        self.bus = MemoryBus(federation.broker, RESEARCHER)
        self.messenger = Messenger(self.bus, service="client", origin=HUB, clock=federation.clock)
        self.heard: list[Event] = []
        self._news = asyncio.Event()

    async def listen(self) -> None:
        await self.messenger.listen(METRICS_STREAM, self._on_event, prefetch=1, offset="first")

    async def _on_event(self, received: Received) -> None:
        assert isinstance(received.message, Event)
        self.heard.append(received.message)
        self._news.set()

    async def say(self, command: Command) -> str:
        return await self.messenger.send(command)

    async def until(self, kind: type, **fields: object) -> None:
        """Wait for an event, or the event of a fact, of that kind."""
        async with asyncio.timeout(20):
            while not any(_is(event, kind, fields) for event in self.heard):
                self._news.clear()
                await self._news.wait()


def _is(event: Event, kind: type, fields: dict[str, object]) -> bool:
    subject = event.body if isinstance(event, EntryRecorded) and issubclass(kind, facts.Fact) else event
    return isinstance(subject, kind) and all(getattr(subject, name) == value for name, value in fields.items())


async def researcher(federation: Federation) -> Researcher:
    one = Researcher(federation)
    await one.listen()
    return one


SERVICES = ("coordinator-1", "aggregator-1", "metrics", "clinic-1", "clinic-3")


@pytest.mark.parametrize("victim", SERVICES)
async def test_a_service_killed_in_every_round_and_started_again_changes_nothing(tmp_path: Path, victim: str) -> None:
    manifest = counting(count=4)
    _, undisturbed = await run(tmp_path / "plain", manifest)
    federation = Federation(tmp_path / "hurt", clinics_for(tmp_path / "hurt", manifest), interval=0.5)
    async with federation.running():
        one = await researcher(federation)
        ending = asyncio.create_task(carry_through(federation, manifest))
        for round_ in range(1, 5):
            await one.until(facts.StepOpened, round=round_)
            await federation.kill(victim)
            await asyncio.sleep(0.02)
            federation.start(victim)
        assert await asyncio.wait_for(ending, 30) == Ending("finished")
        hurt = state_of(await journal_of(federation, manifest.id))
        await one.bus.close()
    assert hurt.models == undisturbed.models


async def test_rounds_close_with_every_announcement_lost(tmp_path: Path) -> None:
    manifest = counting(count=2)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest), interval=0.1)
    federation.broker.disconnect("store")
    ending, _ = await finish(federation, manifest)
    assert ending == Ending("finished")


async def test_a_wiped_broker_is_filled_again_by_itself(tmp_path: Path) -> None:
    manifest = counting(count=3)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest), interval=0.2)
    async with federation.running():
        one = await researcher(federation)
        ending = asyncio.create_task(carry_through(federation, manifest))
        await one.until(facts.StepOpened, round=1)
        federation.broker.stop()
        federation.broker.wipe()
        await asyncio.sleep(0.05)
        federation.broker.start()
        assert await asyncio.wait_for(ending, 30) == Ending("finished")
        await one.bus.close()


async def test_the_same_command_goes_on_where_an_earlier_run_stopped(tmp_path: Path) -> None:
    manifest = counting(count=4)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        ending = asyncio.create_task(carry_through(federation, manifest))
        await one.until(facts.StepOpened, round=2)
        ending.cancel()
        await one.bus.close()
    again = Federation(tmp_path, clinics_for(tmp_path, manifest))
    ended, state = await finish(again, manifest)
    assert ended == Ending("finished")
    assert state.latest == 4
    once_more, same = await finish(Federation(tmp_path, clinics_for(tmp_path, manifest)), manifest)
    assert (once_more, same) == (Ending("finished"), state)


# --- what a researcher may do ----------------------------------------------------------------------------------------


async def test_the_same_manifest_twice_is_one_experiment_and_other_content_is_refused(tmp_path: Path) -> None:
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        for _ in range(2):
            await one.say(StartExperiment(manifest=manifest))
        await one.until(facts.ExperimentFinished)
        command = await one.say(StartExperiment(manifest=counting(count=2)))
        await one.until(ExperimentRefused, code="exists", command=command)
        entries = await journal_of(federation, manifest.id)
        assert [s.entry.body.kind for s in entries].count("ExperimentAccepted") == 1
        await one.bus.close()


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (counting(sites=5, id="too-many"), "unknown_site"),
        (counting(id="no-model", model=ModelPlan(initial=Brought(size=9, sha256="0" * 64))), "model_missing"),
        (
            counting(
                id="no-fork", model=ModelPlan(initial=Forked(experiment="gone", round=1, size=9, sha256="0" * 64))
            ),
            "model_missing",
        ),
    ],
    ids=["unknown site", "brought model missing", "forked model missing"],
)
async def test_an_experiment_that_cannot_be_is_refused_and_leaves_no_journal(
    tmp_path: Path, manifest: Manifest, code: str
) -> None:
    federation = Federation(tmp_path, clinics_for(tmp_path, counting()))
    async with federation.running():
        one = await researcher(federation)
        await one.say(StartExperiment(manifest=manifest))
        await one.until(ExperimentRefused, code=code)
        if bucket_of(manifest.id) in await federation.store.buckets():
            assert await federation.store.list(bucket_of(manifest.id), "journal/") == ()
        await one.bus.close()


async def test_commands_for_what_does_not_exist_or_has_ended_are_refused(tmp_path: Path) -> None:
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        await one.say(PauseExperiment(experiment="nothing"))
        await one.until(CommandRefused, code="unknown_experiment", experiment="nothing")
        await one.say(StartExperiment(manifest=manifest))
        await one.until(facts.ExperimentFinished)
        await one.say(PauseExperiment(experiment=manifest.id))
        await one.until(CommandRefused, code="ended")
        await one.bus.close()


async def test_an_experiment_is_extended_after_it_has_finished(tmp_path: Path) -> None:
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        await one.say(StartExperiment(manifest=manifest))
        await one.until(facts.ExperimentFinished, round=1)
        await one.say(ExtendExperiment(experiment=manifest.id, rounds=3))
        await one.until(facts.ExperimentFinished, round=3)
        await one.bus.close()


async def test_an_experiment_aborted_in_the_open_round_stops_at_the_sites(tmp_path: Path) -> None:
    manifest = counting(count=500)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        await one.say(StartExperiment(manifest=manifest))
        await one.until(facts.StepOpened, round=2)
        await one.say(AbortExperiment(experiment=manifest.id, reason="wrong data"))
        await one.until(facts.ExperimentAborted)
        await asyncio.sleep(0.2)
        answered = len(await federation.store.list(bucket_of(manifest.id), ANSWERS_PREFIX))
        await asyncio.sleep(0.2)
        assert len(await federation.store.list(bucket_of(manifest.id), ANSWERS_PREFIX)) == answered
        await one.bus.close()


async def test_a_fork_goes_on_from_another_experiments_model(tmp_path: Path) -> None:
    first = counting(count=2)
    federation = Federation(tmp_path, clinics_for(tmp_path, first))
    async with federation.running():
        assert await carry_through(federation, first) == Ending("finished")
        model = state_of(await journal_of(federation, first.id)).models[2]
        assert model is not None
        plan = ModelPlan(initial=Forked(experiment=first.id, round=2, size=model.size, sha256=model.sha256))
        fork = counting(count=1, id="fork", model=plan)
        assert await carry_through(federation, fork) == Ending("finished")
        forked = state_of(await journal_of(federation, "fork"))
    straight, state = await run(tmp_path / "straight", counting(count=3))
    assert straight == Ending("finished")
    assert forked.models[0] is not None
    assert forked.models[0].sha256 == model.sha256
    assert forked.models[1] is not None
    assert state.models[3] is not None
    assert forked.models[1].sha256 == state.models[3].sha256


async def test_an_initial_model_is_brought_as_a_file(tmp_path: Path) -> None:
    _, state = await run(tmp_path / "first", counting(count=1))
    model = state.models[1]
    assert model is not None
    file = tmp_path / "first" / "hub" / bucket_of("count") / model.key
    plan = ModelPlan(initial=Brought(size=model.size, sha256=model.sha256))
    manifest = counting(count=1, id="brought", model=plan)
    federation = Federation(tmp_path / "second", clinics_for(tmp_path / "second", manifest))
    async with federation.running():
        assert await carry_through(federation, manifest, brought=file) == Ending("finished")


async def test_commands_are_carried_out_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """A store takes its time: an abort must not overtake the start."""
    manifest = counting(count=3)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    make_bucket = federation.store.make_bucket

    async def slowly(bucket: str) -> None:
        await asyncio.sleep(0.05)
        await make_bucket(bucket)

    federation.store.make_bucket = slowly  # type: ignore[method-assign]
    async with federation.running():
        one = await researcher(federation)
        await one.say(StartExperiment(manifest=manifest))
        await one.say(AbortExperiment(experiment=manifest.id))
        await one.until(facts.ExperimentAborted)
        await one.bus.close()


# --- two coordinators ------------------------------------------------------------------------------------------------


async def test_a_coordinator_that_takes_over_knows_what_the_other_let_in(tmp_path: Path) -> None:
    manifest = counting(count=6)
    _, undisturbed = await run(tmp_path / "plain", manifest)
    federation = Federation(tmp_path / "two", clinics_for(tmp_path / "two", manifest), coordinators=2, interval=0.2)
    async with federation.running():
        one = await researcher(federation)
        ending = asyncio.create_task(carry_through(federation, manifest))
        await one.until(facts.StepOpened, round=2)
        await federation.kill("coordinator-1")
        assert await asyncio.wait_for(ending, 20) == Ending("finished")
        await one.say(PauseExperiment(experiment=manifest.id))
        await one.until(CommandRefused, code="ended")
        state = state_of(await journal_of(federation, manifest.id))
        await one.bus.close()
    assert state.models == undisturbed.models


async def test_two_coordinators_that_both_decide_write_one_history(tmp_path: Path) -> None:
    """With announcements lost both look by their timers; a store of uneven speed lets now one, now the other win."""
    manifest = counting(count=8)
    _, undisturbed = await run(tmp_path / "plain", manifest)
    federation = Federation(
        tmp_path / "two", clinics_for(tmp_path / "two", manifest), coordinators=2, aggregators=2, interval=0.02
    )
    federation.broker.disconnect("store")
    create, rng = federation.store.create, random.Random(7)

    async def unevenly(bucket: str, key: str, data: bytes) -> None:
        await asyncio.sleep(rng.choice([0.0, 0.03]))
        await create(bucket, key, data)

    federation.store.create = unevenly  # type: ignore[method-assign]
    async with federation.running():
        one = await researcher(federation)
        ending = asyncio.create_task(carry_through(federation, manifest))
        await one.until(facts.ExperimentAccepted)
        await federation.kill("coordinator-2")
        federation.start("coordinator-2")  # takes up at once what the other has let in
        async with asyncio.timeout(30):
            assert await ending == Ending("finished")
        entries = await journal_of(federation, manifest.id)
        await one.bus.close()
    assert state_of(entries).models == undisturbed.models
    assert len({stored.entry.writer for stored in entries}) == 2


# --- faults of others ------------------------------------------------------------------------------------------------


async def test_a_flipped_bit_in_the_journal_stops_that_experiment_and_no_other(tmp_path: Path) -> None:
    manifest = counting(count=2)
    await run(tmp_path, manifest)
    file = tmp_path / "hub" / bucket_of(manifest.id) / str(JournalKey(3))
    file.write_bytes(file.read_bytes().replace(b"granted", b"grantee", 1))
    other = counting(count=1, id="other")
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        await one.say(StartExperiment(manifest=other))
        await one.until(facts.ExperimentFinished)
        await one.say(ExtendExperiment(experiment=manifest.id, rounds=9))
        await one.until(CommandRefused, code="journal_broken")
        (refused,) = [event for event in one.heard if isinstance(event, CommandRefused)]
        assert "entry 3" in refused.reason
        await one.bus.close()


async def test_a_journal_that_breaks_under_a_run_ends_it_with_the_entry(tmp_path: Path) -> None:
    manifest = counting(count=300)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        ending = asyncio.create_task(carry_through(federation, manifest))
        await one.until(facts.StepOpened, round=1)
        (tmp_path / "hub" / bucket_of(manifest.id) / str(JournalKey(500))).write_text("{}")
        await federation.kill("coordinator-1")
        federation.start("coordinator-1")
        async with asyncio.timeout(20):
            ended = await ending
        assert (ended.state, ended.code) == ("failed", "journal_broken")
        await one.bus.close()


async def test_a_consent_that_cannot_be_read_counts_as_declined(tmp_path: Path) -> None:
    manifest = counting(count=1, quorum=2)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        await federation.store.make_bucket(bucket_of(manifest.id))
        key = ConsentKey("clinic-2", manifest.sha256[:16], 1)
        await federation.store.create(bucket_of(manifest.id), str(key), b"\x80\x04rubbish")
        await federation.kill("clinic-2")
        async with asyncio.timeout(20):
            assert await carry_through(federation, manifest) == Ending("finished")
        state = state_of(await journal_of(federation, manifest.id))
    assert state.sites["clinic-2"].verdict == "declined"


async def test_a_coordinator_that_is_woken_and_cancelled_in_the_same_turn_ends(tmp_path: Path) -> None:
    """`asyncio.wait_for` of Python 3.11 can swallow the cancellation then."""
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        one = await researcher(federation)
        await federation.kill("clinic-3")
        await one.say(StartExperiment(manifest=manifest))
        await one.until(facts.SiteConsented, site="clinic-2")
        for _ in range(30):
            coordinator = federation.services["coordinator-1"]
            assert isinstance(coordinator, Coordinator)
            await asyncio.sleep(0.01)
            for experiment in coordinator.experiments.values():
                experiment.wake()
            async with asyncio.timeout(5):
                await federation.kill("coordinator-1")
            federation.start("coordinator-1")
            await federation.services["coordinator-1"].ready.wait()
        await one.bus.close()


async def test_a_clinic_without_a_policy_declines_and_the_others_go_on(tmp_path: Path) -> None:
    manifest = counting(count=1, quorum=2)
    clinics = clinics_for(tmp_path, manifest)
    clinics[1].policy.unlink()
    ending, state = await finish(Federation(tmp_path, clinics), manifest)
    assert ending == Ending("finished")
    assert state.sites["clinic-2"].verdict == "declined"


async def test_nothing_ends_as_a_dead_letter_in_a_run_without_faults(tmp_path: Path) -> None:
    manifest = counting(count=2, evaluation=Evaluation(final=True))
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    await finish(federation, manifest)
    assert federation.broker.depth(DEAD_QUEUE) == 0
