"""Where a service answers HTTP, and who may ask."""

from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from wardround.runtime.secrets import FilePath, Secret
from wardround.runtime.toml_file import Table


class ExposedError(ValueError):
    """The service would answer other machines in the clear, or answer anybody there."""


class HttpSettings(Table):
    """`port` 0 is any free one. With a `token` (a secret's file) every page but `/health` and `/ready` needs it."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    certificate: FilePath | None = None
    key: FilePath | None = None
    token: Secret | None = None

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("http.certificate and http.key belong together: give both, or neither")
        return self


def usual_port(port: int) -> BeforeValidator:
    """Where the settings name no port, this one: also where they name other things of `http`."""
    return BeforeValidator(lambda given: {"port": port} | given if isinstance(given, dict) else given)


def refuse_exposed(http: HttpSettings, *, insecure_lab: bool) -> None:
    """Raises `ExposedError` where other machines are answered without encryption or without a token."""
    if insecure_lab or is_loopback(http.host):
        return
    if http.certificate is None or http.token is None:
        raise ExposedError(
            f"http.host: {http.host} is not of this machine alone: give http.certificate, http.key and http.token, or "
            "listen on 127.0.0.1 behind a proxy; --insecure-lab allows it for a try-out"
        )


def is_loopback(host: str) -> bool:
    """Whether the name or address is this machine's own and no other can reach it."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
