"""Stopping a clinic, and letting it work again: the file, then the agent, and without one the scheduler itself."""

import asyncio
from dataclasses import dataclass, field

from wardround.client.clinic.door import AgentDoor, AgentSilentError, AgentState, NoAgentError, NotOursError
from wardround.client.errors import RefusedError
from wardround.runtime.clock import wall_clock
from wardround.runtime.encryption import UnencryptedError, refuse_unencrypted
from wardround.runtime.secrets import SecretUnreadableError
from wardround.site_agent.agent_socket import Word
from wardround.site_agent.audit.log import AuditLog
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.inbox_file import InboxError
from wardround.site_agent.scheduler.port import Scheduler, SchedulerError, SchedulerUnavailableError
from wardround.site_agent.settings import Airflow, SiteSettings
from wardround.site_agent.standstill import Standstill

ALIVE_WITHIN = 2.0  # seconds in which an agent that works says that it does: no training goes on for longer than that
AGENT_WITHIN = 10.0  # in half of it such an agent has stopped, whatever its scheduler does
CANCELS_WITHIN = 20.0


@dataclass(slots=True)
class Report:
    """What was done, what is still under way, and what could not be done, in words."""

    done: list[str] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Stopping:
    """Stops one clinic, or resumes it; each step is tried, whatever became of the one before."""

    def __init__(self, settings: SiteSettings, word: Word, *, insecure_lab: bool) -> None:
        self._settings = settings
        self._word = word
        self._insecure_lab = insecure_lab
        self._standstill = Standstill(settings.paths.inbox)
        self._door = AgentDoor(settings.paths.inbox)
        self.report = Report()

    def stop(self) -> Report:
        self._write_file()
        try:
            self._door.state(within=ALIVE_WITHIN)
            self._told(self._door.stop(self._word, within=AGENT_WITHIN))
        except NoAgentError:
            self.report.done.append("no agent runs here; it stays stopped when one is started")
            self._note("stop")
            self._cancel_runs()
        except (AgentSilentError, NotOursError, RefusedError) as error:
            self.report.failed.append(str(error))
            self._note("stop")
            self._cancel_runs(hangs=error if isinstance(error, AgentSilentError) else None)
        return self.report

    def resume(self) -> Report:
        """Raises `NotOursError`, `RefusedError`, and `OSError` where the file cannot be removed."""
        try:
            self._door.resume(self._word, within=AGENT_WITHIN)
            self.report.done.append("the agent works again: it answers the offers that waited, and does new tasks")
        except NoAgentError:
            self._remove_file()
            self.report.done.append("no agent runs here; it works when one is started")
        except AgentSilentError as error:
            self._remove_file()
            self.report.failed.append(f"{error}; it notices within a second of working again")
        return self.report

    # --- the file ----------------------------------------------------------------------------------------------------

    def _write_file(self) -> None:
        path = self._standstill.path
        try:
            new = self._standstill.begin(at=wall_clock(), by=self._word.by, reason=self._word.reason)
        except OSError as error:
            self.report.failed.append(f"{path} cannot be written ({error.strerror}): it would not outlast a restart")
        else:
            self.report.done.append(
                f"{path} is written: nothing new is accepted or started, also after a restart"
                if new
                else f"{path} was there already: it was stopped before"
            )

    def _remove_file(self) -> None:
        if self._standstill.end():
            self._note("resume")

    def _note(self, action: str) -> None:
        paths = self._settings.paths
        log = AuditLog(paths.log, clock=wall_clock, agents=paths.inbox)
        try:
            log.write("person", action=action, by=self._word.by, reason=self._word.reason)
        except OSError as error:
            self.report.failed.append(f"{paths.log} does not tell of it: {error.strerror}")

    # --- trainings ---------------------------------------------------------------------------------------------------

    def _told(self, state: AgentState) -> None:
        self.report.done.append("the agent has stopped: no update and no figure leaves")
        self.report.done += [f"{task}: ended" for task in state.ended]
        waits = f" ({state.waits_for})" if state.waits_for else ""
        self.report.under_way += [f"{task}: still being stopped{waits}" for task in state.still_stopping]

    def _cancel_runs(self, *, hangs: AgentSilentError | None = None) -> None:
        """What the agent would do. Trainings that are no runs of Airflow are the agent's own children, and end with
        it."""
        scheduler = self._settings.scheduler
        if not isinstance(scheduler, Airflow):
            if hangs is not None:
                end = "end the agent, and they end too" if hangs.pid is None else f"kill {hangs.pid} ends them all"
                self.report.failed.append(f"its trainings are its child processes: {end}")
            return
        try:
            with Inbox.read(self._settings.paths.inbox) as inbox:
                tasks = [str(start.task_id) for start in inbox.tasks_in_hand()]
            refuse_unencrypted((scheduler.url,), insecure_lab=self._insecure_lab)
            asyncio.run(self._cancel(scheduler, tasks))
        except (InboxError, UnencryptedError, SecretUnreadableError) as error:
            self.report.failed.append(f"runs in Airflow were not stopped: {error}")

    async def _cancel(self, settings: Airflow, tasks: list[str]) -> None:
        from wardround.site_agent.scheduler.airflow.scheduler import AirflowScheduler

        scheduler = AirflowScheduler(settings, self._settings.paths.spool)
        try:
            await asyncio.gather(*(self._cancel_one(scheduler, task) for task in tasks))
        finally:
            await scheduler.close()

    async def _cancel_one(self, scheduler: Scheduler, task: str) -> None:
        try:
            async with asyncio.timeout(CANCELS_WITHIN):
                await scheduler.cancel(task)
        except TimeoutError:
            self.report.failed.append(f"{task}: Airflow did not stop it within {CANCELS_WITHIN:g} s; try again")
        except (SchedulerError, SchedulerUnavailableError) as error:
            self.report.failed.append(f"{task}: Airflow did not stop it: {error}")
        else:
            self.report.done.append(f"{task}: stopped in Airflow, if it ran there")
