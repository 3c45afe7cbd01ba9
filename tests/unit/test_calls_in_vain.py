"""What a service's own figures say of the calls that it made in vain."""

import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from servers.programs import Look, calls_a_second, look
from wardround.runtime.telemetry import process_figures

LAST = Look(at=7.0, began=1.0, failed=100)


def test_calls_are_counted_from_one_look_to_the_next() -> None:
    assert calls_a_second(LAST, Look(at=8.0, began=1.0, failed=130)) == 30


def test_calls_of_seconds_in_which_nobody_looked_were_not_made_in_one() -> None:
    assert calls_a_second(LAST, Look(at=11.0, began=1.0, failed=192)) == 23


@pytest.mark.parametrize("failed", [40, 140])
def test_a_service_that_was_started_anew_counts_from_zero(failed: int) -> None:
    assert calls_a_second(LAST, Look(at=8.0, began=7.2, failed=failed)) == failed


def test_a_service_that_was_started_anew_made_its_calls_since_then() -> None:
    assert calls_a_second(LAST, Look(at=17.0, began=16.0, failed=500)) == 500
    assert calls_a_second(LAST, Look(at=17.0, began=12.0, failed=500)) == 100


def test_two_looks_in_short_succession_make_no_rate_of_a_handful() -> None:
    assert calls_a_second(LAST, Look(at=7.1, began=1.0, failed=105)) == 5


def test_the_figures_of_a_service_tell_when_it_began() -> None:
    registry = CollectorRegistry()
    process_figures(registry, service="coordinator", up=lambda: True)
    told = look(generate_latest(registry).decode(), at=time.time())
    assert 0 < told.began < told.at
    assert told.failed == 0
