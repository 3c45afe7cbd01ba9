"""Work in processes of its own: all of it, and nothing after whoever asked has gone."""

import time
from multiprocessing import active_children

import pytest

from wardround.simulation.faults.processes import in_processes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("processes", [1, 2])
def test_every_batch_is_worked_on(processes: int) -> None:
    assert sorted(in_processes(abs, [-3, 1, -2], processes=processes)) == [1, 2, 3]


def test_no_batches_are_no_work() -> None:
    assert list(in_processes(abs, [])) == []


def test_what_goes_wrong_in_a_process_is_raised_here() -> None:
    with pytest.raises(OverflowError):
        list(in_processes(time.sleep, [0.0, 1e30], processes=2))


def test_whoever_stops_asking_leaves_nothing_at_work() -> None:
    results = in_processes(time.sleep, [0.0, *[600.0] * 20], processes=2)
    assert next(results) is None
    begun = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 60
    assert active_children() == []
