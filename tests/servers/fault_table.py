"""What every fault on real servers came to, as a table at the end of the tests."""

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from wardround.simulation.faults.checker import check, not_judged
from wardround.simulation.faults.figures import recoveries
from wardround.simulation.faults.report import quantile
from wardround.simulation.faults.run import Outcome

SEED = "FAULTS_SEED"
HEADINGS = ("fault", "times", "recovery p50", "max", "violations")


@dataclass(slots=True)
class Row:
    times: int = 0
    recoveries: list[float] = field(default_factory=list)
    violations: int = 0


class FaultTable:
    """`violations` of a fault are those of the runs in which it was injected; what is drawn follows from the `seed`: of
    the environment, to have the same drawn once more, or a new one."""

    def __init__(self) -> None:
        named = os.environ.get(SEED)
        self.seed = int(named) if named else random.SystemRandom().randrange(2**32)
        self.rows: defaultdict[str, Row] = defaultdict(Row)
        self.not_judged: set[str] = set()

    def judge(self, outcome: Outcome, undisturbed: str | None = None) -> None:
        """No promise may be broken; `undisturbed` is the digest of the last model without faults."""
        violations = check(outcome, undisturbed=undisturbed)
        names = [f"{one.target}: {one.kind}" for one in outcome.history.injected]
        for name in names:
            self.rows[name].times += 1
        for name in set(names):
            self.rows[name].violations += len(violations)
        for one, seconds in recoveries(outcome):
            self.rows[f"{one.target}: {one.kind}"].recoveries.append(seconds)
        self.not_judged.update(not_judged(outcome))
        assert violations == []

    def lines(self) -> Sequence[str]:
        cells = [HEADINGS, *(_cells(name, row) for name, row in sorted(self.rows.items()))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(
                [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
            )
            for name, *rest in cells
        ]


def _cells(name: str, row: Row) -> tuple[str, ...]:
    spread = ("-", "-")
    if row.recoveries:
        spread = (f"{quantile(row.recoveries, 0.5):.1f} s", f"{max(row.recoveries):.1f} s")
    return (name, str(row.times), *spread, str(row.violations))


TABLE = pytest.StashKey[FaultTable]()


@pytest.fixture(scope="session")
def fault_table(pytestconfig: pytest.Config) -> FaultTable:
    return pytestconfig.stash.setdefault(TABLE, FaultTable())


@pytest.fixture(scope="session")
def faults_seed(fault_table: FaultTable) -> int:
    return fault_table.seed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, None)
    if table is not None and table.rows:
        terminalreporter.section("faults on real servers")
        not_judged = (f"not judged, {each}" for each in sorted(table.not_judged))
        for line in (*table.lines(), *not_judged, f"{SEED}={table.seed}"):
            terminalreporter.line(line)
