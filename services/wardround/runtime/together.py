"""Doing several things at once without leaving one behind."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, overload

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@overload
async def together(first: Awaitable[A], second: Awaitable[B], /) -> tuple[A, B]: ...
@overload
async def together(first: Awaitable[A], second: Awaitable[B], third: Awaitable[C], /) -> tuple[A, B, C]: ...
@overload
async def together(*works: Awaitable[A]) -> tuple[A, ...]: ...
async def together(*works: Awaitable[Any]) -> tuple[Any, ...]:
    """The results, in the order of the works, when all have ended; then the first error, if there was one.

    `asyncio.gather` raises at once and leaves the others running, `asyncio.TaskGroup` wraps the error.
    """
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return tuple(results)
