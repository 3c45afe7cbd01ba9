"""What every part of a site's agent stands on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from wardround.runtime.clock import Clock
from wardround.runtime.store.port import ObjectStore
from wardround.site_agent.audit import AuditLog
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.patience import Patience
from wardround.site_agent.policy import Policy, load_policy
from wardround.site_agent.scheduler.port import Scheduler
from wardround.site_agent.settings import SiteSettings
from wardround.site_agent.trainers import Catalogue
from wardround_messages.events import FromSite
from wardround_messages.names import TaskId

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One clinic as its agent knows it. `say` publishes an event some time soon, or not at all."""

    settings: SiteSettings
    policy_path: Path
    store: ObjectStore
    scheduler: Scheduler
    catalogue: Catalogue
    clock: Clock
    inbox: Inbox
    audit: AuditLog
    patience: Patience
    say: Callable[[FromSite], None]

    @property
    def name(self) -> str:
        return self.settings.site

    def policy(self) -> Policy:
        """The policy as it stands in its file now."""
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
        """Write to the inbox or the log, waiting while the disk is full."""

        async def call() -> T:
            return function(*args, **kwargs)

        return await self.patience(call)
