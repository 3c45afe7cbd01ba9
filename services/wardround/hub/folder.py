"""The hub's folder: its roster, a secret for each login, and the files that broker, store and services start from.

Everything but the roster and the secrets is written anew from these two, by `write`. Running it again changes
nothing that matters, so a command that was interrupted is simply given again.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wardround.hub.definitions import definitions
from wardround.hub.handover import researcher_files, service_files, site_files
from wardround.runtime.roster import ROSTER_FILE, Roster, load_roster
from wardround_messages.names import SITE_MAX, is_id
from wardround_messages.topology import OPERATOR, Topology, topology

CA_FILE = "ca.pem"
LOCK_FILE = ".lock"
SECRETS = "secrets"
DEFINITIONS_FILE = "definitions.json"
SERVICES = ("coordinator", "aggregator", "metrics")
STORE_ROOT = "root"  # the store's own administrator, whom no service knows
READ_BY_OWNER = 0o600


class HubError(Exception):
    """The hub's folder cannot be made, read or changed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A hub's folder on disk. Every file with a secret in it is its owner's alone."""

    path: Path
    roster: Roster

    @classmethod
    def init(cls, path: Path, roster: Roster) -> "HubFolder":
        """A new folder with all that a hub needs.

        Raises:
            HubError: there is a hub in it already, or it cannot be written.
        """
        if (path / ROSTER_FILE).exists():
            raise HubError(
                f"{path / ROSTER_FILE} exists: a hub is here already; add to it with `wardround hub add-site`"
            )
        folder = cls(path, roster)
        folder.write()
        return folder

    @classmethod
    def open(cls, path: Path) -> "HubFolder":
        """Raises `HubError` where no hub is here, `SettingsError` where its roster cannot be used."""
        file = path / ROSTER_FILE
        if not file.exists():
            raise HubError(
                f"there is no {file}: begin with `wardround hub init`, or name the hub's folder with --folder"
            )
        return cls(path, load_roster(file))

    @classmethod
    @contextmanager
    def changing(cls, path: Path) -> Iterator["HubFolder"]:
        """The same, while nobody else changes it. Raises as `open`."""
        folder = cls.open(path)
        with (path / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield replace(folder, roster=load_roster(path / ROSTER_FILE))

    def with_site(self, name: str) -> "HubFolder":
        """The hub with one site more, written. Raises `HubError` for a name that cannot be one, or is taken."""
        self._check_name(name, SITE_MAX)
        return self._with(self.roster.model_copy(update={"sites": (*self.roster.sites, name)}))

    def with_researcher(self, name: str) -> "HubFolder":
        """The hub with one researcher more, written. Raises `HubError` for a name that cannot be one, or is taken."""
        self._check_name(name, 40)
        return self._with(self.roster.model_copy(update={"researchers": (*self.roster.researchers, name)}))

    def _check_name(self, name: str, longest: int) -> None:
        if not is_id(name, longest):
            raise HubError(
                f"'{name}' cannot be a login: at most {longest} lower-case letters, digits and single dashes, and none "
                "of the hub's own words"
            )
        if name in (*self.roster.sites, *self.roster.researchers):
            raise HubError(f"'{name}' is in {self.path / ROSTER_FILE} already")

    def _with(self, roster: Roster) -> "HubFolder":
        changed = replace(self, roster=roster)
        changed.write()
        return changed

    # --- secrets -----------------------------------------------------------------------------------------------------

    @property
    def broker_logins(self) -> tuple[str, ...]:
        return tuple(login.name for login in self._topology.logins)

    @property
    def store_logins(self) -> tuple[str, ...]:
        return (*SERVICES, OPERATOR, *self.roster.sites, *self.roster.researchers)

    def broker_secret(self, login: str) -> Path:
        """The file with the login's password at the broker."""
        return self.path / SECRETS / f"{login}.broker"

    def store_secret(self, login: str) -> Path:
        """The file with the secret half of the login's key at the store."""
        return self.path / SECRETS / f"{login}.store"

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Make the secrets that are missing, and every other file anew. Raises `HubError`."""
        if STORE_ROOT in (*self.roster.sites, *self.roster.researchers):
            raise HubError(f"'{STORE_ROOT}' cannot be a login: it is the store's own administrator")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / SECRETS).mkdir(mode=0o700, exist_ok=True)
            for file in self._secret_files():
                _make_secret(file)
            for name, text in self._files().items():
                write_private(self.path / name, text)
            if self.roster.ca is not None and self.roster.ca.resolve() != (self.path / CA_FILE).resolve():
                shutil.copyfile(self.roster.ca, self.path / CA_FILE)
            write_private(self.path / ROSTER_FILE, roster_text(self.roster))
        except OSError as error:
            raise HubError(f"{error.filename or self.path} cannot be written: {error.strerror}") from None

    def _secret_files(self) -> Iterator[Path]:
        yield from map(self.broker_secret, self.broker_logins)
        yield from map(self.store_secret, (*self.store_logins, STORE_ROOT))

    @property
    def _topology(self) -> Topology:
        return topology(self.roster.sites, self.roster.researchers)

    def definitions(self) -> dict[str, Any]:
        """What the broker is to hold: see `wardround.hub.definitions`."""
        passwords = {login: self.broker_secret(login).read_text() for login in self.broker_logins}
        return definitions(self._topology, passwords)

    def _files(self) -> dict[str, str]:
        files = {DEFINITIONS_FILE: json.dumps(self.definitions(), indent=1)}
        for service in SERVICES:
            files |= service_files(service, self.roster)
        for site in self.roster.sites:
            files |= self._handed_over(f"sites/{site}", site, site_files(site, self.roster))
        for researcher in (*self.roster.researchers, OPERATOR):
            files |= self._handed_over(f"people/{researcher}", researcher, researcher_files(researcher, self.roster))
        return files

    def _handed_over(self, folder: str, login: str, files: dict[str, str]) -> dict[str, str]:
        """The files of a folder that is given away, with copies of its secrets and of the hub's certificate.

        What its owner may have changed there, `site.toml` and `policy.toml`, is kept."""
        made = {f"{folder}/{name}": text for name, text in files.items() if not (self.path / folder / name).exists()}
        made[f"{folder}/secrets/broker"] = self.broker_secret(login).read_text()
        made[f"{folder}/secrets/store"] = self.store_secret(login).read_text()
        if self.roster.ca is not None:
            made[f"{folder}/{CA_FILE}"] = self.roster.ca.read_text()
        return made


def _make_secret(file: Path) -> None:
    """256 bits, written once: a secret that exists is kept."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(32))


def write_private(file: Path, text: str) -> None:
    """The file as a whole, at once, and for its owner alone from the beginning on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, READ_BY_OWNER)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(aside, file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def roster_text(roster: Roster) -> str:
    """The roster as `hub.toml`."""
    lines = ["# The hub's addresses, sites and researchers: `wardround hub` writes it.", "schema = 1"]
    lines += [f"broker = {json.dumps(roster.broker)}", f"store = {json.dumps(roster.store)}"]
    if roster.metrics is not None:
        lines.append(f"metrics = {json.dumps(roster.metrics)}")
    if roster.ca is not None:
        lines.append(f'ca = "{CA_FILE}"')
    lines += [f"sites = {json.dumps(roster.sites)}", f"researchers = {json.dumps(roster.researchers)}"]
    return "\n".join(lines) + "\n"
