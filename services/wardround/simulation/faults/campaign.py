"""Many seeds, on several processors: what each of them came to, and what they come to together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from wardround.runtime.logging import configure_logging
from wardround.simulation.faults.checker import Violation, check
from wardround.simulation.faults.evidence import evidence_of
from wardround.simulation.faults.figures import Figures, figures_of
from wardround.simulation.faults.plan import Plan
from wardround.simulation.faults.processes import in_processes
from wardround.simulation.faults.profiles import schedule_of
from wardround.simulation.faults.run import Outcome, Worlds, run_seed, run_with
from wardround.simulation.faults.virtual_time import StuckError
from wardround.simulation.faults.workplace import Workplace, workplace
from wardround.simulation.faults.world import World

AT_ONCE = 10  # seeds for a process, which then reports


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one seed. `digest` is that of the whole schedule."""

    seed: int
    profile: str
    violations: tuple[Violation, ...]
    figures: Figures
    digest: str


class Judge:
    """Runs seeds in a workplace, and knows what the same experiment comes to without faults."""

    def __init__(self, place: Workplace, worlds: Worlds = World) -> None:
        self._place = place
        self._worlds = worlds
        self._undisturbed: dict[tuple[int, int, bool], str] = {}

    def run(self, seed: int) -> tuple[Verdict, Outcome | None]:
        """The verdict on the seed, with the run itself; without it where the run got stuck."""
        schedule = schedule_of(seed)
        undisturbed = self._model_of(schedule.plan)
        try:
            outcome = run_seed(schedule, self._place, self._worlds)
        except StuckError as error:
            violation = Violation("P1", str(error))
            return Verdict(seed, schedule.profile, (violation,), Figures(runs=1), ""), None
        violations = tuple(check(outcome, undisturbed=undisturbed))
        figures = figures_of(outcome, violations)
        return Verdict(seed, schedule.profile, violations, figures, outcome.history.digest), outcome

    def _model_of(self, plan: Plan) -> str:
        """The digest of the last model without faults, by real services, too."""
        shape = plan.sites, plan.rounds, plan.weighted
        if shape not in self._undisturbed:
            calm = Plan(sites=plan.sites, rounds=plan.rounds, quorum=plan.sites, weighted=plan.weighted)
            state = evidence_of(run_with(calm, self._place)).state
            model = None if state is None else state.models[-1]
            if model is None:
                raise RuntimeError("the experiment does not end even where nothing is disturbed")
            self._undisturbed[shape] = model.sha256
        return self._undisturbed[shape]


def judge_seeds(seeds: Sequence[int], worlds: Worlds = World) -> list[Verdict]:
    """The verdicts on some seeds, one after the other in this process."""
    configure_logging(level="critical")
    with workplace() as place:
        judge = Judge(place, worlds)
        return [judge.run(seed)[0] for seed in seeds]


def campaign(seeds: Sequence[int], *, processes: int | None = None, worlds: type[World] = World) -> Iterator[Verdict]:
    """The verdicts on the seeds, as they come."""
    batches = [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]
    for verdicts in in_processes(partial(judge_seeds, worlds=worlds), batches, processes=processes):
        yield from verdicts
