"""Whether the clinic's agent runs, and what it says of itself: through its own socket, and over HTTP."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from wardround import __version__
from wardround.client.clinic.door import AgentDoor, AgentSilentError, AgentState, NoAgentError, NotOursError
from wardround.client.doctor.findings import Verdict, in_thread, warning, worst_of, wrong
from wardround.client.errors import RefusedError
from wardround.runtime.http_settings import HttpSettings

ANSWERS_WITHIN = 5.0
START = "start it: wardround-site-agent, or look into its log"


async def look_at_agent(inbox: Path, http: HttpSettings) -> Verdict:
    """What the agent on this inbox says; its inbox is not touched."""
    health = await _health(http)
    try:
        state = await in_thread(AgentDoor(inbox).state)
    except NoAgentError as error:
        return warning("an agent answers over HTTP, but not on this inbox" if health else str(error), START)
    except NotOursError as error:
        return warning(str(error), "run this as that user")
    except (AgentSilentError, RefusedError) as error:
        return wrong(str(error), "look into its log; if it hangs, end it and start it again")
    return judge_agent(state, health)


async def _health(http: HttpSettings) -> dict[str, Any]:
    """Empty where the settings do not say at which port it answers, or it does not."""
    if not http.port:
        return {}
    verify: ssl.SSLContext | bool = False
    if http.certificate is not None:
        verify = ssl.create_default_context(cafile=http.certificate)
        verify.check_hostname = False  # the host is an address of this machine, and the certificate the agent's own
        verify.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    scheme = "http" if http.certificate is None else "https"
    host = "127.0.0.1" if http.host in ("0.0.0.0", "localhost") else http.host  # noqa: S104 - what it listens on
    try:
        async with httpx.AsyncClient(verify=verify, timeout=ANSWERS_WITHIN, trust_env=False) as client:
            said = (await client.get(f"{scheme}://{host}:{http.port}/health")).json()
    except (OSError, httpx.HTTPError, ValueError):
        return {}
    return said if isinstance(said, dict) and said.get("service") == "site-agent" else {}


def judge_agent(state: AgentState, health: Mapping[str, Any]) -> Verdict:
    """`state` is what its socket tells; `health`, what it answers over HTTP, may be empty."""
    verdicts = []
    if state.stopped is not None:
        verdicts.append(warning("a person has stopped all trainings here", "wardround site resume"))
    if state.trouble or state.waits_for:
        verdicts.append(
            warning(f"it waits: {state.trouble or state.waits_for}", "it goes on by itself when that is mended")
        )
    if health.get("status") == "degraded":
        verdicts.append(warning(f"it is degraded: {health.get('detail', '')}", "look into its log"))
    if state.version != __version__:
        verdicts.append(warning(f"it runs version {state.version}, installed is {__version__}", "restart the agent"))
    return worst_of(verdicts, f"it runs, version {__version__}, {_counted(len(state.tasks), 'task')} in hand")


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
