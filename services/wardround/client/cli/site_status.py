"""`wardround site status`: what a clinic's agent does right now."""

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import AsJson
from wardround.client.cli.on_site import OnSite, site_settings
from wardround.client.cli.output import show, show_json, table
from wardround.client.clinic.door import AgentDoor, AgentSilentError, AgentState, NoAgentError, NotOursError, TaskSaid
from wardround.client.clinic.offer_words import stopped_text
from wardround.client.errors import RefusedError
from wardround.client.site_cells import STATES
from wardround.metrics.wording import size_text, transfer_text
from wardround.runtime.logging import printable


def status(site: OnSite = None, as_json: AsJson = False) -> None:
    """Say what the running agent does: its tasks, models and updates on their way, and what it waits for."""
    settings, _ = site_settings(site)
    try:
        state = AgentDoor(settings.paths.inbox).state()
    except NoAgentError as error:
        raise CommandError(f"{error}; start it: wardround-site-agent", Exit.TRY_AGAIN) from None
    except AgentSilentError as error:
        raise CommandError(f"{error}; look into the agent's log", Exit.TRY_AGAIN) from None
    except (NotOursError, RefusedError) as error:
        raise CommandError(str(error), Exit.REFUSED) from None
    if as_json:
        show_json(state.model_dump(mode="json", exclude={"ended", "still_stopping"}))
        return
    for line in _about(state):
        typer.echo(printable(line))
    if state.tasks:
        show(table(("task", "state"), ((each.task, _state(each)) for each in state.tasks)))


def _about(state: AgentState) -> list[str]:
    lines = [f"{state.site}: the agent works (version {state.version}, process {state.pid})"]
    if state.stopped is not None:
        lines.append(f"{stopped_text(state.stopped)}: wardround site resume")
    if state.waits_for is not None:
        lines.append(f"it waits: {state.waits_for}; it goes on by itself")
    if state.at_most is not None:
        lines.append(f"models and updates move at {size_text(state.at_most)}/s at most")
    if not state.tasks:
        lines.append("no task is in hand")
    return lines


def _state(task: TaskSaid) -> str:
    """A phase that a later version has is shown as it is."""
    words = next((words for name, (_, _, words) in STATES.items() if name == task.phase), task.phase)
    if task.transfer is None:
        return words
    moved = task.transfer
    return f"{words}: {transfer_text(moved.done, moved.of, moved.per_second)}"
