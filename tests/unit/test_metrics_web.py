"""What the metrics service answers over HTTP, with the real server on a loopback port."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_served import Served, served
from metrics_story import SITES, Story, manifest
from prometheus_client import CollectorRegistry
from test_metrics_service import World, has_finished, until

from wardround.metrics import feed as feeds
from wardround.metrics import streaming
from wardround.metrics.board import Board, Sighting
from wardround.metrics.catalogue import Catalogue, read_ends
from wardround.metrics.exposition import BoardCollector
from wardround.metrics.page import page
from wardround.metrics.rebuild import rebuild
from wardround.metrics.service import MetricsService
from wardround.metrics.site_row import site_rows
from wardround.metrics.summary import Summary, newest, summary_of
from wardround.metrics.web import routes
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import Ending, carry_through
from wardround.simulation.sites import make_clinics
from wardround_messages import journal as facts
from wardround_messages.events import SiteSeen, TaskInHand
from wardround_messages.manifest import Cohort, Manifest, Rounds, Training
from wardround_messages.names import FiguresKey, JournalKey, Task
from wardround_messages.parts import Trainer


class Counting(MemoryStore):
    """A store that counts what is read."""

    reads = 0

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        return await super().read(bucket, key, offset=offset, length=length)


HOSTILE = "</main><script>alert(1)</script>\"'&"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.broker.close()


@asynccontextmanager
async def answering(world: World, **options: Any) -> AsyncIterator[tuple[Served, MetricsService]]:
    async with world.metrics(**options) as service, served(routes=routes(service)) as one:
        yield one, service


def seen(site: str = "clinic-1", **parts: Any) -> SiteSeen:
    return SiteSeen(
        **{
            "site": site,
            "agent_version": "0.1.0",
            "reads": ("io.wardround.task.start.v1",),
            "trainers": (Trainer(name="brain-tumour-unet", version="1.2", code_sha256="a" * 64),),
            "datasets": ("brain-mri",),
            "slots": 2,
            "free": 1,
            "tasks": (TaskInHand(experiment="live", round=1, task=Task.TRAIN, attempt=1, phase="training"),),
            **parts,
        }
    )


# --- experiments -----------------------------------------------------------------------------------------------------


async def listed(one: Served, path: str = "/experiments") -> dict[str, dict[str, Any]]:
    answer = await one.get(path)
    assert answer.status_code == 200, answer.text
    return {each["experiment"]: each for each in answer.json()["experiments"]}


async def test_experiments_are_listed_with_state_round_and_metric(world: World) -> None:
    whole, live = Story.whole(rounds=2, experiment="whole"), Story(manifest("live"))
    async with answering(world) as (one, service):
        await world.happens(whole)
        await world.happens(live)
        await until(lambda: has_finished(service, whole)() and "live" in service.board)
        found = await listed(one)
    assert list(found) == ["live", "whole"]
    assert (found["live"]["state"], found["live"]["round"], found["live"]["rounds"]) == ("enrolling", 0, 10)
    assert (found["whole"]["state"], found["whole"]["round"], found["whole"]["rounds"]) == ("finished", 2, 2)
    assert (found["whole"]["study"], found["whole"]["requested_by"]) == ("glioma", "researcher-a")
    assert found["whole"]["metric"] == "dice/mean"
    assert found["whole"]["started_at"] == "2026-03-02T07:01:00Z"


async def test_many_experiments_are_listed_page_by_page(world: World) -> None:
    for number in range(5):
        await Story(manifest(f"exp-{number}")).lay(world.store)
    async with answering(world) as (one, _):
        path, pages = "/experiments?limit=2", []
        while True:
            answer = (await one.get(path)).json()
            pages.append([each["experiment"] for each in answer["experiments"]])
            if answer["next"] is None:
                break
            path = f"/experiments?limit=2&after={answer['next']}"
    assert pages == [["exp-0", "exp-1"], ["exp-2", "exp-3"], ["exp-4"]]


async def test_an_experiment_is_given_whole(world: World) -> None:
    story = Story(manifest("live"))
    story.enrol()
    story.first_model()
    story.open(1)
    async with answering(world) as (one, service):
        await world.happens(story)
        await world.says("clinic-2", story.reported(1, "clinic-2", 6, loss=0.4))
        await until(lambda: "clinic-2" in service.board["live"].tasks)
        view = (await one.get("/experiments/live")).json()
    assert (view["experiment"], view["phase"], view["rounds_planned"]) == ("live", "running", 10)
    assert view["step"] | {} == view["step"]
    assert (view["step"]["task"], view["step"]["asked"], view["step"]["quorum"]) == ("train", 3, 2)
    assert [(site["site"], site["state"], site["progress"]) for site in view["sites"]] == [
        ("clinic-1", "asked", None),
        ("clinic-2", "training", 0.5),
        ("clinic-3", "asked", None),
    ]
    assert view["log"][0]["text"].startswith("accepted")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/experiments/unheard-of", 404),
        ("/experiments/unheard-of/figures", 404),
        ("/experiments/unheard-of/figures/1", 404),
        ("/experiments/Not_An_Id", 400),
        ("/experiments/models", 400),
        ("/experiments/..%2F..%2Fetc", 404),
        ("/experiments/%00", 400),
        (f"/experiments/{'a' * 41}", 400),
        ("/experiments/a--b/figures", 400),
        ("/experiments/live/figures/-1", 400),
        ("/experiments/live/figures/1e3", 400),
        ("/experiments/live/figures/1000000", 400),
        ("/experiments/live/figures/٣", 400),
        ("/experiments?limit=many", 400),
        ("/events?from=-1", 400),
        ("/events?experiment=Not_An_Id", 400),
        ("/nowhere", 404),
    ],
)
async def test_what_there_is_not_or_cannot_be_is_told_apart(world: World, path: str, status: int) -> None:
    async with answering(world) as (one, _):
        answer = await one.get(path)
        assert (answer.status_code, (await one.get("/health")).status_code) == (status, 200)


# --- figures ---------------------------------------------------------------------------------------------------------


async def test_figures_are_given_as_they_lie_in_the_store(world: World) -> None:
    story = Story.whole(rounds=2)
    async with answering(world) as (one, service):
        await world.happens(story)
        await until(has_finished(service, story))
        rounds = (await one.get(f"/experiments/{story.manifest.id}/figures")).json()
        figures = await one.get(f"/experiments/{story.manifest.id}/figures/2")
        absent = await one.get(f"/experiments/{story.manifest.id}/figures/3")
    assert rounds == {"experiment": story.manifest.id, "rounds": [0, 1, 2]}
    assert figures.content == await MemoryStore.read(world.store, story.bucket, str(FiguresKey(2)))
    assert (figures.headers["content-type"], absent.status_code) == ("application/json", 404)


@pytest.mark.parametrize("size", [2**20, 2**20 + 1, 3 * 2**20 + 5])
async def test_large_figures_come_piece_by_piece(world: World, size: int) -> None:
    story = Story(manifest("live"))
    await story.lay(world.store)
    data = bytes(range(256)) * (size // 256 + 1)
    await world.store.put(story.bucket, str(FiguresKey(7)), data[:size])
    async with answering(world) as (one, _):
        assert (await one.get("/experiments/live/figures/7")).content == data[:size]


async def test_figures_written_anew_meanwhile_do_not_arrive_mixed(world: World) -> None:
    story = Story(manifest("live"))
    await story.lay(world.store)
    key = str(FiguresKey(7))
    await world.store.put(story.bucket, key, b"a" * (12 * 2**20))
    async with answering(world) as (one, _):

        async def read_and_write() -> None:
            async with one.client.stream("GET", "/experiments/live/figures/7") as answer:
                async for _piece in answer.aiter_bytes():
                    await world.store.put(story.bucket, key, b"b" * (12 * 2**20))

        with pytest.raises(httpx.RemoteProtocolError):
            await read_and_write()


# --- the store as the truth ------------------------------------------------------------------------------------------


async def test_after_the_stream_is_wiped_every_experiment_in_the_store_is_listed(world: World) -> None:
    stories = [Story.whole(rounds=1, experiment=f"whole-{number}") for number in range(4)]
    live, fresh = Story(manifest("live")), Story(manifest("fresh"))
    async with answering(world) as (one, service):
        for story in (*stories, live):
            await world.happens(story)
        await until(lambda: all(has_finished(service, story)() for story in stories) and "live" in service.board)
        before = await listed(one)
    world.broker.wipe()
    async with answering(world, keep_ended=1) as (one, service):
        assert await listed(one) == before
        await until(lambda: "live" in service.board)
        assert not any(story.manifest.id in service.board for story in stories)
        assert (await one.get("/experiments/whole-2")).json()["phase"] == "finished"
        await world.happens(fresh)
        await until(lambda: "fresh" in service.board)
        assert set(await listed(one)) == {*before, "fresh"}
    assert len(before) == 5


async def test_figures_that_were_never_written_are_written_after_a_loss(world: World) -> None:
    story = Story.whole(rounds=2)
    await story.lay(world.store)
    async with answering(world):
        while len(await world.figures(story)) < 3:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.002)
        written = await world.figures(story)
    board = await rebuild(world.store, story.manifest.id)
    assert sorted(written) == [str(FiguresKey(number)) for number in sorted(board.figures)]


@pytest.mark.parametrize("lost", ["last", "first", "test"])
async def test_figures_that_are_not_up_to_date_are_seen_and_written_anew(world: World, lost: str) -> None:
    story = Story.whole(rounds=2)
    async with world.metrics() as service:
        await world.happens(story)
        await until(has_finished(service, story))
    whole = await world.figures(story)
    match lost:
        case "test":
            stale = json.loads(whole[str(FiguresKey(2))])
            stale["steps"] = stale["steps"][:-1]
            await world.store.put(story.bucket, str(FiguresKey(2)), json.dumps(stale).encode())
        case "last":
            await world.store.delete(story.bucket, str(FiguresKey(2)))
        case _:
            await world.store.delete(story.bucket, str(FiguresKey(0)))
    world.broker.wipe()
    async with world.metrics() as service:
        await until(has_finished(service, story))
    assert await world.figures(story) == whole


@pytest.mark.parametrize("ending", ["plain", "extended", "late", "pruned", "check", "aborted"])
async def test_an_experiment_that_ended_looks_the_same_read_from_its_ends_as_from_its_whole_journal(
    ending: str,
) -> None:
    story = Story.whole(rounds=2)
    match ending:
        case "extended":
            story.write(facts.ExperimentExtended(rounds=3))
            story.round(3)
            story.finish(3, dice=0.9)
        case "late":
            late = facts.LateAnswer(round=1, task=Task.TRAIN, site="clinic-3", attempt=2, why="stale_round")
            story.write(facts.AnswersLate(answers=(late,)))
        case "pruned":
            story.write(facts.Pruned(updates_to=2))
        case "check":
            story = Story(manifest(rounds=1))
            story.enrol()
            story.write(facts.ExperimentFinished(round=0, model=None))
        case "aborted":
            story = Story()
            story.enrol()
            story.first_model()
            story.write(facts.ExperimentAborted(reason="enough"))
    store, name = MemoryStore(), story.manifest.id
    await story.lay(store)
    whole = summary_of(await rebuild(store, name))
    assert await Catalogue(store, clock=wall_clock).summary(name) == whole
    ends = await read_ends(store, name)
    assert (None if ends is None else ends.summary) == (None if ending == "aborted" else whole)


async def test_lines_of_ended_experiments_are_read_once_and_no_more_kept_than_so_many() -> None:
    store = Counting()
    for number in range(3):
        await Story.whole(rounds=1, experiment=f"exp-{number}").lay(store)
    catalogue = Catalogue(store, clock=wall_clock, keep=2)

    async def reads(name: str) -> int:
        before = store.reads
        summary = await catalogue.summary(name)
        assert summary is not None
        return store.reads - before

    assert [await reads(f"exp-{number}") > 0 for number in (0, 0, 1, 2, 2, 0)] == [True, False, True, True, False, True]
    assert await catalogue.summary("unheard-of") is None


async def test_an_experiment_that_goes_on_after_its_end_is_no_longer_shown_as_ended(world: World) -> None:
    story, other = Story.whole(rounds=1), Story.whole(rounds=1, experiment="other")
    async with answering(world, keep_ended=1) as (one, service):
        for each in (story, other):
            await world.happens(each)
            await until(has_finished(service, each))
        assert story.manifest.id not in service.board
        assert (await listed(one))[story.manifest.id]["state"] == "finished"
        told = len(story.entries)
        story.write(facts.ExperimentExtended(rounds=5))
        await world.happens(story, since=told)
        await until(lambda: story.manifest.id in service.board)
        again = (await listed(one))[story.manifest.id]
    assert (again["state"], again["round"], again["rounds"]) == ("running", 1, 5)


async def test_a_broken_journal_is_listed_as_broken_with_the_reason(world: World) -> None:
    story, sound = Story.whole(rounds=1), Story(manifest("sound"))
    await story.lay(world.store)
    await sound.lay(world.store)
    await world.store.put(story.bucket, str(JournalKey(0)), b"{}")
    async with answering(world) as (one, service):
        await until(lambda: "sound" in service.board)
        found = await listed(one)
    assert found[story.manifest.id]["state"] == "broken"
    assert "journal entry 0" in found[story.manifest.id]["reason"]
    assert found["sound"]["state"] == "enrolling"


async def test_a_bucket_without_a_journal_is_no_experiment_yet(world: World) -> None:
    await world.store.make_bucket("wr-empty")
    await world.store.make_bucket("wr-models")
    async with answering(world, look_every=0.01) as (one, service):
        assert await listed(one) == {}
        await Story(manifest("empty")).lay(world.store)
        await until(lambda: "empty" in service.board)


async def test_while_the_store_is_away_what_is_at_hand_is_shown_and_the_rest_is_told_to_be_away(world: World) -> None:
    story = Story(manifest("live"))
    async with answering(world) as (one, service):
        await world.happens(story)
        await until(lambda: "live" in service.board)

        async def away(*_: object, **__: object) -> Any:
            raise StoreUnavailableError("away")

        world.store.head = away  # type: ignore[method-assign]
        shown, figures = await one.get("/experiments/live"), await one.get("/experiments/live/figures/1")
    assert (shown.status_code, shown.json()["phase"]) == (200, "enrolling")
    assert (figures.status_code, figures.json()["error"], figures.headers["retry-after"]) == (503, "store_away", "5")


# --- sites -----------------------------------------------------------------------------------------------------------


async def test_sites_are_shown_with_what_they_last_said(world: World) -> None:
    async with answering(world) as (one, service):
        await world.says("clinic-2", seen("clinic-2", free=0))
        await world.says("clinic-1", seen(status="degraded", detail="disk full"))
        await until(lambda: len(service.board.sites) == 2)
        first, second = (await one.get("/sites")).json()["sites"]
    assert (first["site"], first["status"], first["detail"], first["quiet"]) == (
        "clinic-1",
        "degraded",
        "disk full",
        False,
    )
    assert first["trainers"] == [{"name": "brain-tumour-unet", "version": "1.2", "code_sha256": "a" * 64}]
    assert (first["agent_version"], first["datasets"], first["reads"]) == (
        "0.1.0",
        ["brain-mri"],
        ["io.wardround.task.start.v1"],
    )
    assert first["tasks"] == [{"experiment": "live", "round": 1, "task": "train", "attempt": 1, "phase": "training"}]
    assert (second["site"], second["slots"], second["free"]) == ("clinic-2", 2, 0)


def test_a_site_is_quiet_when_it_was_not_seen_for_three_minutes() -> None:
    now = wall_clock()
    sites = {
        site: Sighting(seen(site), now - timedelta(seconds=ago)) for site, ago in (("b", 180), ("a", 179), ("c", -5))
    }
    assert [(row.site, row.quiet, row.seen_ago) for row in site_rows(sites, now)] == [
        ("a", False, 179),
        ("b", True, 180),
        ("c", False, 0),
    ]


def test_of_what_a_site_said_the_latest_counts_whatever_comes_last() -> None:
    board, now = Board(), wall_clock()
    board.seen(seen(free=0), now)
    board.seen(seen(free=2), now - timedelta(minutes=1))
    assert board.sites["clinic-1"] == Sighting(seen(free=0), now)


# --- events ----------------------------------------------------------------------------------------------------------


class Listener:
    """Reads server-sent events as a browser does."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, str]:
        """The next event, comments aside; empty at the end of the stream."""
        event: dict[str, str] = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                if not line and event:
                    return event
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
        return {}

    async def ids(self, number: int) -> list[int]:
        return [int((await self.next())["id"]) for _ in range(number)]


@asynccontextmanager
async def listening(one: Served, path: str = "/events", **headers: str) -> AsyncIterator[Listener]:
    async with one.client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Listener(answer)


async def test_events_come_as_cloud_events_with_their_offset(world: World) -> None:
    story = Story(manifest("live"))
    async with answering(world) as (one, _), listening(one) as listener:
        await world.happens(story)
        event = await listener.next()
    said = json.loads(event["data"])
    assert event["id"] == "0"
    assert {name: said[name] for name in ("specversion", "id", "source", "type", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "id": "live/0",
        "source": "urn:wardround:coordinator:hub",
        "type": "io.wardround.experiment.accepted.v1",
        "subject": "live",
        "datacontenttype": "application/json",
    }
    assert said["data"]["body"]["manifest"]["id"] == "live"


async def test_a_listener_hears_what_is_said_from_now_on_or_of_one_experiment(world: World) -> None:
    a, b = Story.whole(rounds=1, experiment="a"), Story.whole(rounds=1, experiment="b")
    async with answering(world) as (one, service):
        await world.happens(a)
        await until(has_finished(service, a))
        async with listening(one, "/events?experiment=b") as of_b, listening(one) as of_all:
            told = len(a.entries)
            a.write(facts.ExperimentExtended(rounds=3))
            await world.happens(a, since=told)
            await world.happens(b)
            assert json.loads((await of_b.next())["data"])["id"] == "b/0"
            assert json.loads((await of_all.next())["data"])["id"] == f"a/{told}"


async def test_a_listener_that_comes_back_misses_nothing(world: World) -> None:
    story = Story.whole(rounds=2)
    async with answering(world) as (one, service):
        await world.happens(story)
        await until(has_finished(service, story))
        whole = len(story.entries)
        async with listening(one, "/events?from=0") as listener:
            assert await listener.ids(5) == [0, 1, 2, 3, 4]
        # A browser comes back with the address it began with: what it heard last counts.
        async with listening(one, "/events?from=0", **{"Last-Event-ID": "4"}) as listener:
            assert await listener.ids(whole - 5) == list(range(5, whole))


@pytest.mark.parametrize("kept", [1, 3, 8])
async def test_what_is_no_longer_in_memory_comes_from_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(feeds, "READ_AHEAD", 2)
    story, more = Story.whole(rounds=3), Story.whole(rounds=1, experiment="more")
    async with answering(world) as (one, service):
        service.feed = feeds.Feed(keep=kept)
        await world.happens(story)
        await until(has_finished(service, story))
        async with listening(one, "/events?from=2") as listener:
            number = len(story.entries)
            heard = await listener.ids(number - 2)
            for event in more.events:  # now live
                await world.coordinator.send(event)
                heard += await listener.ids(1)
        assert heard == list(range(2, number + len(more.entries)))
    assert world.broker.dead_letters() == ()


async def test_a_listener_that_is_too_slow_is_cut_off_and_told_where_to_go_on(world: World) -> None:
    story = Story.whole(rounds=3)
    async with answering(world) as (one, service):
        service.feed = feeds.Feed(keep=4)
        async with listening(one) as slow:
            await asyncio.sleep(0.05)
            for event in story.events:  # all at once: nobody can keep up
                service.feed.add(
                    feeds.Said(event.number, event.id, event.experiment, json.dumps({"number": event.number}))
                )
            event = await slow.next()
            assert event["event"] == "cut_off"
            told = json.loads(event["data"])
            assert (told["code"], told["from"]) == ("too_slow", 0)
            assert await slow.next() == {}


async def test_a_listener_that_reads_nothing_takes_no_memory_and_holds_up_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TAKES_WITHIN", 0.5)
    async with answering(world) as (one, service):
        service.feed = feeds.Feed(keep=16)
        _, writer = await asyncio.open_connection("127.0.0.1", one.port, limit=1024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        async with listening(one) as quick:
            for number in range(400):
                service.feed.add(feeds.Said(number, str(number), None, f'"{"x" * 60_000}"'))
                assert (await quick.next())["id"] == str(number)
        assert service.feed.size <= 16 * 60_002
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_wiped_stream_is_followed_from_its_new_beginning(world: World) -> None:
    old, new = Story.whole(rounds=1, experiment="old"), Story.whole(rounds=1, experiment="new")
    async with answering(world) as (one, service):
        await world.happens(old)
        await until(has_finished(service, old))
        async with listening(one) as listener:
            world.broker.wipe()
            await world.happens(new)
            assert await listener.ids(len(new.entries)) == list(range(len(new.entries)))
        last = str(len(old.entries) + 100)
        async with listening(one, **{"Last-Event-ID": last}) as again:
            assert await again.ids(1) == [0]


async def test_an_event_delivered_again_is_told_once(world: World) -> None:
    story = Story.whole(rounds=2)
    async with answering(world) as (one, service), listening(one) as listener:
        await story.lay(world.store)
        world.store.away = 3
        for said in story.events:
            await world.coordinator.send(said)
        await asyncio.sleep(0.01)
        world.broker.disconnect("metrics")
        world.broker.reconnect("metrics")
        await until(has_finished(service, story))
        assert await listener.ids(len(story.entries)) == list(range(len(story.entries)))


async def test_a_stream_that_is_open_ends_with_the_service(world: World) -> None:
    story = Story(manifest("live"))
    async with answering(world) as (one, _), listening(one) as listener:
        await world.happens(story)
        assert (await listener.next())["id"] == "0"
        async with asyncio.timeout(3):
            await one.stop()
        assert await listener.next() == {}


async def test_a_stream_waiting_for_the_broker_ends_with_the_service_too(world: World) -> None:
    async with answering(world) as (one, _):
        world.broker.disconnect("metrics")
        async with listening(one, "/events?from=0") as listener:
            await asyncio.sleep(0.05)
            async with asyncio.timeout(3):
                await one.stop()
            assert await listener.next() == {}


async def test_no_more_than_so_many_listen_and_those_who_left_make_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STREAMS", 2)
    story = Story(manifest("live"))
    async with answering(world) as (one, _):
        async with listening(one, "/events?from=0"), listening(one) as second:
            await world.happens(story)
            await second.next()
            refused = await one.get("/events")
            assert (refused.status_code, refused.json()["error"]) == (503, "busy")
        async with asyncio.timeout(5):
            while (await one.client.head("/events")).status_code != 200:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.02)
        async with listening(one, "/events?from=0") as third:
            assert await third.ids(1) == [0]


# --- for people ------------------------------------------------------------------------------------------------------


def test_what_anybody_said_is_escaped_on_the_page() -> None:
    now = wall_clock()
    hostile = Summary("exp", "failed", study=HOSTILE, metric=HOSTILE, reason=HOSTILE, started_at=now)
    site = replace(site_rows({"clinic-1": Sighting(seen(detail=HOSTILE), now)}, now)[0], agent_version=HOSTILE)
    html = page([hostile], [site])
    assert html.count("<script") == html.count("</main>") == 1
    assert "alert(1)" in html
    assert f'title="{HOSTILE}' not in html


async def test_the_page_shows_experiments_and_sites_and_allows_no_script_but_its_own(world: World) -> None:
    story = Story(manifest("live"))
    async with answering(world) as (one, service):
        empty = await one.get("/")
        await world.happens(story)
        await world.says("clinic-1", seen(detail=HOSTILE))
        await until(lambda: "live" in service.board and "clinic-1" in service.board.sites)
        full, script = await one.get("/"), await one.get("/page.js")
    assert "None has said anything yet" in empty.text
    assert '<a href="/experiments/live">live</a>' in full.text
    assert "&lt;script&gt;alert(1)" in full.text
    policy = full.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "")
    assert script.headers["content-type"].startswith("text/javascript")


# --- for Prometheus --------------------------------------------------------------------------------------------------


def samples(board: Board) -> dict[str, list[dict[str, str]]]:
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, clock=wall_clock))
    found: dict[str, list[dict[str, str]]] = {}
    for metric in registry.collect():
        found.setdefault(metric.name, []).extend(sample.labels for sample in metric.samples)
    return found


async def test_gauges_tell_round_state_metric_and_when_sites_were_seen() -> None:
    store, story = MemoryStore(), Story(manifest("live"))
    story.enrol()
    story.first_model()
    story.round(1, dice=0.61)
    story.round(2, dice=0.62)
    await story.lay(store)
    board = Board()
    board["live"] = await rebuild(store, "live")
    board.seen(seen(), wall_clock() - timedelta(seconds=75))
    board.seen(seen("clinic-9"), wall_clock())
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, clock=wall_clock))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"wardround_{name}", labels)

    assert (value("experiment_round", experiment="live"), value("experiment_rounds", experiment="live")) == (2, 10)
    assert value("experiment_state", experiment="live", state="running") == 1
    assert value("experiment_state", experiment="live", state="finished") == 0
    assert value("site_last_seen_seconds", site="clinic-1") == pytest.approx(75, abs=5)
    assert value("site_last_seen_seconds", site="clinic-9") is None
    assert [label["metric"] for label in samples(board)["wardround_experiment_metric"]] in ([], ["dice/mean"])


def test_labels_are_bounded_however_many_experiments_and_sites_there_are() -> None:
    board = Board(keep_ended=10_000)
    for number in range(1000):
        story = Story(manifest(f"exp-{number}"))
        if number % 2:
            story.write(facts.ExperimentAborted(reason="enough"))
        board[story.manifest.id] = story.board()
    for number in range(1000):
        board.seen(seen(f"stranger-{number}"), wall_clock())
    for site in SITES:
        board.seen(seen(site), wall_clock())
    found = samples(board)
    experiments = {labels["experiment"] for labels in found["wardround_experiment_round"]}
    assert len(experiments) == 100
    assert all(int(name.removeprefix("exp-")) % 2 == 0 for name in experiments)
    assert len(found["wardround_experiment_state"]) == 700
    assert [labels["site"] for labels in found["wardround_site_last_seen_seconds"]] == list(SITES)


def test_the_newest_come_first_and_those_that_go_on_before_all() -> None:
    stories = {name: Story(manifest(name)) for name in ("old", "ended", "new")}
    stories["new"].write(facts.ExperimentPaused(code="by_hand"), after=60)
    stories["ended"].write(facts.ExperimentAborted(reason="enough"), after=600)
    boards = [story.board() for story in stories.values()]
    assert [(each.experiment, each.state) for each in newest(boards, at_most=3)] == [
        ("new", "paused"),
        ("old", "enrolling"),
        ("ended", "aborted"),
    ]
    assert len(newest(boards, at_most=2)) == 2


# --- a whole federation ----------------------------------------------------------------------------------------------


async def test_a_whole_federation_is_shown_while_it_runs(tmp_path: Path) -> None:
    told = Manifest(
        id="count",
        study="counting",
        purpose="",
        cohort=Cohort(sites=SITES, quorum="all"),
        rounds=Rounds(count=2),
        training=Training(trainer="adding", dataset="counting"),
    )
    federation = Federation(tmp_path, make_clinics(tmp_path / "sites", told, scheduler="inline"), store="memory")
    async with federation.running():
        service = federation.services["metrics"]
        assert isinstance(service, MetricsService)
        async with served(routes=routes(service)) as one, listening(one, "/events?experiment=count") as listener:
            assert await carry_through(federation, told) == Ending("finished")
            types = []
            while "experiment.finished" not in "".join(types):
                types.append(json.loads((await listener.next())["data"])["type"])
            sites = (await one.get("/sites")).json()["sites"]
            view = (await one.get("/experiments/count")).json()
    assert types[0] == "io.wardround.experiment.accepted.v1"
    assert [site["site"] for site in sites] == ["clinic-1", "clinic-2", "clinic-3"]
    assert (view["phase"], view["rounds_done"], len(view["sites"])) == ("finished", 2, 3)
