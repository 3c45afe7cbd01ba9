"""Who runs a training task at a clinic. Adapters: `InlineScheduler`, `LocalScheduler`, and the clinic's own Airflow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Began = Callable[[], None]


class SchedulerError(Exception):
    """The scheduler refused for a reason that trying again does not mend; `code` goes into the answer."""

    def __init__(self, code: str, hint: str = "") -> None:
        super().__init__(f"{code}: {hint}")
        self.code = code
        self.hint = hint


class SchedulerUnavailableError(Exception):
    """The scheduler is away: the call may or may not have been carried out. Try again."""


class UnknownRunError(Exception):
    """The scheduler knows of no run for this task."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended. A run that `succeeded` left a `result.json`; `code` and `hint` say why one did not."""

    succeeded: bool
    code: str = ""
    hint: str = ""


def nobody_asks() -> None:
    """For whoever waits and need not know when a run begins."""


class Scheduler(Protocol):
    """Runs `python -m wardround.training run <spool>/<task id>`, or what the clinic has in its place.

    The task id is the run's id, so that triggering twice starts one run.
    """

    async def trigger(self, task: str, *, again: bool = False) -> None:
        """Start the run for the task if there is none; with `again` also if one is over.

        Raises:
            SchedulerError, SchedulerUnavailableError.
        """

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        """Return when the run is over; at once where it is over already.

        `began` is called once, as soon as the run is at work and no longer waits for its turn; at the latest when it is
        over.

        Raises:
            SchedulerError: the run never came to its turn, and was ended; UnknownRunError;
            SchedulerUnavailableError: also where nobody can look at it. It may be going on.
        """

    async def cancel(self, task: str) -> None:
        """Stop the run within a second or so; no error where none runs."""

    async def close(self) -> None: ...
