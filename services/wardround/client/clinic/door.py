"""Reaching a clinic's running agent on this machine, through the socket beside its inbox."""

import socket
import struct
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from wardround.client.errors import RefusedError
from wardround.site_agent.agent_socket import Word, reachable, socket_of
from wardround.site_agent.standstill import Stopped
from wardround_messages.base import Count, canonical_json
from wardround_messages.objects import Consent

ANSWERS_WITHIN = 30.0  # seconds; the agent itself answers sooner
ANSWER_AT_MOST = 16 * 2**20  # some 60,000 tasks: a hub may send more than a clinic can do
_CREDENTIALS = struct.Struct("3i")  # `struct ucred`: process, user, group


class NoAgentError(Exception):
    """No agent runs on this inbox."""


class NotOursError(Exception):
    """The agent runs as another user, who alone may speak to it."""


class AgentSilentError(Exception):
    """The agent is there and does not answer; `pid` is its process where that can be told."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class _Refusal(BaseModel):
    error: str
    detail: str


class _Said(BaseModel):
    """What a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TransferSaid(_Said):
    """Bytes that have passed, of how many, and how many a second lately."""

    done: Count
    of: Count
    per_second: Annotated[float, Field(ge=0, le=2**53)] | None


class TaskSaid(_Said):
    """`transfer` is that of the task's model or update, while one is on its way."""

    task: str
    phase: str
    transfer: TransferSaid | None = None


class AgentState(_Said):
    """What the agent does now, and what it waits for; after a stop, which tasks are over and which are not.

    `at_most` is how many bytes per second models and updates may take, None where nothing limits them.
    """

    site: str
    version: str
    pid: int
    stopped: Stopped | None
    trouble: str | None
    waits_for: str | None
    tasks: tuple[TaskSaid, ...]
    at_most: int | None = None
    ended: tuple[str, ...] = ()
    still_stopping: tuple[str, ...] = ()


class Decided(_Said):
    """The consents that follow from a person's word; `trouble` is what they may have to wait for."""

    trouble: str | None
    consents: tuple[Consent, ...]


S = TypeVar("S", bound=_Said)


class AgentDoor:
    """The agent that works on this inbox.

    Every method raises `NoAgentError`, `NotOursError`, `AgentSilentError`, and `RefusedError` where the agent says no.
    """

    def __init__(self, inbox: Path) -> None:
        self.path = socket_of(inbox)

    def decide(self, action: str, experiment: str, word: Word) -> Decided:
        return self._ask("POST", f"/experiments/{experiment}/{action}", Decided, word, within=ANSWERS_WITHIN)

    def stop(self, word: Word, *, within: float) -> AgentState:
        return self._ask("POST", "/stop", AgentState, word, within=within)

    def resume(self, word: Word, *, within: float) -> AgentState:
        return self._ask("POST", "/resume", AgentState, word, within=within)

    def state(self, *, within: float = ANSWERS_WITHIN) -> AgentState:
        return self._ask("GET", "/state", AgentState, None, within=within)

    def _ask(self, method: str, path: str, answer: type[S], word: Word | None, *, within: float) -> S:
        pid = self._listener()
        try:
            status, body = self._exchange(method, path, word, within)
            if status == HTTPStatus.OK:
                return answer.model_validate_json(body)
            refusal = _Refusal.model_validate_json(body)
        except (TimeoutError, ValueError) as error:
            agent = "the agent" if pid is None else f"the agent (process {pid})"
            raise AgentSilentError(f"{agent} does not answer as it should: {error}", pid) from None
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise AgentSilentError(f"the agent could not decide yet: {refusal.detail}", pid)
        raise RefusedError(refusal.error, refusal.detail)

    def _listener(self) -> int | None:
        """The process that listens on the socket; None where it cannot be told, as in a container beside this one."""
        try:
            with reachable(self.path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                probe.connect(name)
                credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise NoAgentError(f"no agent runs on {self.path.parent}") from None
        except PermissionError:
            raise NotOursError(
                f"{self.path} is the agent's own user's alone: run this as the user that the agent runs as, or as root"
            ) from None
        except (TimeoutError, BlockingIOError):
            raise AgentSilentError("the agent takes no more connections") from None
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid if pid > 0 else None  # 0: of a namespace of processes that is not seen from here

    def _exchange(self, method: str, path: str, word: Word | None, within: float) -> tuple[int, bytes]:
        """Status and body. Raises `TimeoutError`, and `ValueError` for what no agent answers."""
        import httpx

        body = None if word is None else canonical_json(word)
        received = bytearray()
        try:
            with (
                reachable(self.path) as name,
                httpx.Client(transport=httpx.HTTPTransport(uds=name, verify=False), timeout=within) as client,
                client.stream(method, f"http://agent{path}", content=body) as response,
            ):
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > ANSWER_AT_MOST:
                        raise ValueError(f"it says more than {ANSWER_AT_MOST} bytes")
        except httpx.TimeoutException:
            raise TimeoutError(f"no answer within {within:g} s") from None
        except httpx.HTTPError as error:
            raise ValueError(str(error) or type(error).__name__) from None
        return response.status_code, bytes(received)
