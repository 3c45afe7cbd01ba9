"""Asking every clinic of an experiment whether it could take part, before anything starts.

By the protocol a check is a throwaway experiment. Its manifest is that of the true one, so that each clinic judges what
it would be asked to do, in mode `check`, whose one step tries two cases and says nothing but codes.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import structlog

from wardround.client.checked import Checked, why_silent
from wardround.client.errors import HubError, NoAnswerError
from wardround.runtime.bus.port import BusError
from wardround.runtime.store.port import StoreError
from wardround_messages.manifest import Manifest
from wardround_messages.names import EXPERIMENT_MAX

if TYPE_CHECKING:
    from wardround.client.hub import Hub
    from wardround.metrics.view import ExperimentView

log = structlog.get_logger()

WITHIN_AT_LEAST = 3  # seconds
OVERDUE_AFTER = 30.0  # seconds beyond its time: then the hub itself does not go on
ABORTS_WITHIN = 5.0


def check_id(experiment: str) -> str:
    """An id for a check of the experiment, another one each time: every check asks anew."""
    ending = f"-check-{secrets.token_hex(4)}"
    return experiment[: EXPERIMENT_MAX - len(ending)].rstrip("-") + ending


def check_of(manifest: Manifest, *, id: str, within: int) -> Manifest:  # noqa: A002 - as in the manifest
    """The throwaway that checks the experiment `manifest` in `within` seconds.

    What a policy judges stays as it is. A third of the time is for the clinics' word, the rest for trying. With a
    quorum of one, no clinic's silence or refusal hides what the others say, and as failing once is an answer, nothing
    is tried twice. It begins with the trainer's own model, so that none is copied.
    """
    enrol = within // 3
    deadline = within - enrol
    return Manifest.model_validate(
        manifest.model_dump()
        | {
            "id": id,
            "mode": "check",
            "cohort": manifest.cohort.model_dump() | {"quorum": 1, "sample": "all", "enrol": enrol},
            "rounds": manifest.rounds.model_dump()
            | {"deadline": deadline, "grace": deadline, "on_missed": "fail", "attempts": 1},
            "model": manifest.model.model_dump() | {"initial": {"kind": "trainer"}},
        }
    )


class Check:
    """One check of the experiment `of`, asked of its clinics as the throwaway `asked`."""

    def __init__(self, hub: "Hub", of: Manifest, asked: Manifest) -> None:
        self._hub = hub
        self._of = of
        self._asked = asked
        self._doing: dict[str, str] = {}

    async def carry_out(self, see: Callable[["ExperimentView"], None] = lambda view: None) -> Checked:
        """Ask, wait until all have answered or the time is over, and return what they said.

        Args:
            see: shown how it goes.

        Raises:
            RefusedError: the hub does not take it, as it would not take the experiment;
            NoAnswerError: the hub does not bring it to its end.
        """
        asked = self._asked
        await self._hub.start(asked)
        try:
            async with (
                asyncio.timeout(asked.cohort.enrol + asked.rounds.deadline + OVERDUE_AFTER),
                aclosing(self._hub.watch(asked.id)) as views,
            ):
                async for view in views:
                    self._note(view)
                    see(view)
        except TimeoutError:
            raise NoAnswerError(
                f"the hub did not bring the check to its end: its coordinator may be away; "
                f"how it stands: wardround status {asked.id}"
            ) from None
        checked = await self._hub.checked(asked, self._of, self._doing)
        if checked.of("silent"):
            with suppress(HubError):  # whoever shows the clinics may be away, or not known here
                return why_silent(checked, await self._hub.sites())
        return checked

    def _note(self, view: "ExperimentView") -> None:
        """Remember what each site was doing before the step closed: it may stand for why it did not answer."""
        if view.step is not None and view.step.closed_at is None and not view.ended:
            self._doing = {site.site: site.state for site in view.sites}

    async def abort(self) -> bool:
        """End the throwaway; False where the hub could not be told. Trying ends at the clinics, too."""
        try:
            async with asyncio.timeout(ABORTS_WITHIN):
                await self._hub.abort(self._asked.id, "the check was interrupted")
        except HubError as error:
            log.info("not_aborted", experiment=self._asked.id, error=str(error))
            return not isinstance(error, NoAnswerError)  # it was not there, or over
        except (BusError, StoreError, TimeoutError) as error:
            log.warning("not_aborted", experiment=self._asked.id, error=str(error))
            return False
        return True
