"""As whom the agent speaks to the clinic's Airflow: a token, got with the password and renewed before it expires."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, Field, ValidationError

from wardround.runtime.logging import conceal, forget
from wardround.runtime.secrets import SecretUnreadableError
from wardround.site_agent.scheduler.airflow.said import Token
from wardround.site_agent.scheduler.port import SchedulerError

RENEWED_AHEAD = 60.0  # seconds, or a tenth of a short life
FORBIDDEN_AGAIN_AFTER = 60.0  # seconds in which a token is not renewed twice because something was forbidden to it

LogIn = Callable[[str], Awaitable[bytes]]


def login_refused() -> SchedulerError:
    return SchedulerError(
        "airflow_login",
        "Airflow refuses the agent's login: check scheduler.username and the file of scheduler.password",
    )


class Login:
    """One token at a time, whoever asks for it.

    Args:
        log_in: sends a password, and returns the body of the answer.
        password: called at each login, so that a new password needs no restart.
    """

    def __init__(self, log_in: LogIn, *, password: Callable[[], str]) -> None:
        self._log_in = log_in
        self._password = password
        self._token = ""
        self._good_until = 0.0
        self._renewable_at = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def token(self) -> str:
        """Raises `SchedulerError` where the login is refused, and what `log_in` raises."""
        async with self._one_at_a_time:
            if time.monotonic() >= self._good_until:
                await self._renew()
            return self._token

    async def renewed(self, refused: str, *, forbidden: bool = False) -> str | None:
        """A token other than the one that Airflow refused.

        With `forbidden` None where another would hardly help, as the token in use was got for the same cause not long
        ago: the login lacks the right.
        """
        async with self._one_at_a_time:
            if self._token == refused:
                if forbidden and time.monotonic() < self._renewable_at:
                    return None
                await self._renew()
                if forbidden:
                    self._renewable_at = time.monotonic() + FORBIDDEN_AGAIN_AFTER
            return self._token

    async def _renew(self) -> None:
        try:
            password = self._password()
        except SecretUnreadableError as error:
            raise SchedulerError("airflow_login", "the agent cannot read the file of scheduler.password") from error
        asked_at = time.monotonic()
        token = Token.read(await self._log_in(password)).access_token
        if token != self._token:
            conceal(token)
            forget(self._token)
        self._token = token
        self._good_until = asked_at + lifetime(token)


class _Claims(BaseModel):
    issued: float = Field(alias="iat", allow_inf_nan=False)
    expires: float = Field(alias="exp", allow_inf_nan=False)


def lifetime(token: str) -> float:
    """Seconds for which a token just issued is to be used: endless where it does not say when it expires.

    Both times are Airflow's, so that clocks need not agree.
    """
    try:
        payload = token.split(".")[1]
        claims = _Claims.model_validate_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, ValidationError):
        return float("inf")
    lives = max(0.0, claims.expires - claims.issued)
    return lives - min(RENEWED_AHEAD, lives / 10)
