"""An entry that is to be appended."""

from dataclasses import dataclass

from wardround.coordinator.state import State
from wardround_messages.journal import ExperimentFailed, ExperimentPaused, Fact


@dataclass(frozen=True, slots=True)
class Proposed:
    """`cause` is the id of the command or the key of the object that led to the entry."""

    body: Fact
    cause: str = ""


def on_missed(state: State, code: str, reason: str) -> list[Proposed]:
    """What the researcher chose for a missed quorum: a person decides, or the experiment ends."""
    if state.manifest.rounds.on_missed == "pause":
        return [Proposed(ExperimentPaused(code=code, reason=reason))]
    return [Proposed(ExperimentFailed(code=code, reason=reason))]
