"""Each service cut at every step of a small experiment in turn: no schedule is drawn, all of them are run.

A step is a call at a port or a write to a clinic's inbox or log: before it is carried out, and after. Between two steps
a service changes nothing but its memory and folders that count only once a last file is in place, so that a kill there
leaves what a kill at the next step leaves.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from wardround.runtime.logging import configure_logging
from wardround.simulation.faults.checker import Violation, check
from wardround.simulation.faults.evidence import evidence_of
from wardround.simulation.faults.fates import UNDISTURBED, Calm, Fate, Fates, Moment, Port
from wardround.simulation.faults.plan import Plan
from wardround.simulation.faults.processes import in_processes
from wardround.simulation.faults.run import Outcome, run_with
from wardround.simulation.faults.virtual_time import StuckError
from wardround.simulation.faults.workplace import Workplace, workplace
from wardround.simulation.faults.world import World
from wardround.simulation.sites import Clinic

SMALL = Plan(sites=2, rounds=2, evaluates=True)
EVERYTHING = "everything"
AT_ONCE = 25

What = Literal["killed", "timed out", "rebooted", "broker wiped"]


@dataclass(frozen=True, slots=True)
class Cut:
    """What happens at call number `number` of the service; at that of any service, where it befalls everything."""

    what: What
    service: str
    number: int
    moment: Moment = "before"

    def __str__(self) -> str:
        return f"{self.service} {self.what} {self.moment} call {self.number}"


class OneCut(Calm):
    """One cut, and nothing else. Without one it counts the calls, of each service and of all."""

    def __init__(self, cut: Cut | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.world: World | None = None
        self.befell = False
        self._cut = cut

    def call(self, service: str, port: Port, method: str) -> Fate:
        self.calls.update((service, EVERYTHING))
        cut = self._cut
        if cut is None or cut.service not in (service, EVERYTHING) or self.calls[cut.service] != cut.number:
            return UNDISTURBED
        self.befell = True
        assert self.world is not None  # noqa: S101 - it was made with these fates
        match cut.what:
            case "timed out":
                return Fate(failed="before" if port == "disk" else "after")  # a disk that took it says so
            case "broker wiped":
                self.world.history.inject(cut.what, "broker")
                self.world.broker.wipe()
                return UNDISTURBED
            case "rebooted":
                self.world.history.inject(cut.what, service)
                self.world.soon(self.world.restart(service, machine=True))
            case "killed" if cut.service == EVERYTHING:
                for name in self.world.names:
                    if name != service:
                        self.world.soon(self.world.restart(name))
        return Fate(killed=cut.moment)


@dataclass(frozen=True, slots=True)
class Result:
    cut: Cut
    violations: tuple[Violation, ...]


def cuts_of(counted: Counter[str], clinics: Sequence[str]) -> list[Cut]:
    """Every cut there is in a run with so many calls."""
    found = []
    for service, number in sorted(counted.items()):
        for call in range(1, number + 1):
            found += [Cut("killed", service, call), Cut("killed", service, call, "after")]
            if service == EVERYTHING:
                found.append(Cut("broker wiped", service, call))
            else:
                found.append(Cut("timed out", service, call, "after"))
            if service in clinics:
                found.append(Cut("rebooted", service, call))
    return found


def count_calls(place: Workplace, plan: Plan = SMALL) -> tuple[Counter[str], str]:
    """The calls of each service in a run that nothing disturbs, and the digest of its last model."""
    fates = OneCut()
    state = evidence_of(run_cut(place, fates, plan)).state
    if state is None or not state.models or (model := state.models[-1]) is None:
        raise RuntimeError("the experiment does not end even where nothing is disturbed")
    return fates.calls, model.sha256


def run_cut(place: Workplace, fates: OneCut, plan: Plan = SMALL) -> Outcome:
    def world(plan: Plan, clinics: Mapping[str, Clinic], folder: Path, given: Fates) -> World:
        fates.world = World(plan, clinics, folder, given)
        return fates.world

    return run_with(plan, place, fates, world)


def judge_cuts(cuts: Sequence[Cut], undisturbed: str, plan: Plan = SMALL) -> list[Result]:
    """What each cut comes to, one after the other in this process. One that was never reached proves nothing."""
    configure_logging(level="critical")
    results = []
    with workplace() as place:
        for cut in cuts:
            fates = OneCut(cut)
            try:
                violations = check(run_cut(place, fates, plan), undisturbed=undisturbed)
            except StuckError as error:
                violations = [Violation("P1", str(error))]
            if not fates.befell:
                calls = fates.calls[cut.service]
                violations.append(Violation("not tried", f"{cut} was never reached: there were {calls} calls"))
            results.append(Result(cut, tuple(violations)))
    return results


def every_cut(plan: Plan = SMALL) -> tuple[list[Cut], str]:
    """All cuts that there are, and the digest of the last model of a run without any."""
    configure_logging(level="critical")
    with workplace() as place:
        counted, undisturbed = count_calls(place, plan)
    return cuts_of(counted, plan.clinics), undisturbed


def try_cuts(
    cuts: Sequence[Cut], undisturbed: str, *, processes: int | None = None, plan: Plan = SMALL
) -> Iterator[Result]:
    """What each of the cuts comes to, as they come."""
    batches = [cuts[start : start + AT_ONCE] for start in range(0, len(cuts), AT_ONCE)]
    judge = partial(judge_cuts, undisturbed=undisturbed, plan=plan)
    for results in in_processes(judge, batches, processes=processes):
        yield from results
