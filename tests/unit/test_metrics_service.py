"""The metrics service on a bus and a store: figures in the store, whatever is lost on the way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from metrics_story import SITES, Story, manifest

from wardround.metrics.rebuild import rebuild
from wardround.metrics.service import MetricsService
from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Packet
from wardround.runtime.clock import wall_clock
from wardround.runtime.journal import JournalBrokenError
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError
from wardround_messages import journal as facts
from wardround_messages.base import canonical_json, digest
from wardround_messages.events import CommandRefused, EntryRecorded, SiteSeen
from wardround_messages.messages import Message
from wardround_messages.names import EVENTS, FiguresKey, JournalKey, Task
from wardround_messages.topology import topology


class SometimesAway(MemoryStore):
    """A store that is away for the next `away` reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0

    def _knock(self) -> None:
        if self.away > 0:
            self.away -= 1
            raise StoreUnavailableError("away")

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._knock()
        return await super().read(bucket, key, offset=offset, length=length)

    async def put(self, bucket: str, key: str, source: object, **more: object) -> None:
        self._knock()
        await super().put(bucket, key, source, **more)  # type: ignore[arg-type]


class World:
    def __init__(self) -> None:
        self.broker = MemoryBroker(topology((*SITES, "clinic-9"), ("researcher-a",)))
        self.store = SometimesAway()
        self.coordinator = Messenger(
            MemoryBus(self.broker, "coordinator"), service="coordinator", origin="hub", clock=wall_clock
        )
        self.sites = {
            site: Messenger(MemoryBus(self.broker, site), service="site-agent", origin=site, clock=wall_clock)
            for site in (*SITES, "clinic-9")
        }

    async def happens(self, story: Story, since: int = 0) -> None:
        """Lay the story into the store and say its events from number `since` on."""
        await story.lay(self.store)
        for event in story.events[since:]:
            await self.coordinator.send(event)

    async def says(self, site: str, message: Message) -> None:
        await self.sites[site].send(message)

    @asynccontextmanager
    async def metrics(self, **options: object) -> AsyncIterator[MetricsService]:
        bus = MemoryBus(self.broker, "metrics")
        service = MetricsService(bus, self.store, clock=wall_clock, **options)  # type: ignore[arg-type]
        task = asyncio.create_task(service.run())
        await asyncio.wait_for(service.ready.wait(), 5)
        try:
            yield service
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await bus.close()

    async def figures(self, story: Story) -> dict[str, bytes]:
        listed = await self.store.list(story.bucket, "figures/")
        return {info.key: await MemoryStore.read(self.store, story.bucket, info.key) for info in listed}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.broker.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


def logged(service: MetricsService, experiment: str, text: str) -> Callable[[], bool]:
    return lambda: any(text in line.text for line in service.board[experiment].log)


async def rebuilt(story: Story) -> dict[str, bytes]:
    """The figures that the store alone leads to."""
    store = MemoryStore()
    await story.lay(store)
    board = await rebuild(store, story.manifest.id)
    return {str(FiguresKey(number)): canonical_json(figures) for number, figures in board.figures.items()}


def has_finished(service: MetricsService, story: Story) -> Callable[[], bool]:
    def condition() -> bool:
        board = service.board[story.manifest.id]
        return board.ended and not board.unwritten

    return condition


async def test_figures_are_written_round_by_round_and_can_be_rebuilt_byte_for_byte(world: World) -> None:
    story = Story.whole()
    async with world.metrics() as service:
        await world.happens(story)
        await until(has_finished(service, story))
    written = await world.figures(story)
    assert sorted(written) == [f"figures/r{number:06d}.json" for number in range(4)]
    assert written == await rebuilt(story)


async def test_lost_events_cost_nothing_once_a_later_one_comes(world: World) -> None:
    story = Story.whole()
    async with world.metrics() as service:
        await world.happens(story, since=len(story.entries) - 1)
        await until(has_finished(service, story))
    assert await world.figures(story) == await rebuilt(story)


async def test_with_every_later_event_lost_the_journal_is_looked_into(world: World) -> None:
    story = Story()
    async with world.metrics(look_every=0.01) as service:
        await world.happens(story)
        await until(lambda: story.manifest.id in service.board)
        story.enrol()
        story.first_model()
        story.round(1)
        story.finish(1)
        await story.lay(world.store)
        await until(has_finished(service, story))
    assert await world.figures(story) == await rebuilt(story)


async def test_after_a_reconnection_the_journal_is_looked_into(world: World) -> None:
    story = Story()
    async with world.metrics(look_every=60.0) as service:
        await world.happens(story)
        await until(lambda: story.manifest.id in service.board)
        world.broker.disconnect("metrics")
        story.enrol()
        story.first_model()
        await story.lay(world.store)
        world.broker.reconnect("metrics")
        await until(lambda: service.board[story.manifest.id].next == len(story.entries))


async def test_the_store_may_be_away_for_a_while(world: World) -> None:
    story = Story.whole(rounds=1)
    async with world.metrics() as service:
        await story.lay(world.store)
        world.store.away = 3
        await world.coordinator.send(story.events[0])
        await until(has_finished(service, story))
    assert world.store.away == 0
    assert await world.figures(story) == await rebuilt(story)


async def test_the_broker_may_be_away_at_the_start(world: World) -> None:
    story = Story.whole(rounds=1)
    await world.happens(story)
    bus = MemoryBus(world.broker, "metrics")
    world.broker.disconnect("metrics")
    service = MetricsService(bus, world.store, clock=wall_clock)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(0.01)
    assert not service.ready.is_set()
    world.broker.reconnect("metrics")
    await until(has_finished(service, story))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not service.ready.is_set()


async def test_a_second_service_or_a_later_one_writes_the_same_bytes(world: World) -> None:
    story = Story.whole()
    async with world.metrics() as first, world.metrics() as second:
        await world.happens(story)
        await until(lambda: has_finished(first, story)() and has_finished(second, story)())
    written = await world.figures(story)
    await world.store.delete(story.bucket, str(FiguresKey(2)))
    async with world.metrics() as third:
        await until(has_finished(third, story))
    assert await world.figures(story) == written == await rebuilt(story)


async def test_a_late_answer_rewrites_the_figures_of_its_round(world: World) -> None:
    story = Story.whole(rounds=1)
    async with world.metrics() as service:
        await world.happens(story)
        await until(has_finished(service, story))
        told = len(story.entries)
        late = facts.LateAnswer(round=1, task=Task.TRAIN, site="clinic-3", attempt=2, why="stale_round")
        story.write(facts.AnswersLate(answers=(late,)))
        await world.happens(story, since=told)
        await until(lambda: service.board[story.manifest.id].next == told + 1 and has_finished(service, story)())
    written = await world.figures(story)
    assert written == await rebuilt(story)
    assert b'"attempts":2' in written[str(FiguresKey(1))]


async def test_a_large_entry_is_read_from_the_store(world: World) -> None:
    story = Story.whole(rounds=1)
    number = len(story.entries) - 1
    data = story.objects[str(JournalKey(number))]
    claimed = story.events[number].model_dump() | {
        "body": None,
        "claim": {
            "bucket": story.bucket,
            "key": str(JournalKey(number)),
            "size": len(data),
            "sha256": digest(data),
        },
    }
    async with world.metrics() as service:
        await story.lay(world.store)
        await world.coordinator.send(EntryRecorded.model_validate(claimed))
        await until(has_finished(service, story))
        assert service.board[story.manifest.id].broken is None


async def test_an_entry_that_is_not_the_one_announced_stops_the_experiment(world: World) -> None:
    story = Story.whole(rounds=1)
    false = EntryRecorded.of(story.entries[2], 40_000, "0" * 64)
    async with world.metrics() as service:
        await story.lay(world.store)
        await world.coordinator.send(false)
        await until(lambda: service.board[story.manifest.id].broken is not None)
        broken = service.board[story.manifest.id].broken
        assert broken is not None
        assert "entry 2" in broken


@pytest.mark.parametrize("spoil", [lambda data: data[:40], lambda data: data.replace(b"granted", b"pending"), None])
async def test_a_broken_journal_stops_that_experiment_and_no_other(
    world: World, spoil: Callable[[bytes], bytes] | None
) -> None:
    broken, sound = Story.whole(), Story.whole(experiment="sound")
    await broken.lay(world.store)
    if spoil is None:
        await world.store.delete(broken.bucket, str(JournalKey(3)))
    else:
        await world.store.put(broken.bucket, str(JournalKey(3)), spoil(broken.objects[str(JournalKey(3))]))
    async with world.metrics(look_every=0.01) as service:
        await world.coordinator.send(broken.events[-1])
        await world.happens(sound)
        await until(has_finished(service, sound))
        await until(lambda: service.board[broken.manifest.id].broken is not None)
        assert "entry 3" in (service.board[broken.manifest.id].broken or "")
    assert await world.figures(broken) == {}
    with pytest.raises(JournalBrokenError, match="entry 3"):
        await rebuild(world.store, broken.manifest.id)


async def test_an_entry_that_cannot_follow_stops_that_experiment(world: World) -> None:
    story = Story()
    story.enrol()
    async with world.metrics() as service:
        await world.happens(story)
        await until(lambda: service.board[story.manifest.id].next == len(story.entries))
        told = len(story.entries)
        story.write(facts.QuorumReached(round=4, task=Task.TRAIN, done=("clinic-1",)))
        story.write(facts.ExperimentAborted(reason="enough"))
        await world.happens(story, since=told)
        await until(lambda: service.board[story.manifest.id].broken is not None)
        await asyncio.sleep(0.02)
        view = service.board.experiment(story.manifest.id)
        assert view is not None
        assert (view.broken, view.phase) == ("train of round 4 was never opened", "running")


async def test_what_sites_say_is_on_the_board_at_once(world: World) -> None:
    story = Story(manifest("live"))
    story.enrol()
    story.first_model()
    story.open(1)
    async with world.metrics() as service:
        await world.happens(story)
        await world.says("clinic-2", story.started(1, "clinic-2"))
        await world.says("clinic-2", story.reported(1, "clinic-2", 6, loss=0.4))
        story.answer(1, Task.TRAIN, "clinic-1", dice=0.66)
        await story.lay(world.store)
        await world.says("clinic-1", story.answered(1, "clinic-1"))
        await until(logged(service, "live", "clinic-1 answered: update "))
        view = await service.experiment(story.manifest.id)
        assert view is not None
        assert [(site.state, site.metric, site.progress) for site in view.sites] == [
            ("answered", 0.66, None),
            ("training", None, 0.5),
            ("asked", None, None),
        ]


async def test_an_answer_that_cannot_be_read_yet_is_shown_without_its_contents(world: World) -> None:
    story = Story(manifest("live"))
    story.enrol()
    story.first_model()
    story.open(1)
    async with world.metrics() as service:
        await world.happens(story)
        await until(lambda: service.board["live"].next == len(story.entries))
        await world.says("clinic-1", story.answered(1, "clinic-1"))
        await until(logged(service, "live", "clinic-1 answered: update of 4.8 MB"))
        world.store.away = 1
        await world.says("clinic-2", story.answered(1, "clinic-2"))
        await until(logged(service, "live", "clinic-2 answered: update of 4.8 MB"))


async def test_a_clock_that_is_ahead_is_never_seen_in_the_future(world: World) -> None:
    story = Story(manifest("live"))
    story.enrol()
    ahead = Messenger(
        MemoryBus(world.broker, "clinic-3"),
        service="site-agent",
        origin="clinic-3",
        clock=lambda: wall_clock() + timedelta(days=1),
    )
    async with world.metrics() as service:
        await world.happens(story)
        await ahead.send(
            SiteSeen(
                site="clinic-3",
                agent_version="0.1.0",
                reads=(),
                trainers=(),
                datasets=(),
                slots=1,
                free=1,
                tasks=(),
            )
        )
        await world.coordinator.send(story.event(story.write(facts.ExperimentAborted(reason="enough"))))
        await until(logged(service, "live", "aborted"))
        view = service.board.experiment("live")
        assert view is not None
        assert view.sites[2].seen is not None
        assert view.sites[2].seen <= wall_clock()


async def test_a_refused_command_is_in_the_log_of_its_experiment(world: World) -> None:
    story = Story(manifest("live"))
    async with world.metrics() as service:
        await world.happens(story)
        for experiment in ("live", "unheard-of"):
            await world.coordinator.send(
                CommandRefused(
                    experiment=experiment, command="c1", command_sha256="0" * 64, code="not_paused", reason="it runs"
                )
            )
        await until(logged(service, "live", "command refused (not_paused): it runs"))
        assert "unheard-of" not in service.board


async def test_experiments_that_nobody_started_are_not_remembered(world: World) -> None:
    made_up = Story(manifest("made-up"))
    story = Story(manifest("live"))
    async with world.metrics() as service:
        await world.says("clinic-9", made_up.accepted(1, "clinic-9"))
        await world.happens(story)
        await until(lambda: "live" in service.board)
        assert "made-up" not in service.board
        assert await service.experiment("made-up") is None


async def test_an_experiment_let_go_is_read_again_on_demand(world: World) -> None:
    old, new = Story.whole(rounds=1, experiment="old"), Story.whole(rounds=1, experiment="new")
    async with world.metrics(keep_ended=1) as service:
        await world.happens(old)
        await until(has_finished(service, old))
        before = await service.experiment("old")
        await world.happens(new)
        await until(has_finished(service, new))
        await until(lambda: "old" not in service.board)
        assert service.board.experiment("old") is None
        assert await service.experiment("old") == before


async def test_a_malformed_event_is_parked_and_the_next_one_counts(world: World) -> None:
    story = Story.whole(rounds=1)
    good = world.coordinator.packet(story.events[0])
    async with world.metrics() as service:
        await story.lay(world.store)
        world.broker.route(
            Packet(
                exchange=EVENTS,
                routing_key=good.routing_key,
                body=b"[" * 60_000,
                headers=good.headers,
                content_type=good.content_type,
                user_id="coordinator",
            )
        )
        await world.coordinator.send(story.events[0])
        await until(has_finished(service, story))
        await until(lambda: len(world.broker.dead_letters()) == 1)
