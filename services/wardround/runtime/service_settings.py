"""The settings that every service of the hub has; each adds its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from wardround.runtime.http_settings import HttpSettings
from wardround.runtime.hub_settings import Hub
from wardround.runtime.toml_file import Table, environment_overrides, load_toml


class LogSettings(Table):
    style: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"


class ServiceSettings(Table):
    hub: Hub
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()


T = TypeVar("T", bound=Table)


def load_settings(file: Path, model: type[T], *, service: str, environ: Mapping[str, str]) -> T:
    """The settings in the file, with what the environment says in their place.

    Raises:
        SettingsError: one line with the file, the key and what is valid there.
    """
    prefix = f"WARDROUND_{service.upper().replace('-', '_')}__"
    return load_toml(file, model, overrides=environment_overrides(prefix, environ))
