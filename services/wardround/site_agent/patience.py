"""Waiting out what is nobody's fault: hub, scheduler or disk are away, and come back."""

import errno
import sqlite3
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.store.port import AccessDeniedError, StoreUnavailableError
from wardround.site_agent.scheduler.port import SchedulerUnavailableError
from wardround.site_agent.trainers import TrainersError

log = structlog.get_logger()

T = TypeVar("T")

NO_TRAINERS = "the trainers installed here cannot be listed"
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DATABASE_AWAY = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN})


def outage(error: BaseException) -> str | None:
    """What is away, in words that may leave the clinic; None where trying again would not help."""
    match error:
        case StoreUnavailableError():
            return "the object store is away"
        case AccessDeniedError():
            return "the object store refuses this site's login"
        case BusUnavailableError():
            return "the broker is away"
        case SchedulerUnavailableError():
            return "the scheduler is away"
        case TrainersError():
            return NO_TRAINERS
        case sqlite3.OperationalError() if error.sqlite_errorcode & 0xFF in DATABASE_AWAY:
            return "the inbox cannot be written"
        case OSError() if error.errno in DISK_FULL:
            return "the disk is full"
    return None


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
        try:
            return await call()
        except Exception as error:
            if outage(error) is None:
                raise
        return await self._again(call)

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        this = object()

        def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            self._waiting[this] = (error and outage(error)) or "something is away"
            log.warning("waiting", reason=self._waiting[this], tries=state.attempt_number, error=repr(error))

        async def once_more() -> T:  # tenacity awaits what it sees to be a coroutine function
            return await call()

        try:
            return await AsyncRetrying(
                retry=retry_if_exception(lambda error: outage(error) is not None),
                wait=wait_random_exponential(multiplier=0.1, max=self._longest),
                before_sleep=note,
                reraise=True,
            )(once_more)
        finally:
            self._waiting.pop(this, None)
