"""The site's agent, wired: the clinic's only door.

Crash-only: it may be killed at any instruction, and starting it again is the whole recovery.
"""

import asyncio
from pathlib import Path

from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Bus
from wardround.runtime.clock import Clock
from wardround.runtime.store.port import ObjectStore
from wardround.site_agent.audit import AuditLog
from wardround.site_agent.duty import Duty
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.patience import Patience
from wardround.site_agent.scheduler.port import Scheduler
from wardround.site_agent.settings import SiteSettings
from wardround.site_agent.site import Site
from wardround.site_agent.speaker import Speaker
from wardround.site_agent.trainers import Catalogue

SERVICE = "site-agent"


class SiteAgent:
    """One clinic's agent; `run` is its whole life. `ready` is set when it has told the hub that it is there."""

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
        self._duty: Duty | None = None

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            InboxInUseError: another agent works on this inbox; InboxError: it cannot be used.
        """
        paths = self.settings.paths
        messenger = Messenger(self._bus, service=SERVICE, origin=self.settings.site, clock=self._clock)
        speaker = Speaker(messenger)
        with Inbox.open(paths.inbox, durable=self._durable) as inbox:
            site = Site(
                settings=self.settings,
                policy_path=self._policy_path,
                store=self._store,
                scheduler=self._scheduler,
                catalogue=self._catalogue,
                clock=self._clock,
                inbox=inbox,
                audit=AuditLog(paths.log, clock=self._clock, durable=self._durable),
                patience=Patience(),
                say=speaker.say,
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(speaker.run())
                    self._duty = Duty(site, messenger, group, self.ready)
                    await self._duty.run()
            finally:
                self._duty = None

    @property
    def ignored(self) -> int:
        """How many messages came again and were ignored."""
        return self._on_duty.ignored

    async def withdraw(self, experiment: str, reason: str) -> None:
        """Take the consent to an experiment back; its tasks in hand end and count as refused."""
        await self._on_duty.withdraw(experiment, reason)

    async def approve(self, experiment: str) -> None:
        """A person at the clinic agrees to what is pending, or anew to what was declined or withdrawn.

        Raises:
            RefusedError: the clinic's policy denies it, the clinic lacks what it takes, or no offer is known.
        """
        await self._on_duty.enrolment.approve(experiment)

    @property
    def _on_duty(self) -> Duty:
        if self._duty is None:
            raise RuntimeError("the agent does not run")
        return self._duty
