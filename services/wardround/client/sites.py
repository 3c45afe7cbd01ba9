"""What the hub's metrics service knows of the clinics: asked over HTTP."""

import ssl
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from wardround.client.errors import HubError, RefusedError, UnusableError

if TYPE_CHECKING:
    from wardround.client.hubs import Profile

ANSWER_AT_MOST = 16 * 2**20
ANSWERS_WITHIN = 10.0


class MetricsAwayError(HubError):
    """The metrics service did not answer, or not with what was asked for."""


class _Shown(BaseModel):
    """What a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TrainerShown(_Shown):
    name: str
    version: str
    code_sha256: str


class TaskShown(_Shown):
    experiment: str
    round: int
    task: str
    attempt: int
    phase: str


class SiteShown(_Shown):
    """A clinic as it last said of itself. `quiet`: it has not been heard of for longer than it should; `seen_ago` is in
    seconds, by the hub's clock."""

    site: str
    agent_version: str
    reads: tuple[str, ...] = ()
    trainers: tuple[TrainerShown, ...]
    datasets: tuple[str, ...]
    slots: int
    free: int
    tasks: tuple[TaskShown, ...]
    status: str
    detail: str = ""
    seen_at: datetime
    seen_ago: float
    quiet: bool


class _Answer(_Shown):
    sites: tuple[SiteShown, ...]


async def read_sites(profile: "Profile") -> tuple[SiteShown, ...]:
    """Every clinic that was heard of.

    Raises:
        UnusableError: the profile has no metrics address; RefusedError: its token is not the one wanted;
        MetricsAwayError: no answer, or one that cannot be read.
    """
    if profile.metrics is None:
        raise UnusableError('the profile has no metrics = "https://..."; clinics are shown by the metrics service')
    return _parsed(await _get(profile, f"{profile.metrics.rstrip('/')}/sites"))


async def _get(profile: "Profile", url: str) -> bytes:
    """The body. No redirect is followed, so the token goes nowhere else; nothing is read without end."""
    import httpx

    headers = {"accept": "application/json"}
    if profile.metrics_token is not None:
        headers["authorization"] = f"Bearer {profile.metrics_token.read()}"
    trusted = ssl.create_default_context(cafile=None if profile.ca is None else str(profile.ca))
    body = bytearray()
    try:
        async with (
            httpx.AsyncClient(verify=trusted, timeout=ANSWERS_WITHIN, trust_env=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code in (401, 403):
                raise RefusedError(
                    "metrics", f"{profile.metrics} wants another token: see metrics_token in the profile"
                )
            if response.status_code != httpx.codes.OK:
                raise MetricsAwayError(f"{profile.metrics} answered {response.status_code}; try again later")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_AT_MOST:
                    raise MetricsAwayError(f"{profile.metrics} answers more than {ANSWER_AT_MOST} bytes")
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise MetricsAwayError(f"the metrics service at {profile.metrics} is away: {why}; try again later") from None
    return bytes(body)


def _parsed(body: bytes) -> tuple[SiteShown, ...]:
    try:
        return _Answer.model_validate_json(body).sites
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise MetricsAwayError(
            f"the metrics service answers in another way than expected: {where}: {first['msg']}"
        ) from None
