"""Waiting out what is nobody's fault at a clinic: hub, scheduler or disk are away, and come back."""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState

from wardround.runtime.patience import outage as outage_anywhere
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import AccessDeniedError
from wardround.site_agent.audit.log import LogUnwritableError
from wardround.site_agent.scheduler.port import SchedulerUnavailableError
from wardround.site_agent.trainers import TrainersError

log = structlog.get_logger()

T = TypeVar("T")

NO_TRAINERS = "the trainers installed here cannot be listed"
DATABASE_AWAY = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN})


def outage(error: BaseException) -> str | None:
    """What is away, in words that may leave the clinic; None where trying again would not help."""
    match error:
        case AccessDeniedError():
            return "the object store refuses this site's login"
        case SchedulerUnavailableError():
            return "the scheduler is away"
        case TrainersError():
            return NO_TRAINERS
        case LogUnwritableError():
            return "the clinic's own log cannot be written"
        case sqlite3.OperationalError() if error.sqlite_errorcode & 0xFF in DATABASE_AWAY:
            return "the inbox cannot be written"
    return outage_anywhere(error)


class Patience:
    """Tries a call again, with jittered backoff and for ever, while something is away; `trouble` says what is."""

    def __init__(self, *, longest: float = 30) -> None:
        self._longest = longest
        self._waiting: dict[object, str] = {}

    @property
    def trouble(self) -> str | None:
        """What is away right now, the first of it; None while all is well."""
        return next(iter(self._waiting.values()), None)

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result; raises what it raises, unless that is an outage."""
        this = object()

        def note(what: str, state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            self._waiting[this] = what
            log.warning("waiting", reason=what, tries=state.attempt_number, error=repr(error))

        try:
            return await patiently(call, away=outage, longest=self._longest, note=note)
        finally:
            self._waiting.pop(this, None)
