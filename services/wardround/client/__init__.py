"""Wardround for researchers and operators: a Python client, and the command line on top of it.

    from wardround.client import connect

    async with connect("stack") as hub:                     # a profile of hubs.toml
        started = await hub.start(manifest)
        async for view in hub.watch(started.experiment):
            print(view.rounds_done, view.model)
        await hub.fetch(started.experiment, "best", Path("model.safetensors"))

`load_experiment` reads a manifest from an experiment file. Errors are those of `wardround.client.errors`
(`RefusedError`: the hub said no; `NoAnswerError`: not yet anything), of the bus and of the store.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wardround.client.errors import HubError, NoAnswerError, NotThereError, RefusedError, UnusableError
    from wardround.client.experiment_file import load_experiment
    from wardround.client.hub import CarriedOut, Hub, Started, connect
    from wardround.client.hubs import Connections, Profile, read_profile, write_profile

__all__ = [
    "CarriedOut",
    "Connections",
    "Hub",
    "HubError",
    "NoAnswerError",
    "NotThereError",
    "Profile",
    "RefusedError",
    "Started",
    "UnusableError",
    "connect",
    "load_experiment",
    "read_profile",
    "write_profile",
]

_HOMES = {
    "errors": ("HubError", "NoAnswerError", "NotThereError", "RefusedError", "UnusableError"),
    "experiment_file": ("load_experiment",),
    "hub": ("CarriedOut", "Hub", "Started", "connect"),
    "hubs": ("Connections", "Profile", "read_profile", "write_profile"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the command line must answer at once."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"wardround.client.{home}"), name)
    raise AttributeError(f"module 'wardround.client' has no attribute '{name}'")
