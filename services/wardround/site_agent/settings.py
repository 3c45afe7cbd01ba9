"""A clinic's settings: `site.toml`, which its IT department owns."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from wardround.runtime.durations import Duration
from wardround.runtime.http_settings import HttpSettings, usual_port
from wardround.runtime.hub_settings import CertificatesFile, Hub, address
from wardround.runtime.secrets import FilePath, Secret
from wardround.runtime.service_settings import LogSettings
from wardround.runtime.sizes import Speed
from wardround.runtime.toml_file import SettingsError, Table, load_toml
from wardround_messages.names import SiteId, Slug

POLICY_FILE = "policy.toml"

__all__ = ["POLICY_FILE", "SettingsError", "SiteSettings", "load_site"]


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
    """The clinic's own Airflow. `dags` names the DAG of a trainer; `default` is that of all others.

    `ca` takes the place of the system's authorities. A run that Airflow has not begun after `queued_at_most` is ended.
    """

    kind: Literal["airflow"]
    url: Annotated[str, address("https", "http")]
    ca: CertificatesFile | None = None
    username: Annotated[str, Field(min_length=1, max_length=128)]
    password: Secret
    queued_at_most: Duration = 3600
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


class Transfers(Table):
    """`at_most`: bytes per second for all models and updates together, in both directions; None: as fast as it goes."""

    at_most: Speed | None = None


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
    transfers: Transfers = Transfers()
    http: Annotated[HttpSettings, usual_port(8084)] = HttpSettings(port=8084)
    log: LogSettings = LogSettings()
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
