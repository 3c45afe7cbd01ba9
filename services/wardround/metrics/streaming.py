"""Server-sent events: what is said on the stream, as CloudEvents in JSON, each with its offset as id."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wardround.metrics.feed import CutOff, Said
from wardround.runtime.http_guard import refusal

STREAMS = 64
PING_EVERY = 15
TAKES_WITHIN = 30.0  # seconds for one event

T = TypeVar("T")


class Streams:
    """The listeners there are, no more than `STREAMS`."""

    def __init__(self) -> None:
        self.open = 0

    def stream(
        self, events: AsyncGenerator[Said | CutOff, None], *, experiment: str | None, closing: asyncio.Event
    ) -> Response:
        """The events, or those of one experiment, until the listener goes, is too slow, or `closing` is set."""
        if self.open >= STREAMS:
            return refusal(503, "busy", f"{STREAMS} others listen already; try again later", {"Retry-After": "30"})
        self.open += 1  # now, not when the first event is sent: many may ask at once
        return _Stream(
            _events(until(closing, events), experiment),
            ping=PING_EVERY,
            send_timeout=TAKES_WITHIN,
            ended=self._ended,
        )

    def _ended(self) -> None:
        self.open -= 1


class _Stream(EventSourceResponse):
    """Tells when it has ended, however it did."""

    def __init__(self, *args: Any, ended: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _events(
    events: AsyncGenerator[Said | CutOff, None], experiment: str | None
) -> AsyncGenerator[ServerSentEvent, None]:
    async with aclosing(events):
        async for event in events:
            match event:
                case CutOff():
                    yield cut_off(event)
                case Said() if experiment in (None, event.experiment):
                    yield ServerSentEvent(event.text, id=str(event.offset))


def cut_off(event: CutOff) -> ServerSentEvent:
    detail = "too slow: what came meanwhile is no longer in memory; ask for /events?from="
    text = json.dumps({"code": "too_slow", "detail": f"{detail}{event.offset}", "from": event.offset})
    return ServerSentEvent(text, event="cut_off")


async def until(closing: asyncio.Event, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items, until `closing` is set."""

    async def following() -> T:
        return await anext(items)

    stop = asyncio.create_task(closing.wait())
    step: asyncio.Task[T] | None = None
    try:
        while True:
            step = asyncio.create_task(following())
            await asyncio.wait({step, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            try:
                item = step.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        with anyio.CancelScope(shield=True):  # the response's task group cancels every await anew
            for task in (stop, step):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
            await items.aclose()
