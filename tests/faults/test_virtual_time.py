"""Time that jumps: what waits for long is done at once, and in the order of its time."""

import asyncio
import time

import pytest

from wardround.simulation.faults.virtual_time import StuckError, run_virtually


def test_days_of_waiting_take_no_time_and_end_in_their_order() -> None:
    ended: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(wait("days", 3 * 86_400), wait("soon", 0.5), wait("later", 60))

    begun = time.perf_counter()
    run_virtually(main())
    assert ended == [("soon", 0.5), ("later", 60.0), ("days", 259_200.0)]
    assert time.perf_counter() - begun < 5


def test_a_time_out_comes_after_its_seconds() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == pytest.approx(7)


def test_what_would_be_a_threads_is_done_in_place() -> None:
    async def main() -> list[int]:
        done: list[int] = []
        await asyncio.gather(*(asyncio.to_thread(done.append, number) for number in range(3)))
        return done

    assert run_virtually(main()) == [0, 1, 2]


def test_an_error_out_of_such_a_call_is_its_callers() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    run_virtually(main())


def test_waiting_for_nothing_is_told() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match="waits"):
        run_virtually(main())


@pytest.mark.slow
def test_work_that_takes_no_time_and_has_no_end_is_told_and_cancelled() -> None:
    cancelled = []

    async def main() -> None:
        try:
            while True:  # noqa: ASYNC110 - a busy loop is what is told here
                await asyncio.sleep(0)
        finally:
            cancelled.append(True)

    with pytest.raises(StuckError, match="takes no time"):
        run_virtually(main())
    assert cancelled
