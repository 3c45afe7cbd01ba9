"""Waiting out an outage: every try is one of the loop, noted, and followed by a pause."""

import asyncio

import pytest
from structlog.testing import capture_logs
from tenacity import stop_after_attempt

from wardround.runtime.patience import patiently
from wardround.runtime.store.port import StoreUnavailableError
from wardround.simulation.faults.virtual_time import run_virtually


class Store:
    """Away for so many calls; `asked` holds when each call came."""

    def __init__(self, away_for: int) -> None:
        self.asked: list[float] = []
        self._away_for = away_for

    async def read(self) -> str:
        self.asked.append(asyncio.get_running_loop().time())
        if len(self.asked) <= self._away_for:
            raise StoreUnavailableError("connection refused")
        return "read"


def test_the_result_comes_without_a_word_where_nothing_is_away() -> None:
    store = Store(away_for=0)
    with capture_logs() as logs:
        assert run_virtually(patiently(store.read)) == "read"
    assert (len(store.asked), logs) == (1, [])


def test_each_failure_is_told_with_its_number_and_followed_by_a_pause() -> None:
    store = Store(away_for=3)
    with capture_logs() as logs:
        assert run_virtually(patiently(store.read)) == "read"
    assert [(log["event"], log["reason"], log["tries"]) for log in logs] == [
        ("waiting", "the object store is away", tries) for tries in (1, 2, 3)
    ]
    assert len(set(store.asked)) == 4  # a pause of nothing at all has no likelihood


def test_a_number_of_attempts_is_the_number_of_calls() -> None:
    store = Store(away_for=100)
    with pytest.raises(StoreUnavailableError):
        run_virtually(patiently(store.read, stop=stop_after_attempt(4)))
    assert len(store.asked) == 4


@pytest.mark.parametrize("outages", [0, 2])
def test_what_is_no_outage_is_raised_at_once(outages: int) -> None:
    store = Store(away_for=outages)

    async def broken() -> None:
        await store.read()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_virtually(patiently(broken))
    assert len(store.asked) == outages + 1
