"""Brings logins and their rights to a running MinIO. Doing it again is harmless and puts right what was changed."""

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from wardround.runtime.store.port import AccessDeniedError, StoreError, StoreUnavailableError

ANSWERS_WITHIN = 30.0  # seconds
_REFUSED = ("401", "403")
_PASSING = ("429", "500", "502", "503", "504")
_UNKNOWN_USER = "XMinioAdminNoSuchUser"
_UNKNOWN_POLICY = "XMinioAdminNoSuchPolicy"


@dataclass(frozen=True, slots=True)
class StoreAdministrator:
    """The store and the login that may change others' rights there. `ca`: certificates to trust, in PEM."""

    address: str
    user: str
    secret: str = field(repr=False)
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class StoreLogin:
    """The secret half of a login's key, and its policy."""

    secret: str = field(repr=False)
    policy: Mapping[str, object]


async def apply_logins(administrator: StoreAdministrator, logins: Mapping[str, StoreLogin]) -> None:
    """Have the store know these logins, with these secrets and rights and no others; logins not named stay.

    Raises:
        AccessDeniedError: the administrator's login is refused; StoreUnavailableError: try again;
        StoreError: the server refuses a login or a policy, or is no MinIO.
    """
    await asyncio.to_thread(_apply, administrator, logins)


async def remove_login(administrator: StoreAdministrator, name: str) -> None:
    """Have the store forget the login; what it wrote stays. No error where there is none. Raises as `apply_logins`."""
    await asyncio.to_thread(_remove, administrator, name)


def _apply(administrator: StoreAdministrator, logins: Mapping[str, StoreLogin]) -> None:
    admin = _connect(administrator)
    for name, login in logins.items():
        with _admin_errors(administrator, name):
            admin.policy_add(_policy_name(name), policy=dict(login.policy))
            admin.user_add(name, login.secret)
            admin.policy_set(_policy_name(name), user=name)


def _remove(administrator: StoreAdministrator, name: str) -> None:
    admin = _connect(administrator)
    with suppress(_NotThereError), _admin_errors(administrator, name):
        admin.user_remove(name)
    with suppress(_NotThereError), _admin_errors(administrator, name):
        admin.policy_remove(_policy_name(name))


class _NotThereError(StoreError):
    pass


def _policy_name(login: str) -> str:
    return f"wr-{login}"


def _connect(administrator: StoreAdministrator) -> MinioAdmin:
    at = urlsplit(administrator.address)
    secure = at.scheme == "https"
    return MinioAdmin(
        endpoint=at.netloc,
        credentials=StaticProvider(administrator.user, administrator.secret),
        region="us-east-1",
        secure=secure,
        http_client=PoolManager(
            retries=False,
            timeout=Timeout(connect=ANSWERS_WITHIN, read=ANSWERS_WITHIN),
            ssl_context=ssl.create_default_context(cafile=administrator.ca) if secure else None,
        ),
    )


@contextmanager
def _admin_errors(administrator: StoreAdministrator, login: str) -> Iterator[None]:
    try:
        yield
    except MinioAdminException as error:
        raise _refusal(error, administrator.user, login) from None
    except (HTTPError, OSError) as error:
        raise StoreUnavailableError(f"{administrator.address} cannot be reached ({error}); try again") from None


def _refusal(error: MinioAdminException, user: str, login: str) -> StoreError:
    status, code, message = error._code, *_said(error._body)
    said = f"{code or f'HTTP status {status}'} {message}".rstrip()
    if code in (_UNKNOWN_USER, _UNKNOWN_POLICY):
        return _NotThereError(f"there is no login '{login}'")
    if status in _REFUSED:
        return AccessDeniedError(f"the store refuses its administrator '{user}': {said}; check the root login's secret")
    if status in _PASSING:
        return StoreUnavailableError(f"the store answered {said}; try again")
    return StoreError(f"the store refuses the login '{login}': {said}")


def _said(body: str) -> tuple[str, str]:
    with suppress(ValueError, AttributeError):
        answer = json.loads(body)
        return str(answer.get("Code", "")), str(answer.get("Message", ""))[:300]
    return "", ""
