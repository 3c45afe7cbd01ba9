"""The table of faults: how often each was brought about, how soon something went on, and what was broken."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from servers.fault_table import SEED, FaultTable
from wardround.simulation.faults.history import Injected
from wardround.simulation.faults.plan import Plan
from wardround.simulation.faults.run import Outcome, run_with
from wardround.simulation.faults.workplace import workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """A run in which a clinic was said to be frozen for the first two seconds."""
    with workplace() as place:
        outcome = run_with(Plan(rounds=1), place)
    outcome.history.injected.append(Injected(1.0, "frozen", "clinic-1", over=2.0))
    return outcome


def test_a_fault_is_a_row_with_the_time_until_something_went_on(outcome: Outcome) -> None:
    table = FaultTable()
    table.judge(outcome)
    table.judge(outcome)
    (row,) = table.rows.values()
    progress = next(one.at for one in outcome.history.written if one.at >= 2.0)
    assert (row.times, row.violations) == (2, 0)
    assert row.recoveries == pytest.approx([progress - 2.0] * 2)
    assert table.lines()[1].split()[:4] == ["clinic-1:", "frozen", "2", f"{progress - 2.0:.1f}"]


def test_a_broken_promise_fails_and_is_counted_for_the_faults_of_its_run(outcome: Outcome) -> None:
    table = FaultTable()
    broken = replace(outcome, history=replace(outcome.history, read_by_coordinators={}))
    with pytest.raises(AssertionError, match="P7"):
        table.judge(broken)
    assert table.rows["clinic-1: frozen"].violations > 0


def test_what_was_not_recorded_is_told(outcome: Outcome) -> None:
    table = FaultTable()
    table.judge(replace(outcome, unrecorded=frozenset({"reads"})))
    assert table.not_judged == {"P7: reads were not recorded"}


def test_the_seed_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEED, "7")
    assert FaultTable().seed == 7
