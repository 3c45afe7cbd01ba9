"""What `wardround status` is made of: the store, and what the clinics said lately."""

from collections.abc import AsyncIterator

import pytest
from metrics_story import SITES, Story

from wardround.client.hub import Hub
from wardround.client.hubs import Connections
from wardround.metrics.view import ExperimentView, SiteView
from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError
from wardround_messages.events import OfTask
from wardround_messages.topology import topology


class Store(MemoryStore):
    """Is away for whoever asks for an answer whose key begins so."""

    away_for = "-"

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if key.startswith(self.away_for):
            raise StoreUnavailableError("away")
        return await super().read(bucket, key, offset=offset, length=length)


class World:
    def __init__(self, story: Story) -> None:
        self.story = story
        self.broker = MemoryBroker(topology(SITES, ("researcher-a",)))
        self.store = Store()
        self.broker_away = False

    async def says(self, message: OfTask) -> None:
        bus = MemoryBus(self.broker, message.site)
        await Messenger(bus, service="site-agent", origin=message.site, clock=wall_clock).send(message)
        await bus.close()

    async def view(self) -> ExperimentView:
        async with Hub(Connections(self.store, self._bus), answers_within=1) as hub:
            view = await hub.view(self.story.manifest.id)
        assert view is not None
        return view

    async def _bus(self) -> MemoryBus:
        if self.broker_away:
            raise BusUnavailableError("away")
        return MemoryBus(self.broker, "researcher-a")

    async def site(self, name: str) -> SiteView:
        return next(site for site in (await self.view()).sites if site.site == name)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    story = Story()
    made = World(story)
    story.enrol()
    story.first_model()
    story.round(1)
    story.open(2)
    await story.lay(made.store)
    yield made
    await made.broker.close()


async def test_it_tells_how_far_each_clinics_transfer_is(world: World) -> None:
    await world.says(world.story.moving(2, "clinic-1", done=100, of=400))
    await world.says(world.story.moving(2, "clinic-1", done=300, of=400))
    site = await world.site("clinic-1")
    assert site.state == "fetching"
    assert site.moving is not None
    assert (site.moving.done, site.moving.of) == (300, 400)


async def test_what_was_said_in_an_earlier_round_is_no_news(world: World) -> None:
    before = await world.view()
    await world.says(world.story.moving(1, "clinic-1", done=100, of=400))
    await world.says(world.story.answered(1, "clinic-1"))
    assert await world.view() == before


async def test_without_the_broker_it_is_what_the_store_has(world: World) -> None:
    world.broker_away = True
    assert (await world.site("clinic-1")).state == "asked"


async def test_a_store_that_goes_away_while_clinics_are_heard_takes_back_nothing(world: World) -> None:
    await world.says(world.story.moving(2, "clinic-1", done=100, of=400))
    await world.says(world.story.answered(2, "clinic-2"))
    world.store.away_for = "answers/r000002/"
    assert (await world.site("clinic-1")).state == "fetching"


async def test_an_empty_stream_says_nothing(world: World) -> None:
    assert (await world.site("clinic-1")).state == "asked"
