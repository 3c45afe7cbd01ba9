"""The site's agent, wired: the clinic's only door.

Crash-only: it may be killed at any instruction, and starting it again is the whole recovery.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Bus
from wardround.runtime.clock import Clock
from wardround.runtime.store.limit import Limit
from wardround.runtime.store.port import ObjectStore
from wardround.site_agent.audit.log import AuditLog
from wardround.site_agent.disk import Disk, sound_disk
from wardround.site_agent.duty import Duty
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.patience import Patience
from wardround.site_agent.scheduler.port import Scheduler
from wardround.site_agent.settings import SiteSettings
from wardround.site_agent.site import Site
from wardround.site_agent.speaker import Speaker
from wardround.site_agent.standstill import Standstill
from wardround.site_agent.trainers import Catalogue

SERVICE = "site-agent"


class SiteAgent:
    """One clinic's agent; `run` is its whole life. `ready` is set when it has told the hub that it is there.

    Args:
        disk: carries out each write to inbox and log.
        limit: bytes per second for models and updates; a simulation's line has none, whatever the settings say.
        door: what lets people at the clinic reach the agent on duty, until it is cancelled; in a simulation there is
            none, and the agent's methods are called.
    """

    def __init__(
        self,
        settings: SiteSettings,
        policy_path: Path,
        *,
        bus: Bus,
        store: ObjectStore,
        scheduler: Scheduler,
        catalogue: Catalogue,
        clock: Clock,
        durable: bool = True,
        disk: Disk = sound_disk,
        limit: int | None = None,
        door: Callable[[Duty], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.ready = asyncio.Event()
        self._policy_path = policy_path
        self._bus = bus
        self._store = store
        self._scheduler = scheduler
        self._catalogue = catalogue
        self._clock = clock
        self._durable = durable
        self._disk = disk
        self._limit = limit
        self._door = door
        self._duty: Duty | None = None

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            InboxInUseError: another agent works on this inbox; InboxError: it cannot be used.
        """
        paths = self.settings.paths
        messenger = Messenger(self._bus, service=SERVICE, origin=self.settings.site, clock=self._clock)
        standstill = Standstill(paths.inbox)
        speaker = Speaker(messenger, standstill)
        with Inbox.open(paths.inbox, durable=self._durable) as inbox:
            site = Site(
                settings=self.settings,
                policy_path=self._policy_path,
                store=self._store,
                scheduler=self._scheduler,
                catalogue=self._catalogue,
                clock=self._clock,
                disk=self._disk,
                inbox=inbox,
                audit=AuditLog(paths.log, clock=self._clock, durable=self._durable),
                patience=Patience(),
                standstill=standstill,
                say=speaker.say,
                limit=None if self._limit is None else Limit(self._limit, clock=asyncio.get_running_loop().time),
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(speaker.run())
                    self._duty = Duty(site, messenger, group, self.ready)
                    if self._door is not None:
                        group.create_task(_opened(self._door, self._duty))
                    await self._duty.run()
            finally:
                self._duty = None

    @property
    def ignored(self) -> int:
        """How many messages came again and were ignored."""
        return self._on_duty.ignored

    @property
    def trouble(self) -> str | None:
        """Why the clinic does not do all that is asked of it, in words that may leave it; None while it does."""
        return None if self._duty is None else self._duty.trouble

    async def approve(self, experiment: str, *, by: str = "", reason: str = "") -> None:
        """A person at the clinic agrees to what is pending, or anew to what was declined or withdrawn.

        Raises:
            RefusedError: the clinic's policy denies it, the clinic lacks what it takes, or no offer is known.
        """
        await self._on_duty.approve(experiment, by=by, reason=reason)
        await self._on_duty.enrolment.store(experiment)

    async def refuse(self, experiment: str, reason: str, *, by: str = "") -> None:
        """A person at the clinic declines what is pending. Raises `RefusedError`: nothing is."""
        await self._on_duty.refuse(experiment, by=by, reason=reason)
        await self._on_duty.enrolment.store(experiment)

    async def withdraw(self, experiment: str, reason: str, *, by: str = "") -> None:
        """Take the consent to an experiment back; its tasks in hand end and count as refused.

        Raises:
            RefusedError: none is given.
        """
        await self._on_duty.withdraw(experiment, by=by, reason=reason)
        await self._on_duty.enrolment.store(experiment)

    async def stop(self, reason: str = "", *, by: str = "") -> None:
        """Stop everything at the clinic, until it is resumed."""
        await self._on_duty.stop(by=by, reason=reason)

    async def resume(self, reason: str = "", *, by: str = "") -> None:
        """Let a stopped clinic work again."""
        await self._on_duty.resume(by=by, reason=reason)

    @property
    def _on_duty(self) -> Duty:
        if self._duty is None:
            raise RuntimeError("the agent does not run")
        return self._duty


async def _opened(door: Callable[[Duty], Awaitable[None]], duty: Duty) -> None:
    await door(duty)
