"""Waiting out what is nobody's fault: the store is away, or a disk is full."""

import errno
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from wardround.runtime.store.port import StoreUnavailableError

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_WAIT = 15.0
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


async def patiently(call: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """The call's result, tried again with jittered backoff, for ever, while there is an outage; raises all else."""
    try:
        return await call(*args, **kwargs)
    except Exception as error:
        if not _is_outage(error):
            raise
    return await AsyncRetrying(
        retry=retry_if_exception(_is_outage),
        wait=wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT),
        before_sleep=_say,
        reraise=True,
    )(call, *args, **kwargs)


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, StoreUnavailableError) or (isinstance(error, OSError) and error.errno in _DISK_FULL)


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("waiting", reason=repr(error), tries=state.attempt_number)
