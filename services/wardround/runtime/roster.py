"""`hub.toml`: the hub's addresses, its sites and its researchers. Whoever adds one changes this file."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from wardround.runtime.hub_settings import address
from wardround.runtime.secrets import FilePath
from wardround.runtime.toml_file import Table, load_toml
from wardround_messages.names import SiteId, Slug

ROSTER_FILE = "hub.toml"


class Roster(Table):
    """`broker`, `store` and `metrics` are the addresses at which clinics, researchers and the hub's own services reach
    the hub; `ca` is the certificate of the authority that signed the hub's own certificates, where it is a private
    one."""

    broker: Annotated[str, address("amqps", "amqp")]
    store: Annotated[str, address("https", "http", may_have_path=False)]
    metrics: Annotated[str, address("https", "http")] | None = None
    ca: FilePath | None = None
    sites: Annotated[tuple[SiteId, ...], Field(strict=False, max_length=10_000)] = ()
    researchers: Annotated[tuple[Slug, ...], Field(strict=False, max_length=1000)] = ()


def load_roster(file: Path) -> Roster:
    """Raises `SettingsError`."""
    return load_toml(file, Roster)
