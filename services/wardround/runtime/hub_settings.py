"""Where the hub is, and as whom a service, a clinic or a person speaks there."""

import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from wardround.runtime.secrets import FilePath, Secret, StoreKey
from wardround.runtime.toml_file import Table
from wardround_messages.names import ID

Login = Annotated[str, Field(max_length=40, pattern=f"^{ID}$")]


def address(*schemes: str, may_have_path: bool = True) -> AfterValidator:
    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"must be an address that begins with {' or '.join(f'{each}://' for each in schemes)}")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("must have a port from 0 to 65535, or none") from None
        if not may_have_path and (parts.path.strip("/") or parts.query or parts.fragment):
            raise ValueError("must end with the host or its port: nothing may follow")
        if "@" in parts.netloc:
            raise ValueError("must not hold a user name or a password; secrets are files")
        return value

    return AfterValidator(check)


def _certificates(file: Path) -> Path:
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # of which ssl's errors are some
        why = "it holds no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"{file} cannot be used: {why}") from None
    return file


CertificatesFile = Annotated[FilePath, AfterValidator(_certificates)]


class Hub(Table):
    """The addresses hold no credentials: these are files."""

    broker: Annotated[str, address("amqps", "amqp")]
    store: Annotated[str, address("https", "http", may_have_path=False)]
    ca: CertificatesFile | None = None
    username: Login
    password: Secret
    store_key: StoreKey
