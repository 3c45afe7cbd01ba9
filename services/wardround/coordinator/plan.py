"""Which step comes next, and who is asked: pure.

`initialise(0)` or a brought model, then `train(1)` to `train(n)`, then `evaluate(n)` and `test(n)`.
"""

import hashlib
from datetime import datetime, timedelta

from wardround.coordinator.proposed import Proposed, on_missed
from wardround.coordinator.state import State
from wardround.coordinator.steps import some_of
from wardround_messages import journal as facts
from wardround_messages.manifest import share_of
from wardround_messages.names import Task


def next_step(state: State, now: datetime) -> list[Proposed]:
    """Open the next step, adopt the model that was brought, or finish; nothing while sites consider an extension."""
    if state.manifest.mode == "check":
        return _finish(state) if (0, Task.CHECK) in state.done_steps else _open_check(state)
    if not state.models:
        return _first_model(state)
    latest = state.latest
    if latest < state.rounds:
        return [] if _considering(state, latest + 1, now) else _open_training(state, latest + 1)
    evaluation = state.manifest.evaluation
    if evaluation.final and (latest, Task.EVALUATE) not in state.done_steps:
        return _open_evaluation(state)
    if evaluation.test is not None and (latest, Task.TEST) not in state.done_steps:
        return _open_test(state, evaluation.test.site)
    return _finish(state)


def consent_closes(state: State) -> datetime:
    """When the sites' time to answer the latest offer is over."""
    return state.offered_at + timedelta(seconds=state.manifest.cohort.enrol)


def _considering(state: State, round_: int, now: datetime) -> bool:
    """Whether a site that may still say yes to the round is given more time."""
    waiting = any(site.granted and site.rounds < round_ and site.offer < state.offered for site in state.sites.values())
    return waiting and now < consent_closes(state)


def eligible(state: State, round_: int) -> list[str]:
    """The sites, sorted, that may be asked in the round: granted for it, and not set aside."""
    return [name for name, site in state.sites.items() if site.may_be_asked(round_)]


def quorum_of_round(state: State) -> int:
    """The quorum of a training round: a share of its sample. The sites set aside count in what it is a share of."""
    return max(1, share_of(state.manifest.cohort.quorum, sample_size(state)))


def quorum_of_all(state: State) -> int:
    """The quorum of a step that asks every site: a share of the sites granted, those set aside included."""
    return max(1, share_of(state.manifest.cohort.quorum, _granted(state)))


def sample_size(state: State) -> int:
    """How many sites a training round asks, if so many can be asked: a share of the sites granted.

    Never fewer than a quorum that is a number, which a share of few sites could not meet.
    """
    cohort, granted = state.manifest.cohort, _granted(state)
    at_least = cohort.quorum if isinstance(cohort.quorum, int) else 1
    return min(max(share_of(cohort.sample, granted), at_least), granted)


def sampled(state: State, round_: int, candidates: list[str]) -> list[str]:
    """The round's sample, sorted: who had the fewest turns so far; among equals the seed draws anew in each round.

    So the numbers of turns differ by one at most, and who is asked together with whom changes from round to round.
    """
    if state.manifest.cohort.sample == "all":
        return candidates
    seed = state.manifest.seed
    ranked = sorted(candidates, key=lambda site: (state.sites[site].turns, _draw(seed, round_, site)))
    return sorted(ranked[: sample_size(state)])


def _granted(state: State) -> int:
    return sum(site.granted for site in state.sites.values())


def _draw(seed: int, round_: int, site: str) -> bytes:
    return hashlib.sha256(f"sample.{seed}.{round_}.{site}".encode()).digest()


def _first_model(state: State) -> list[Proposed]:
    if state.initial is not None:
        return [Proposed(facts.ModelAdopted(round=0, model=state.initial, closing=None, used=()))]
    candidates = [site for site in eligible(state, 0) if site not in state.tried]
    if not candidates:
        return on_missed(state, "nobody_initialised", "no site could make the first model")
    return [_opened(state, 0, Task.INITIALISE, candidates[:1], 1)]


def _open_training(state: State, round_: int) -> list[Proposed]:
    asked = sampled(state, round_, eligible(state, round_))
    quorum = quorum_of_round(state)
    if len(asked) < quorum:
        possible = f"{len(asked)} of {_granted(state)} sites can be asked for round {round_}"
        reason = f"{possible}, the quorum is {quorum}{_set_aside(state)}"
        return on_missed(state, "quorum_out_of_reach", reason)
    return [_opened(state, round_, Task.TRAIN, asked, quorum)]


def _set_aside(state: State) -> str:
    """Who could be asked were it readmitted."""
    names = [name for name, site in state.sites.items() if site.granted and site.set_aside]
    return f"; set aside until readmitted: {some_of(names)}" if names else ""


def _open_evaluation(state: State) -> list[Proposed]:
    asked = eligible(state, state.latest)
    return [_opened(state, state.latest, Task.EVALUATE, asked, quorum_of_all(state))]


def _open_test(state: State, site: str) -> list[Proposed]:
    asked = [site] if site in eligible(state, state.latest) else []
    return [_opened(state, state.latest, Task.TEST, asked, 1)]


def _open_check(state: State) -> list[Proposed]:
    asked = eligible(state, 0)
    return [_opened(state, 0, Task.CHECK, asked, quorum_of_all(state))]


def _opened(state: State, round_: int, task: Task, asked: list[str], quorum: int) -> Proposed:
    builds = task not in (Task.INITIALISE, Task.CHECK)
    return Proposed(
        facts.StepOpened(
            round=round_,
            task=task,
            asked=tuple(asked),
            quorum=quorum,
            built_on=state.models[-1] if builds else None,
        )
    )


def _finish(state: State) -> list[Proposed]:
    model = state.models[-1] if state.models else None
    return [Proposed(facts.ExperimentFinished(round=max(state.latest, 0), model=model))]
