"""The store's logins with their rights, as the hub's folder has them, brought to a running store."""

from wardround.hub.folder import STORE_ROOT, HubFolder
from wardround.hub.store_admin import StoreAdministrator, StoreLogin, apply_logins
from wardround.hub.store_policies import store_policies


async def apply_store_logins(hub: HubFolder, *, address: str | None = None) -> None:
    """Have the store, at the roster's address or another, know every login of the hub. Raises as `apply_logins`."""
    roster = hub.roster
    policies = store_policies(roster.sites, roster.researchers)
    root = hub.store_secret(STORE_ROOT).read_text()
    await apply_logins(
        StoreAdministrator(address or roster.store, STORE_ROOT, root, roster.ca),
        {login: StoreLogin(hub.store_secret(login).read_text(), policies[login]) for login in hub.store_logins},
    )
