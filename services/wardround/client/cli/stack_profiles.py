"""The hub profiles of a stack: one for the researcher, one for the operator, who looks after dead letters."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardround.stack.folder import Plan


def write_profiles(folder: Path, plan: "Plan") -> Path:
    """The file that they are in; they become the default only where there is none."""
    from wardround.client.hubs import write_profile
    from wardround.hub.folder import HubFolder
    from wardround.simulation.sites import RESEARCHER
    from wardround_messages.topology import OPERATOR

    hub = HubFolder.open(folder / "hub")

    def profile(login: str) -> dict[str, object]:
        return {
            "broker": hub.roster.broker,
            "store": hub.roster.store,
            "metrics": hub.roster.metrics,
            "username": login,
            "password": {"file": str(hub.broker_secret(login))},
            "store_key": {"id": login, "file": str(hub.store_secret(login))},
        }

    file = write_profile(plan.name, profile(RESEARCHER))
    write_profile(f"{plan.name}-{OPERATOR}", profile(OPERATOR))
    return file


def forget_profiles(folder: Path) -> None:
    """Take away those whose secrets lie in the stack's folder, whatever name it had: without them none is of use.

    Raises:
        SettingsError: the file of the profiles cannot be used; OSError: it cannot be written.
    """
    from wardround.client.hubs import hubs_file, remove_profiles

    def of_stack(profile: Mapping[str, object]) -> bool:
        password = profile.get("password")
        file = password.get("file") if isinstance(password, dict) else None
        return isinstance(file, str) and (hubs_file().parent / file).resolve().is_relative_to(folder.resolve())

    remove_profiles(of_stack)


def hub_option(name: str) -> str:
    """What a command to this stack needs besides; nothing where its profile is the default. Raises `SettingsError`."""
    from wardround.client.hubs import default_profile

    return "" if default_profile() == name else f" --hub {name}"
