"""Each service cut at every call that it makes in a small experiment."""

from collections import Counter

import pytest

from wardround.simulation.faults.every_step import SMALL, Cut, every_cut, judge_cuts, try_cuts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def cuts() -> tuple[list[Cut], str]:
    return every_cut()


def test_there_is_a_cut_for_every_call_of_every_service(cuts: tuple[list[Cut], str]) -> None:
    services = Counter(cut.service for cut in cuts[0])
    assert services.keys() == {*SMALL.hub, *SMALL.clinics, "everything"}
    assert min(services.values()) > 50
    for service, moments in services.items():
        killed = {(cut.number, cut.moment) for cut in cuts[0] if (cut.what, cut.service) == ("killed", service)}
        assert killed == {
            (number, moment) for number in range(1, len(killed) // 2 + 1) for moment in ("before", "after")
        }
        assert moments >= len(killed)


def test_a_cut_that_is_never_reached_is_not_taken_for_a_clean_one(cuts: tuple[list[Cut], str]) -> None:
    ((never,),) = (result.violations for result in judge_cuts([Cut("killed", "metrics", 10_000)], cuts[1]))
    assert never.promise == "not tried"


def test_killed_at_every_call_no_service_breaks_a_promise(cuts: tuple[list[Cut], str]) -> None:
    chosen = [cut for cut in cuts[0] if cut.what == "killed" and cut.service != "everything"]
    assert {str(result.cut): result.violations for result in try_cuts(chosen, cuts[1]) if result.violations} == {}


@pytest.mark.parametrize("what", ["timed out", "rebooted", "broker wiped", "killed"])
def test_whatever_else_befalls_a_call_breaks_no_promise(cuts: tuple[list[Cut], str], what: str) -> None:
    """Every fortieth of these: `wardround simtest --every-step` tries all of them."""
    chosen = [cut for cut in cuts[0] if cut.what == what and (what != "killed" or cut.service == "everything")][::40]
    assert len(chosen) > 2
    assert {str(result.cut): result.violations for result in try_cuts(chosen, cuts[1]) if result.violations} == {}
