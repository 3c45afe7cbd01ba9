"""Several things at once: all end before the first error is raised."""

import asyncio

import pytest

from wardround.runtime.together import together


async def test_results_come_in_the_order_of_the_works() -> None:
    async def after(seconds: float, value: str) -> str:
        await asyncio.sleep(seconds)
        return value

    assert await together(after(0.02, "a"), after(0, "b")) == ("a", "b")
    assert await together() == ()


async def test_an_error_is_raised_when_the_others_have_ended() -> None:
    ended = []

    async def slow() -> None:
        await asyncio.sleep(0.02)
        ended.append("slow")

    async def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await together(wrong(), slow())
    assert ended == ["slow"]


async def test_cancelling_cancels_all() -> None:
    cancelled = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    both = asyncio.ensure_future(together(forever(), forever()))
    await asyncio.sleep(0.01)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert cancelled == [1, 1]
