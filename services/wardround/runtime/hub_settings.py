"""Where the hub is, and as whom a service, a clinic or a person speaks there."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from wardround.runtime.secrets import FilePath, Secret, StoreKey
from wardround.runtime.toml_file import Table
from wardround_messages.names import ID

Login = Annotated[str, Field(max_length=40, pattern=f"^{ID}$")]


def address(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"must be an address that begins with {' or '.join(f'{each}://' for each in schemes)}")
        if "@" in parts.netloc:
            raise ValueError("must not hold a user name or a password; secrets are files")
        return value

    return AfterValidator(check)


class Hub(Table):
    """The addresses hold no credentials: these are files."""

    broker: Annotated[str, address("amqps", "amqp")]
    store: Annotated[str, address("https", "http")]
    ca: FilePath | None = None
    username: Login
    password: Secret
    store_key: StoreKey
