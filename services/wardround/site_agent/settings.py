"""A clinic's settings: `site.toml`, which its IT department owns."""

import stat
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wardround.runtime.toml_file import SettingsError, Table, absolute, load_toml
from wardround_messages.names import SiteId, Slug

__all__ = ["SettingsError", "SiteSettings", "load_site"]

OTHERS = stat.S_IRWXG | stat.S_IRWXO

FilePath = Annotated[Path, BeforeValidator(absolute)]


class SecretUnreadableError(Exception):
    """A secret's file is gone, empty or readable by others."""


def _owners_only(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"the secret {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"the secret {path} is not a file")
    if mode & OTHERS:
        raise ValueError(f"the secret {path} can be read by others; run: chmod 600 {path}")
    return path


class Secret(Table):
    """A secret is a file that only its owner reads. It is read when it is needed, and never shown."""

    file: Annotated[FilePath, AfterValidator(_owners_only)]

    @model_validator(mode="before")
    @classmethod
    def _never_in_the_settings(cls, data: object) -> object:
        if not isinstance(data, dict):
            raise ValueError('must be { file = "..." }: secrets are files')
        return data

    def read(self) -> str:
        """The secret without the line end; raises `SecretUnreadableError`."""
        try:
            value = _owners_only(self.file).read_text().strip("\r\n")
        except (OSError, ValueError) as error:
            raise SecretUnreadableError(str(error)) from None
        if not value:
            raise SecretUnreadableError(f"the secret {self.file} is empty")
        return value


class StoreKey(Secret):
    """The access key of the object store: its id, and the file of its secret half."""

    id: Annotated[str, Field(min_length=1, max_length=128)]


def _address(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"must be an address that begins with {' or '.join(f'{each}://' for each in schemes)}")
        if "@" in parts.netloc:
            raise ValueError("must not hold a user name or a password; secrets are files")
        return value

    return AfterValidator(check)


class Hub(Table):
    """Where the hub is, and as whom the clinic speaks there."""

    broker: Annotated[str, _address("amqps", "amqp")]
    store: Annotated[str, _address("https", "http")]
    ca: FilePath | None = None
    username: SiteId
    password: Secret
    store_key: StoreKey


class Paths(Table):
    inbox: FilePath
    log: FilePath
    spool: FilePath


class AnyScheduler(Table):
    """`python` is the interpreter that the clinic's trainers are installed in; the agent's own by default."""

    slots: Annotated[int, Field(ge=1, le=1000)] = 1
    retries: Annotated[int, Field(ge=0, le=10)] = 1
    python: FilePath | None = None


class Airflow(AnyScheduler):
    """The clinic's own Airflow. `dags` names the DAG of a trainer; `default` is that of all others."""

    kind: Literal["airflow"]
    url: Annotated[str, _address("https", "http")]
    username: Annotated[str, Field(min_length=1, max_length=128)]
    password: Secret
    dags: dict[Slug, Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,250}$")]] = {"default": "wardround_task"}

    def dag_of(self, trainer: str) -> str | None:
        return self.dags.get(trainer, self.dags.get("default"))


class Local(AnyScheduler):
    """Child processes on the agent's own machine."""

    kind: Literal["local"] = "local"


class Inline(AnyScheduler):
    """Threads of the agent's own process: for simulations."""

    kind: Literal["inline"]


def _of_a_kind(value: object) -> object:
    if isinstance(value, dict) and value.get("kind") not in ("airflow", "local", "inline"):
        raise ValueError("kind must be 'airflow', 'local' or 'inline'")
    return value


AnyKind = Annotated[Airflow | Local | Inline, Field(discriminator="kind"), BeforeValidator(_of_a_kind)]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class Dataset(Table):
    """One of the clinic's data sets: one folder or several, which are read and never sent.

    `split_salt` makes the split into training and validation cases the clinic's own, so that no forked experiment
    trains on validation cases.
    """

    path: Annotated[tuple[FilePath, ...], Field(strict=False, min_length=1, max_length=1000), BeforeValidator(_listed)]
    layout: Slug | None = None
    split_salt: Secret | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(str(path) for path in self.path)

    def salt(self) -> str:
        """The split salt, empty where the clinic has none; raises `SecretUnreadableError`."""
        return self.split_salt.read() if self.split_salt else ""


class SiteSettings(Table):
    """`site.toml`. Without `hub` the site lives in an embedded federation, whose bus and store it is handed."""

    site: SiteId
    hub: Hub | None = None
    paths: Paths
    scheduler: AnyKind = Local()
    datasets: dict[Slug, Dataset] = {}

    @model_validator(mode="after")
    def _speaks_as_itself(self) -> Self:
        if self.hub is not None and self.hub.username != self.site:
            raise ValueError(f"hub.username is '{self.hub.username}', but a site speaks as itself: '{self.site}'")
        return self


def load_site(path: Path) -> SiteSettings:
    """The settings in the file; paths in it are resolved against its folder.

    Raises:
        SettingsError: one line with the file, the key and what is valid there.
    """
    return load_toml(path, SiteSettings)
