"""Tests of the tests: services that are broken on purpose are caught, by few seeds."""

import pytest
from mutants import MUTANTS

from wardround.simulation.faults.campaign import judge_seeds
from wardround.simulation.faults.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEEDS = 40  # fewer than the services themselves go through in `test_no_schedule_breaks_a_promise`
# Who is caught must be caught for what it does wrong.
PROMISES = {
    "JournalWithoutALock": {"P4"},
    "EffectBeforeItsEntry": {"P6"},
    "OnlyAnnouncementsBelieved": {"P1", "P5", "P7"},
    "NothingSaidAgain": {"P1"},
    "AggregatorOverwrites": {"P4"},
    "SiteOverwrites": {"P4"},
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_service_is_caught(mutant: type[World]) -> None:
    for seed in range(SEEDS):
        (verdict,) = judge_seeds([seed], mutant)
        broken = {violation.promise for violation in verdict.violations}
        if broken & PROMISES[mutant.__name__]:
            return
    pytest.fail(f"{mutant.__doc__} {SEEDS} schedules did not show it")
