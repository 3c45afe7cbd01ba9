"""The hubs that a person knows, as profiles in `hubs.toml`, and the connections that a profile opens."""

import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from wardround.client.errors import UnusableError
from wardround.runtime.bus.port import Bus
from wardround.runtime.encryption import refuse_unencrypted
from wardround.runtime.hub_settings import Hub as HubSettings
from wardround.runtime.hub_settings import address
from wardround.runtime.secrets import Secret
from wardround.runtime.store.port import ObjectStore
from wardround.runtime.toml_file import SCHEMA, SettingsError, as_table, read_toml
from wardround.runtime.toml_text import key_text, value_text
from wardround_messages.names import is_id

PLACE = "WARDROUND_HUBS"
FILE = "hubs.toml"
NAME_MAX = 40
TOP = ("schema", "default", "hubs")


class Profile(HubSettings):
    """A hub as a person speaks to it. `metrics` is where its metrics service shows what it knows."""

    metrics: Annotated[str, address("https", "http")] | None = None
    metrics_token: Secret | None = None

    @property
    def host(self) -> str:
        """The hub's name, to be shown."""
        return urlsplit(self.broker).hostname or ""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(each for each in (self.broker, self.store, self.metrics) if each is not None)


@dataclass(frozen=True, slots=True)
class Connections:
    """A hub within reach. The bus is connected to when it is first needed: much can be read without."""

    store: ObjectStore
    open_bus: Callable[[], Awaitable[Bus]]
    profile: Profile | None = None

    @property
    def where(self) -> str:
        return "" if self.profile is None else self.profile.host


def open_hub(name: str | None = None, *, insecure_lab: bool = False) -> Connections:
    """The hub of a profile; raises as `read_profile` and `connections`."""
    return connections(read_profile(name), insecure_lab=insecure_lab)


def connections(profile: Profile, *, insecure_lab: bool = False) -> Connections:
    """Nothing is connected yet.

    Raises:
        UnencryptedError: an address off this machine has no TLS; SecretUnreadableError: from the profile's secrets.
    """
    refuse_unencrypted(profile.addresses, insecure_lab)
    from wardround.runtime.store.s3 import S3Store

    async def open_bus() -> Bus:
        from wardround.runtime.bus.rabbit import RabbitBus

        return await RabbitBus.connect(
            profile.broker, login=profile.username, password=profile.password.read(), ca=profile.ca, name="client"
        )

    key = profile.store_key
    store = S3Store(profile.store, access_key=key.id, secret_key=key.read(), ca=profile.ca)
    return Connections(store, open_bus, profile)


# --- the file ----------------------------------------------------------------------------------------------------


def hubs_file() -> Path:
    """Where the profiles are: `$WARDROUND_HUBS`, else `hubs.toml` in the person's configuration folder."""
    if place := os.environ.get(PLACE):
        return Path(place)
    from platformdirs import user_config_path

    return user_config_path("wardround") / FILE


def read_profile(name: str | None = None, *, file: Path | None = None) -> Profile:
    """The profile of that name; without a name the default one, or the only one.

    Raises:
        SettingsError: one line that names the file, the key and what is wrong; UnusableError: no such profile.
    """
    file = file or hubs_file()
    if not file.exists():
        raise UnusableError(
            f"no hub is known here: there is no {file}; `wardround stack up` writes it, or a hub's operator gives it"
        )
    data = _read(file)
    profiles = data["hubs"]
    chosen = name or data.get("default") or (next(iter(profiles)) if len(profiles) == 1 else None)
    known = ", ".join(profiles) or "none"
    if chosen is None:
        raise UnusableError(f'{file}: say which hub with --hub, or with default = "..." there; there are: {known}')
    if chosen not in profiles:
        raise UnusableError(f"{file} has no hub '{chosen}'; there are: {known}")
    return _profile(file, chosen, profiles[chosen])


def profile_names(*, file: Path | None = None, strictly: bool = False) -> tuple[str, ...]:
    """The names of all profiles; none where there is no file.

    Raises:
        SettingsError: with `strictly`, where the file cannot be used; else there are none then, too.
    """
    file = file or hubs_file()
    if not file.exists():
        return ()
    try:
        return tuple(_read(file)["hubs"])
    except SettingsError:
        if strictly:
            raise
        return ()


def default_profile(*, file: Path | None = None) -> str | None:
    """The profile that is meant where none is named. Raises `SettingsError`."""
    file = file or hubs_file()
    return _read(file).get("default") if file.exists() else None


def write_profile(
    name: str, table: Mapping[str, object], *, make_default: bool = False, file: Path | None = None
) -> Path:
    """Write or replace one profile, and keep the others; the file appears whole, readable by its owner alone.

    Args:
        table: as it stands in the file; relative paths are taken from the file's folder.

    Returns:
        The file.

    Raises:
        SettingsError: the profile could not be read again, or the file is there and cannot be used.
        OSError: the file cannot be written.
    """
    file = file or hubs_file()
    if not is_id(name, NAME_MAX):
        raise SettingsError(file, f"hubs.{name}", "must be lower-case letters and digits, with single dashes between")
    data: dict[str, Any] = _read(file) if file.exists() else {"hubs": {}}
    profiles: dict[str, dict[str, Any]] = data["hubs"] | {name: dict(table)}
    _profile(file, name, profiles[name])
    default = name if make_default else data.get("default", name)
    _replace(file, _as_toml(default, profiles))
    return file


def remove_profiles(unwanted: Callable[[Mapping[str, object]], bool], *, file: Path | None = None) -> None:
    """Take away the profiles whose tables are `unwanted`, and the default where it is one of them; nothing is chosen in
    its place. The file is written whole, and goes with its last profile.

    Raises:
        SettingsError: the file is there and cannot be used; OSError: it cannot be written.
    """
    file = file or hubs_file()
    data: dict[str, Any] = _read(file) if file.exists() else {"hubs": {}}
    kept = {name: table for name, table in data["hubs"].items() if not unwanted(table)}
    if kept == data["hubs"]:
        return
    if not kept:
        file.unlink()
        return
    default = data.get("default")
    _replace(file, _as_toml(default if default in kept else None, kept))


def _read(file: Path) -> dict[str, Any]:
    """The file's tables, not yet looked into: a profile that is out of order is nobody's fault who uses another."""
    data = read_toml(file)
    if type(schema := data.get("schema")) is not int or schema != SCHEMA:
        raise SettingsError(file, "schema", f"must be {SCHEMA}, the only one that this version reads")
    if unknown := data.keys() - set(TOP):
        raise SettingsError(file, min(unknown), f"unknown key; valid keys are {', '.join(TOP)}")
    hubs = data.setdefault("hubs", {})
    if not isinstance(hubs, dict) or not all(isinstance(profile, dict) for profile in hubs.values()):
        raise SettingsError(file, "hubs", "must hold a table [hubs.NAME] for each hub")
    if not isinstance(data.get("default", ""), str):
        raise SettingsError(file, "default", "must be the name of a hub")
    return data


def _profile(file: Path, name: str, table: dict[str, Any]) -> Profile:
    if "schema" in table:
        raise SettingsError(
            file, f"hubs.{name}.schema", f"unknown key; valid keys are {', '.join(Profile.model_fields)}"
        )
    try:
        return as_table(file, {"schema": SCHEMA, **table}, Profile)
    except SettingsError as error:
        key = f"hubs.{name}.{error.key}" if error.key else f"hubs.{name}"
        raise SettingsError(file, key, error.problem) from None


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mkstemp: mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(part, file)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _as_toml(default: str | None, profiles: Mapping[str, Mapping[str, object]]) -> str:
    blocks = [f"schema  = {SCHEMA}\n" + ("" if default is None else f"default = {value_text(default)}\n")]
    for name, profile in profiles.items():
        lines = [f"{key_text(key)} = {value_text(value)}" for key, value in profile.items()]
        blocks.append("\n".join([f"[hubs.{key_text(name)}]", *lines, ""]))
    return "\n".join(blocks)
