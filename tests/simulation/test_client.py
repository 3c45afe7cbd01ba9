"""A researcher's and an operator's client on a whole federation, embedded."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from whole import clinics_for, counting, journal_of, run

from wardround.client.errors import NoAnswerError, NotThereError, RefusedError, UnusableError
from wardround.client.hub import CarriedOut, Hub, Started
from wardround.client.hubs import Connections
from wardround.metrics.view import ExperimentView
from wardround.runtime.bus.dead_letters import dead_letter
from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.port import BusUnavailableError, DeadLetterError, ForbiddenError, Packet
from wardround.runtime.store.transfer import file_digest
from wardround.simulation.federation import Federation
from wardround.simulation.sites import RESEARCHER
from wardround_messages import journal as facts
from wardround_messages.events import EntryRecorded
from wardround_messages.manifest import Best, Brought, Evaluation, Forked, Manifest, ModelPlan
from wardround_messages.names import COMMANDS, DEAD, DEAD_QUEUE, EVENTS, METRICS_STREAM, MODELS_BUCKET, bucket_of

pytestmark = pytest.mark.timeout(60)
OPERATOR = "operator"


def hub_of(federation: Federation, login: str = RESEARCHER, *, answers_within: float = 10.0) -> Hub:
    async def open_bus() -> MemoryBus:
        return MemoryBus(federation.broker, login)

    return Hub(Connections(federation.store, open_bus), clock=federation.clock, answers_within=answers_within)


@asynccontextmanager
async def whole(folder: Path, manifest: Manifest, **options: object) -> AsyncIterator[tuple[Federation, Hub]]:
    federation = Federation(folder, clinics_for(folder, manifest), interval=0.1, **options)  # type: ignore[arg-type]
    async with federation.running(), hub_of(federation) as hub:
        yield federation, hub


async def to_the_end(hub: Hub, experiment: str) -> list[ExperimentView]:
    async with asyncio.timeout(30), aclosing(hub.watch(experiment)) as views:
        return [view async for view in views]


async def until(hub: Hub, experiment: str, condition: Callable[[ExperimentView], bool]) -> ExperimentView:
    async with asyncio.timeout(30), aclosing(hub.watch(experiment)) as views:
        async for view in views:
            if condition(view):
                return view
    raise AssertionError("it ended before")


# --- starting --------------------------------------------------------------------------------------------------------


async def test_an_experiment_is_started_and_watched_to_its_end(tmp_path: Path) -> None:
    manifest = counting(count=3, evaluation=Evaluation(final=True))
    async with whole(tmp_path, manifest) as (_, hub):
        assert await hub.start(manifest) == Started("count", new=True)
        views = await to_the_end(hub, "count")
        assert (views[-1].phase, views[-1].rounds_done, views[0].ended) == ("finished", 3, False)
        assert views[-1].evaluated
        assert [line.text for line in views[-1].log][-1].startswith("finished with model 3")
        from_the_store = await hub.view("count")
        assert from_the_store is not None
        assert (from_the_store.model, from_the_store.evaluated) == (views[-1].model, views[-1].evaluated)
    assert len(views) > 5


async def test_the_same_manifest_twice_is_accepted_and_leads_to_nothing_new(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (federation, hub):
        await hub.start(manifest)
        assert await hub.start(manifest) == Started("count", new=False)
        await to_the_end(hub, "count")
        assert await hub.start(manifest) == Started("count", new=False)
        kinds = [stored.entry.body.kind for stored in await journal_of(federation, "count")]  # type: ignore[attr-defined]
        assert kinds.count("ExperimentAccepted") == 1


async def test_other_content_under_a_known_id_and_an_unknown_site_are_refused_with_the_reason(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (_, hub):
        await hub.start(manifest)
        with pytest.raises(RefusedError, match="other content") as exists:
            await hub.start(counting(count=2))
        assert exists.value.code == "exists"
        with pytest.raises(RefusedError, match="'clinic-4' is not a site of this hub") as unknown:
            await hub.start(counting(sites=4, id="more"))
        assert unknown.value.code == "unknown_site"


async def test_an_accepted_experiment_is_known_although_every_event_is_lost(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (federation, hub):
        publish = federation.broker.route

        def lose_events(packet: Packet) -> None:
            if not packet.routing_key.startswith("evt.coordinator"):
                publish(packet)

        federation.broker.route = lose_events  # type: ignore[method-assign]
        assert await hub.start(manifest) == Started("count", new=True)


async def test_without_a_coordinator_the_hub_does_not_answer_in_time_and_the_command_stands(tmp_path: Path) -> None:
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest), interval=0.1)
    async with federation.running():
        await federation.kill("coordinator-1")
        async with hub_of(federation, answers_within=0.5) as hub:
            with pytest.raises(NoAnswerError, match="wardround status count"):
                await hub.start(manifest)
        federation.start("coordinator-1")
        async with hub_of(federation) as hub:
            async with asyncio.timeout(10):
                while await hub.view("count") is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_with_the_broker_away_nothing_is_started(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (federation, _), hub_of(federation, answers_within=0.4) as hub:
        federation.broker.stop()
        begun = time.monotonic()
        with pytest.raises(BusUnavailableError):
            await hub.start(manifest)
        assert time.monotonic() - begun < 5
        assert bucket_of("count") not in await federation.store.buckets()
        federation.broker.start()


async def test_a_brought_model_is_stored_before_the_experiment_is_started(tmp_path: Path) -> None:
    _, state = await run(tmp_path / "first", counting(count=1))
    model = state.models[1]
    assert model is not None
    file = tmp_path / "model.safetensors"
    file.write_bytes((tmp_path / "first" / "hub" / bucket_of("count") / model.key).read_bytes())
    brought = ModelPlan(initial=Brought(size=model.size, sha256=model.sha256))
    manifest = counting(count=1, id="brought", model=brought)
    async with whole(tmp_path / "second", manifest) as (federation, hub):
        with pytest.raises(RefusedError) as missing:
            await hub.start(manifest)
        assert missing.value.code == "model_missing"
        assert await hub.start(manifest, brought=file) == Started("brought", new=True)
        assert [info.size for info in await federation.store.list(MODELS_BUCKET)] == [model.size]
        assert (await to_the_end(hub, "brought"))[-1].phase == "finished"
        file.write_bytes(b"something else")
        with pytest.raises(UnusableError, match="has changed"):
            await hub.start(counting(count=1, id="changed", model=brought), brought=file)


async def test_a_fork_is_found_through_the_store(tmp_path: Path) -> None:
    first = counting(count=2)
    async with whole(tmp_path, first) as (_, hub):
        await hub.start(first)
        await to_the_end(hub, "count")
        model = await hub.model("count", 2)
        plan = ModelPlan(initial=Forked(experiment="count", round=2, size=model.size, sha256=model.sha256))
        assert (await hub.start(counting(count=1, id="fork", model=plan))).new
        assert (await to_the_end(hub, "fork"))[-1].phase == "finished"


# --- looking ---------------------------------------------------------------------------------------------------------


async def test_a_watch_goes_on_after_the_connection_was_lost(tmp_path: Path) -> None:
    manifest = counting(count=6)
    async with whole(tmp_path, manifest) as (federation, hub):
        await hub.start(manifest)
        rounds = []
        async with asyncio.timeout(30), aclosing(hub.watch("count")) as views:
            async for view in views:
                rounds.append(view.rounds_done)
                if view.rounds_done == 2 and rounds.count(2) == 1:
                    federation.broker.disconnect(RESEARCHER)
                    asyncio.get_running_loop().call_later(0.2, federation.broker.reconnect, RESEARCHER)
        assert rounds[-1] == 6


async def test_a_watch_shows_what_the_sites_do_and_the_answers_that_were_there_before(tmp_path: Path) -> None:
    manifest = counting(count=1, quorum=2, rounds={"grace": 600})
    clinics = clinics_for(tmp_path, manifest)
    federation = Federation(tmp_path, clinics, interval=0.1)
    async with federation.running(), hub_of(federation) as hub:
        await hub.start(manifest)
        await until(
            hub, "count", lambda view: any(site.state == "granted" for site in view.sites) or view.step is not None
        )
        await federation.kill("clinic-3")
        open_step = await until(hub, "count", lambda view: view.step is not None and view.step.answered == 2)
        assert [site.state for site in open_step.sites][:2] == ["answered", "answered"]
        anew = await hub.view("count")
        assert anew is not None
        assert [(site.state, site.cases) for site in anew.sites][:2] == [("answered", 1), ("answered", 2)]
        federation.start("clinic-3")
        assert (await to_the_end(hub, "count"))[-1].phase == "finished"


async def test_what_is_not_there_cannot_be_watched_or_fetched(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (_, hub):
        assert await hub.view("nothing") is None
        with pytest.raises(NotThereError, match="no experiment 'nothing'"):
            await to_the_end(hub, "nothing")
        await hub.start(manifest)
        await to_the_end(hub, "count")
        with pytest.raises(NotThereError, match="the latest is 1"):
            await hub.model("count", 7)
        with pytest.raises(NotThereError, match=r"no model\.best"):
            await hub.fetch("count", "best", tmp_path / "never")
        assert not (tmp_path / "never").exists()


async def test_models_are_fetched_by_round_the_last_and_the_best(tmp_path: Path) -> None:
    best = ModelPlan(best=Best(metric="value", goal="min"), keep=1)
    manifest = counting(count=3, model=best, evaluation=Evaluation(final=True))
    async with whole(tmp_path, manifest) as (_, hub):
        await hub.start(manifest)
        end = (await to_the_end(hub, "count"))[-1]
        last = await hub.fetch("count", "last", tmp_path / "last")
        assert (last.round, file_digest(tmp_path / "last")) == (3, (last.size, last.sha256))
        assert end.best is not None
        assert (await hub.fetch("count", "best", tmp_path / "best")).round == end.best.round
        deleted = next(number for number in (1, 2) if number != end.best.round)
        with pytest.raises(NotThereError, match=r"was deleted: model\.keep is 1"):
            await hub.fetch("count", deleted, tmp_path / "deleted")


async def test_experiments_are_listed_with_how_they_stand(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (federation, hub):
        assert await hub.experiments() == ()
        await hub.start(manifest)
        await to_the_end(hub, "count")
        await hub.start(counting(count=300, id="long"))
        await until(hub, "long", lambda view: view.rounds_done >= 1)
        await hub.pause("long")
        await federation.store.make_bucket(bucket_of("refused"))
        long, count = await hub.experiments()
        assert (long.experiment, long.state, long.rounds, long.round >= 1) == ("long", "paused", 300, True)
        assert (count.experiment, count.state, count.round, count.rounds) == ("count", "finished", 1, 1)
        assert (count.requested_by, count.study) == (RESEARCHER, "counting")
        await federation.store.put(bucket_of("count"), "journal/00000000.json", b"{}")
        assert {each.experiment: each.state for each in await hub.experiments()}["count"] == "broken"


async def test_events_are_those_that_the_stream_holds_or_those_to_come(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (_, hub):
        await hub.start(manifest)
        await to_the_end(hub, "count")
        async with aclosing(hub.events()) as said:
            held = [received.message.type async for received in said]
        assert "io.wardround.site.seen.v1" in held
        async with aclosing(hub.events(experiment="count")) as said:
            of_it = [received.message async for received in said]
        assert isinstance(of_it[0], EntryRecorded)
        assert isinstance(of_it[0].body, facts.ExperimentAccepted)
        assert len(of_it) < len(held)
        async with asyncio.timeout(10), aclosing(hub.events(follow=True, experiment="next")) as said:
            first = asyncio.ensure_future(anext(said))
            await asyncio.sleep(0.05)
            await hub.start(counting(count=1, id="next"))
            accepted = (await first).message
        assert isinstance(accepted, EntryRecorded)
        assert accepted.experiment == "next"


async def test_events_are_all_listed_also_where_the_last_cannot_be_read(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (federation, hub):
        await hub.start(manifest)
        await to_the_end(hub, "count")
        async with aclosing(hub.events()) as said:
            before = [received.offset async for received in said]
        assert before == list(range(federation.broker.depth(METRICS_STREAM)))
        federation.broker.route(
            Packet(exchange=EVENTS, routing_key="evt.site-agent.clinic-1.none.site.seen", body=b"{", user_id="clinic-1")
        )
        async with aclosing(hub.events()) as said:
            assert [received.offset async for received in said] == before


# --- commands --------------------------------------------------------------------------------------------------------


async def test_an_experiment_is_paused_resumed_extended_and_aborted(tmp_path: Path) -> None:
    manifest = counting(count=500)
    async with whole(tmp_path, manifest) as (federation, hub):
        await hub.start(manifest)
        await until(hub, "count", lambda view: view.rounds_done >= 1)
        paused = await hub.pause("count", "the data changed")
        assert paused.entry is not None
        entry = (await journal_of(federation, "count"))[paused.entry].entry.body
        assert (type(entry), getattr(entry, "reason", "")) == (facts.ExperimentPaused, "the data changed")
        assert await hub.pause("count") == CarriedOut("count", None)
        assert (await hub.resume("count")).entry is not None
        with pytest.raises(RefusedError, match="not paused"):
            await hub.resume("count")
        assert (await hub.extend("count", 501)).entry is not None
        assert await hub.extend("count", 501) == CarriedOut("count", None)
        with pytest.raises(RefusedError, match="has 501 rounds already"):
            await hub.extend("count", 2)
        assert await hub.readmit("count", "clinic-1") == CarriedOut("count", None)
        with pytest.raises(RefusedError, match="not in the cohort"):
            await hub.readmit("count", "clinic-9")
        assert (await hub.abort("count", "enough")).entry is not None
        assert await hub.abort("count") == CarriedOut("count", None)
        with pytest.raises(RefusedError) as ended:
            await hub.pause("count")
        assert ended.value.code == "ended"
        assert (await to_the_end(hub, "count"))[-1].phase == "aborted"


async def test_a_command_for_what_is_not_there_is_refused(tmp_path: Path) -> None:
    async with whole(tmp_path, counting()) as (_, hub):
        with pytest.raises(RefusedError, match="no experiment 'nothing'"):
            await hub.pause("nothing")


# --- dead letters ----------------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_again_and_again_without_losing_one(tmp_path: Path) -> None:
    async with whole(tmp_path, counting()) as (federation, hub), hub_of(federation, OPERATOR) as operator:
        assert await operator.dead_letters() == ()
        for number in range(3):
            say(federation, RESEARCHER, f"not json {number}".encode())
        await asyncio.sleep(0.05)
        first = await operator.dead_letters()
        assert {parked.letter.reason for parked in first} == {"envelope"}
        for _ in range(3):
            assert await operator.dead_letters() == first
        assert federation.broker.depth(DEAD_QUEUE) == 3
        with pytest.raises(ForbiddenError):
            await hub.dead_letters()


async def test_a_dead_letter_is_sent_again_as_its_sender_and_its_copies_go_with_it(tmp_path: Path) -> None:
    manifest = counting(count=1)
    async with whole(tmp_path, manifest) as (federation, hub), hub_of(federation, OPERATOR) as operator:
        async with hub_of(federation, answers_within=0.3) as hasty:
            packets: list[Packet] = []
            route = federation.broker.route
            federation.broker.route = packets.append  # type: ignore[method-assign]
            with pytest.raises(NoAnswerError):
                await hasty.start(manifest)
            federation.broker.route = route  # type: ignore[method-assign]
        start = packets[0]
        for _ in range(2):
            park(federation, start)
        park(federation, Packet(COMMANDS, "cmd.coordinator.hub.count.start", b"other", user_id=RESEARCHER))
        parked, copy, other = await operator.dead_letters()
        assert parked.id == copy.id != other.id
        assert len(parked.id) == 12
        assert (await operator.replay(parked.id)).message_id == start.message_id
        assert (await to_the_end(hub, "count"))[-1].requested_by == RESEARCHER
        assert [each.id for each in await operator.dead_letters()] == [other.id]
        await operator.drop(other.id)
        assert federation.broker.depth(DEAD_QUEUE) == 0
        with pytest.raises(NotThereError, match="no dead letter"):
            await operator.drop(other.id)


async def test_a_message_that_is_sent_again_and_comes_back_at_once_stays_a_dead_letter(tmp_path: Path) -> None:
    async with whole(tmp_path, counting()) as (federation, _), hub_of(federation, OPERATOR) as operator:
        say(federation, RESEARCHER, b"not json")
        await asyncio.sleep(0.05)
        (parked,) = await operator.dead_letters()
        await operator.replay(parked.id)
        assert [each.id for each in await operator.dead_letters()] == [parked.id]


async def test_a_dead_letter_that_cannot_be_sent_again_stays(tmp_path: Path) -> None:
    async with whole(tmp_path, counting()) as (federation, _), hub_of(federation, OPERATOR) as operator:
        federation.broker.route(Packet(DEAD, "dead.coordinator.hub", b"from nowhere"))
        park(federation, Packet(COMMANDS, "cmd.coordinator.hub.count.start", b"by nobody", user_id=None))
        for parked in await operator.dead_letters():
            with pytest.raises(UnusableError, match="drop"):
                await operator.replay(parked.id)
        assert federation.broker.depth(DEAD_QUEUE) == 2


def say(federation: Federation, login: str, body: bytes) -> None:
    federation.broker.route(Packet(COMMANDS, "cmd.coordinator.hub.count.start", body, user_id=login))


def park(federation: Federation, packet: Packet) -> None:
    letter = dead_letter(packet, DeadLetterError("invalid"), queue="wr.coordinator", dead_key="dead.coordinator.hub")
    federation.broker.route(replace(letter, user_id="coordinator"))
