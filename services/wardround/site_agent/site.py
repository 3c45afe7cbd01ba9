"""What every part of a site's agent stands on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from wardround.runtime.clock import Clock
from wardround.runtime.store.blocking import run
from wardround.runtime.store.limit import Limit
from wardround.runtime.store.port import ObjectStore
from wardround.site_agent.audit.log import AuditLog, Fact, LogUnwritableError
from wardround.site_agent.disk import Disk
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.patience import Patience, outage
from wardround.site_agent.policy import Fault, Policy, load_policy
from wardround.site_agent.scheduler.port import Scheduler
from wardround.site_agent.settings import SiteSettings
from wardround.site_agent.standstill import CODE, WORDS, Standstill
from wardround.site_agent.trainers import Catalogue
from wardround_messages.events import FromSite
from wardround_messages.names import TaskId

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

NOTHING_ALLOWED = Policy(fault=Fault(CODE, WORDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One clinic as its agent knows it. `say` publishes an event some time soon, or not at all; `limit` is how fast
    models and updates may be moved, None where nothing limits them."""

    settings: SiteSettings
    policy_path: Path
    store: ObjectStore
    scheduler: Scheduler
    catalogue: Catalogue
    clock: Clock
    disk: Disk
    inbox: Inbox
    audit: AuditLog
    patience: Patience
    standstill: Standstill
    say: Callable[[FromSite], None]
    limit: Limit | None = None

    @property
    def name(self) -> str:
        return self.settings.site

    def policy(self) -> Policy:
        """The policy as it stands in its file now; while the clinic is stopped it allows nothing."""
        if self.standstill.word is not None:
            return NOTHING_ALLOWED
        policy = load_policy(self.policy_path)
        if policy.fault is not None:
            log.warning("policy", site=self.name, code=policy.fault.code, detail=policy.fault.detail)
        return policy

    def folder(self, task: TaskId) -> Path:
        return self.settings.paths.spool / str(task)

    def carry(self, experiment: str) -> str:
        """Where in the spool trainings keep what they need in the next round; no task id begins with `carry/`."""
        return f"carry/{experiment}"

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Write to the inbox, waiting while the disk is full."""

        async def call() -> T:
            return function(*args, **kwargs)

        return await self.patience(lambda: self.disk(function.__name__, call))

    async def log(self, what: str, **facts: Fact) -> None:
        """Add a line to the site's own log, waiting while it takes none; what it tells of may leave afterwards."""

        async def write() -> None:
            try:
                # A slow disk must not hold up the loop; without waiting for it, a thread costs more than the line.
                await self.disk(f"log {what}", partial(run, not self.audit.durable, self.audit.write, what, **facts))
            except OSError as error:
                if outage(error) is None:
                    raise LogUnwritableError(str(error)) from error
                raise

        await self.patience(write)
