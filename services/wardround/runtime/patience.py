"""Waiting out what is nobody's fault: the store or the broker is away, or a disk is full."""

import errno
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_never, wait_random_exponential
from tenacity.stop import stop_base

from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.store.port import StoreUnavailableError

log = structlog.get_logger()

T = TypeVar("T")
Outage = Callable[[BaseException], str | None]

LONGEST_WAIT = 15.0
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def outage(error: BaseException) -> str | None:
    """What is away, in words that may be shown to anybody; None where trying again would not help."""
    match error:
        case StoreUnavailableError():
            return "the object store is away"
        case BusUnavailableError():
            return "the broker is away"
        case OSError() if error.errno in DISK_FULL:
            return "the disk is full"
    return None


def _log(what: str, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("waiting", reason=what, tries=state.attempt_number, error=repr(error))


async def patiently(
    call: Callable[[], Awaitable[T]],
    *,
    away: Outage = outage,
    longest: float | None = None,
    stop: stop_base | None = None,
    note: Callable[[str, RetryCallState], None] = _log,
) -> T:
    """The call's result, tried again with jittered exponential backoff while `away` knows the error for an outage.

    Args:
        longest: seconds between two tries at most; `LONGEST_WAIT` by default.
        stop: when to give up and raise the outage's error; never by default. The first call is the first attempt; a
            delay is that since it failed.
        note: told what is away before each wait.

    Raises:
        Exception: what the call raises and is no outage, at once.
    """
    try:
        return await call()
    except Exception as error:
        if away(error) is None:
            raise
        made = [error]  # nearly all calls end here, and tenacity would cost each of them more than the call itself

    async def attempt() -> T:
        """The call; the first time the one that was made already."""
        if made:
            raise made.pop()
        return await call()

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        note((error and away(error)) or "something is away", state)

    return await AsyncRetrying(
        retry=retry_if_exception(lambda error: away(error) is not None),
        wait=wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT if longest is None else longest),
        stop=stop or stop_never,
        before_sleep=before_sleep,
        reraise=True,
    )(attempt)
