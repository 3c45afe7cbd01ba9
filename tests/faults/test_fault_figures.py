"""What a campaign reports: nothing is left out of the count, and recovery begins when a fault is undone."""

import pytest

from wardround.simulation.faults.campaign import Judge
from wardround.simulation.faults.figures import Figures, figures_of
from wardround.simulation.faults.history import History, Injected, Written
from wardround.simulation.faults.plan import Plan
from wardround.simulation.faults.report import as_object, bound, quantile
from wardround.simulation.faults.run import Outcome
from wardround.simulation.faults.virtual_time import StuckError
from wardround.simulation.faults.workplace import workplace
from wardround.simulation.faults.world import World


def recoveries(fault: Injected, *, faults_over: float) -> dict[str, list[float]]:
    history = History(lambda: 0.0)
    history.injected.append(fault)
    history.faults_over = faults_over
    history.written += [
        Written(at, "coordinator-1", "wr-sim", f"journal/{number:08}.json", b"", "create", fresh=True)
        for number, at in enumerate((50.0, 107.0, 409.0))
    ]
    outcome = Outcome(Plan(), None, history, {}, {})
    return dict(figures_of(outcome, ()).recoveries)


@pytest.mark.parametrize(("lasts_until", "recovers_in"), [(40.0, 10.0), (100.0, 7.0), (400.0, 7.0)])
def test_recovery_counts_from_when_a_fault_was_undone_at_the_latest_with_all_else(
    lasts_until: float, recovers_in: float
) -> None:
    cut = Injected(5.0, "cut off", "clinic-1", over=lasts_until)
    assert recoveries(cut, faults_over=100.0) == {"cut off": [recovers_in]}


class Stuck(World):
    def start(self, name: str) -> None:
        raise StuckError("everything waits")


@pytest.mark.slow
def test_a_run_that_got_stuck_is_counted_and_told() -> None:
    with workplace() as place:
        verdict, outcome = Judge(place, Stuck).run(3)
    assert outcome is None
    assert [violation.promise for violation in verdict.violations] == ["P1"]
    together = Figures()
    together.add(verdict.figures)
    told = as_object(together, failed=1)
    assert (told["schedules"], told["violated"], told["fails_less_often_than"]) == (1, 1, None)


def test_the_rule_of_three() -> None:
    assert bound(300) == pytest.approx(0.01)
    assert (bound(1), bound(0)) == (1.0, 1.0)


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([3.0, 1.0, 2.0, 4.0], share) for share in (0.01, 0.5, 0.51, 0.99)] == [1.0, 2.0, 3.0, 4.0]
