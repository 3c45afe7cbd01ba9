"""The large objects of tasks on their way: models that come, updates that go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from wardround.runtime.store.content import Content
from wardround.runtime.store.download import keep_on
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import AccessDeniedError, NotFoundError, StoreUnavailableError
from wardround.site_agent.hand import Hand, names_of
from wardround.site_agent.reports import pause
from wardround.site_agent.site import Site
from wardround_messages.events import TransferReported
from wardround_messages.parts import ObjectRef

# An upload holds one of the store's threads for as long as it takes; the others are for answers and the like.
UPLOADS_AT_ONCE = 4
REPORTED_EVERY = 5.0  # seconds, at first; what takes no longer is not reported at all
REPORTED_PER = 60  # so there are some 60 reports in the first five minutes, and 150 in the hour after them


class Transfers:
    """Moves models and updates, patiently, within the site's limit, and reports what takes long."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def fetch(self, hand: Hand, model: ObjectRef, fill: Callable[[Passage], Awaitable[None]]) -> None:
        """Have `fill` fetch the model, from where it stopped before; raises what it raises and is no outage."""
        async with self._reported(hand, model.size) as passage:
            await keep_on(lambda: fill(passage), passage, patient=self._site.patience)

    async def send(
        self, hand: Hand, bucket: str, update: ObjectRef, content: Content, *, check: Callable[[], None]
    ) -> None:
        """Store the update; `check` is called before each try, and what it raises ends them.

        An upload is begun anew after each failure, unless it turns out that it had arrived and only the reply was lost.

        Raises:
            ContentChangedError: the file is no longer what was checked. NotFoundError: there is no such bucket.
        """
        failed = False

        async def put() -> None:
            nonlocal failed
            check()
            if failed and await self._has_arrived(bucket, update):
                return
            try:
                async with self._uploads:
                    await self._site.store.put(bucket, update.key, content, passage=passage)
            except StoreUnavailableError:
                failed = True
                raise

        async with self._reported(hand, update.size) as passage:
            await self._site.patience(put)

    async def _has_arrived(self, bucket: str, update: ObjectRef) -> bool:
        """Whether all of it lies under its key, which names its digest and which nobody else may write."""
        try:
            return (await self._site.store.head(bucket, update.key)).size == update.size
        except (NotFoundError, AccessDeniedError):
            return False  # S3 says 403, not 404, of an absent key to whoever may not list

    @asynccontextmanager
    async def _reported(self, hand: Hand, size: int) -> AsyncIterator[Passage]:
        clock = asyncio.get_running_loop().time
        passage, since = Passage(size, limit=self._site.limit, clock=clock), clock()
        hand.passage = passage
        reporting = asyncio.create_task(self._report(hand, passage))
        try:
            yield passage
            if clock() - since >= REPORTED_EVERY:
                self._site.say(_report_of(hand, passage))
        finally:
            hand.passage = None
            reporting.cancel()

    async def _report(self, hand: Hand, passage: Passage) -> None:
        clock = asyncio.get_running_loop().time
        since = clock()
        while True:
            await asyncio.sleep(pause(clock() - since, at_first=REPORTED_EVERY, per=REPORTED_PER))
            self._site.say(_report_of(hand, passage))


def _report_of(hand: Hand, passage: Passage) -> TransferReported:
    """How far the transfer is, in numbers that tell nothing of what is in it."""
    speed = passage.speed()
    return TransferReported(
        **names_of(hand.start),
        phase="submitting" if hand.phase == "submitting" else "fetching",
        done=min(passage.done, passage.size),
        of=passage.size,
        per_second=None if speed is None else int(speed),
    )
