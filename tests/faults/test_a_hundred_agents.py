"""A hundred agents lose the hub, and come back at once."""

from collections import Counter

import pytest

from wardround.runtime.logging import configure_logging
from wardround.simulation.faults.checker import check
from wardround.simulation.faults.plan import Incident, Plan, Schedule
from wardround.simulation.faults.run import run_seed
from wardround.simulation.faults.workplace import workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SITES = 100
AWAY, BACK = 10.0, 130.0  # the trainings of round 1 end between


def test_all_are_counted_and_none_of_their_calls_comes_in_step() -> None:
    configure_logging(level="critical")
    away = (Incident(AWAY, "store away", "all", BACK - AWAY), Incident(AWAY, "broker away", "all", BACK - AWAY))
    schedule = Schedule(
        seed=1,
        profile="a hundred agents",
        plan=Plan(sites=SITES, rounds=1, quorum=SITES, deadline=3600),
        lasts=200.0,
        incidents=away,
        training=(5.0, 5.0),  # all of them have something to say while nobody hears it
    )
    with workplace() as place:
        outcome = run_seed(schedule, place)
    assert check(outcome) == []
    answered = Counter(int(one.at) for key, one in outcome.history.answers.items() if key.round == 1)
    assert answered.total() == SITES
    assert min(answered) >= BACK
    assert max(answered.values()) < SITES / 4
