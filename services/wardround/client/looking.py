"""What a hub has to show: experiments, clinics, and all that is said on its stream."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from functools import partial

from wardround.client.checked import Checked, read_checked
from wardround.client.errors import NoAnswerError, UnusableError, unknown_experiment
from wardround.client.follower import Follower, concerns
from wardround.client.listening import Ear
from wardround.client.listing import summaries
from wardround.client.reach import Reach
from wardround.client.report.material import RunRead
from wardround.client.report.reading import read_run
from wardround.client.sites import SiteShown, read_sites
from wardround.metrics.summary import Summary
from wardround.metrics.view import ExperimentView
from wardround.runtime.bus.messaging import Received
from wardround.runtime.bus.port import BusError
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import StoreUnavailableError
from wardround_messages.manifest import Manifest

LOOK_EVERY = 1.0  # while an answer is waited for: its event may be lost
GLANCE_EVERY = 15.0  # while an experiment is watched, for the same reason
STREAM_BEGINS_WITHIN = 3.0
STREAM_ENDS_AFTER = 1.0
STREAM_QUIET_AFTER = 0.3
OVERHEARD_AT_MOST = 2000  # messages; each site says at least one a minute
OVERHEARS_WITHIN = 5.0


class Looking(Reach):
    """The part of `Hub` that changes nothing."""

    async def view(self, experiment: str) -> ExperimentView | None:
        """How the experiment stands; None where there is none.

        The store has all that counts. What clinics do just now is on the stream: it is left out where it cannot be
        heard.

        Raises:
            JournalBrokenError, IllegalEntryError: not even its first entry can be believed.
        """
        follower = Follower(self._store, experiment, clock=self._clock)
        await self._bounded(follower.look)
        if not follower.over:
            await self._overhear(follower)
        return follower.view()

    async def _overhear(self, follower: Follower) -> None:
        """Take in what the clinics said lately of what they do in the open step."""
        with suppress(TimeoutError, BusError, StoreUnavailableError):
            async with asyncio.timeout(OVERHEARS_WITHIN):
                end = await self._end_of_stream()
                if end is None:
                    return
                begin = max(end - OVERHEARD_AT_MOST, 0)
                async with self._speaking(follower.is_of_open_step, offset=begin) as (ear, _):
                    while not ear.has_all_up_to(end):
                        if (received := await ear.next(LOOK_EVERY)) is not None:
                            await follower.hear(received)

    async def watch(self, experiment: str) -> AsyncGenerator[ExperimentView, None]:
        """How the experiment stands, again and again as it goes on, until it has ended or its journal is broken.

        Once it has begun no outage ends it. Close it (`contextlib.aclosing`) where you leave before its end.

        Raises:
            NotThereError: there is no such experiment; otherwise as `view`.
        """
        follower = Follower(self._store, experiment, clock=self._clock)
        async with self._speaking(concerns(experiment)) as (ear, _):
            await self._bounded(follower.look)
            view = follower.view()
            if view is None:
                raise unknown_experiment(experiment)
            yield view
            while not follower.over:
                await self._go_on(follower, ear)
                if (newer := follower.view()) is not None and newer != view:
                    view = newer
                    yield view

    async def _go_on(self, follower: Follower, ear: Ear) -> None:
        """Take in all that was said meanwhile; look into the journal where nothing was, or something may be lost."""
        received = await ear.next(GLANCE_EVERY)
        if received is None:
            await patiently(follower.look)
        while received is not None:
            await patiently(partial(follower.hear, received))
            received = ear.heard_already()

    async def read_run(self, experiment: str) -> RunRead:
        """All that the store holds of the experiment, but for its weights; raises as `reading.read_run`."""
        return await self._bounded(lambda: read_run(self._store, experiment))

    async def experiments(self) -> tuple[Summary, ...]:
        """All experiments of the hub, the one changed last first."""
        return await self._bounded(lambda: summaries(self._store, clock=self._clock))

    async def checked(self, check: Manifest, of: Manifest, doing: Mapping[str, str]) -> Checked:
        """What the clinics answered to a check; raises as `read_checked`."""
        return await self._bounded(lambda: read_checked(self._store, check, of, doing))

    async def sites(self) -> tuple[SiteShown, ...]:
        """All clinics that the metrics service has heard of; raises as `read_sites`."""
        if self._to.profile is None:
            raise UnusableError("clinics are shown by the metrics service; this connection has no address for it")
        return await read_sites(self._to.profile)

    async def events(self, *, follow: bool = False, experiment: str | None = None) -> AsyncGenerator[Received, None]:
        """What is on the metrics stream: all that it holds, or what is said from now on, without end."""
        end = None if follow else await self._end_of_stream()
        if not follow and end is None:
            return
        async with self._speaking(_anything, offset="next" if follow else "first") as (ear, _):
            waited = 0.0
            while end is None or not ear.has_all_up_to(end):
                before = ear.reached
                received = await ear.next(GLANCE_EVERY if follow else STREAM_ENDS_AFTER)
                if received is not None and experiment in (None, getattr(received.message, "experiment", None)):
                    yield received
                if not follow:
                    waited = 0.0 if received is not None or ear.reached > before else waited + STREAM_ENDS_AFTER
                    if waited >= self._within:
                        raise NoAnswerError(f"the stream stopped at {ear.reached} of {end}; try again")

    async def _end_of_stream(self) -> int | None:
        """The offset of the stream's last message; None where it is empty."""
        async with self._speaking(_anything, offset="last") as (ear, _):  # a broker begins with the last few
            return await ear.until_quiet(within=STREAM_BEGINS_WITHIN, quiet=STREAM_QUIET_AFTER)


def _anything(_: Received) -> bool:
    return True
