"""All experiments of a hub, one line for each."""

import asyncio
from datetime import datetime

from wardround.metrics.catalogue import Catalogue
from wardround.metrics.summary import LONG_AGO, Summary
from wardround.runtime.clock import Clock
from wardround.runtime.store.port import ObjectStore

AT_ONCE = 8


async def summaries(store: ObjectStore, *, clock: Clock) -> tuple[Summary, ...]:
    """Of every experiment a line, the one changed last first.

    Raises:
        StoreUnavailableError: from the store.
    """
    catalogue, turns = Catalogue(store, clock=clock), asyncio.Semaphore(AT_ONCE)
    await catalogue.look()

    async def one(experiment: str) -> Summary | None:
        async with turns:
            return await catalogue.summary(experiment)

    found: list[Summary] = []
    for summary in await asyncio.gather(*map(one, catalogue.names), return_exceptions=True):
        if isinstance(summary, BaseException):
            raise summary
        if summary is not None:
            found.append(summary)
    return tuple(sorted(found, key=_newest_last, reverse=True))


def _newest_last(summary: Summary) -> tuple[datetime, str]:
    return summary.changed_at or LONG_AGO, summary.experiment
