"""What is looked at beside the hub's own folder: every login it made, create-only writes, announcements, room."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack

from wardround.client.doctor.announcing import look_at_announcements
from wardround.client.doctor.at_broker import LOAD, AtBroker
from wardround.client.doctor.findings import Check, Verdict, ok, skipped, warning, worst_of, wrong
from wardround.client.doctor.room import look_at_room
from wardround.hub.folder import HubFolder
from wardround.runtime.bus.port import BusError, ForbiddenError
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.runtime.bus.rabbit_link import Endpoint, close_quietly
from wardround.runtime.store.port import AccessDeniedError, LoginRefusedError, NotFoundError, StoreError
from wardround.runtime.store.s3 import CreateOnlyError, S3Store
from wardround.runtime.store.s3_probe import PROBE_BUCKET, PROBE_PREFIX
from wardround_messages.names import site_queue

EndpointOf = Callable[[str], Endpoint]
StoreOf = Callable[[str], S3Store]
Look = Callable[[str], Awaitable[Verdict]]

COORDINATOR, METRICS = "coordinator", "metrics"
TRIED_AT_MOST = 200
AT_ONCE = 8
NEEDS_FOLDER = "only the coordinator's login may try it: run this on the hub's machine with --hub-folder"


def without_folder() -> Sequence[Check]:
    """What is left out where there is no folder of the hub."""

    async def left_out() -> Verdict:
        return skipped(NEEDS_FOLDER)

    return (Check("create-only writes", left_out), Check("announcements", left_out))


def folder_checks(hub: HubFolder, broker: AtBroker, closing: AsyncExitStack) -> Sequence[Check]:
    """What the secrets in the folder allow to be looked at besides."""

    def store_of(login: str) -> S3Store:
        store = S3Store(
            hub.roster.store,
            access_key=login,
            secret_key=hub.store_secret(login).read_text().strip(),
            ca=hub.roster.ca,
            threads=2 if login != COORDINATOR else 8,
        )
        closing.push_async_callback(store.close)
        return store

    def endpoint_of(login: str) -> Endpoint:
        password = hub.broker_secret(login).read_text().strip()
        return Endpoint.parse(
            hub.roster.broker, login=login, password=password, ca=hub.roster.ca, name="wardround-doctor"
        )

    return (
        Check("hub folder", lambda: look_at_room({"the hub's folder": hub.path})),
        Check("broker logins", lambda: _broker_logins(hub, endpoint_of), ("broker address",), within=60.0),
        Check("store logins", lambda: _store_logins(hub, store_of), ("clock",), within=60.0),
        Check("clinics' agents", lambda: _agents(hub, broker), ("broker login",)),
        Check("create-only writes", lambda: _create_only(store_of(COORDINATOR)), ("store logins",), within=60.0),
        Check(
            "announcements",
            lambda: look_at_announcements(endpoint_of(COORDINATOR), store_of(COORDINATOR)),
            ("broker logins", "store logins"),
            within=60.0,
        ),
    )


async def metrics_bus(hub: HubFolder) -> RabbitBus:
    """A connection of the login that hears the stream. Raises `BusError`."""
    password = hub.broker_secret(METRICS).read_text().strip()
    return await RabbitBus.connect(
        hub.roster.broker, login=METRICS, password=password, ca=hub.roster.ca, name="wardround-doctor"
    )


async def _broker_logins(hub: HubFolder, endpoint_of: EndpointOf) -> Verdict:
    async def look(login: str) -> Verdict:
        try:
            connection = await endpoint_of(login).open("looks")
        except ForbiddenError:
            return wrong(f"the broker refuses '{login}'", LOAD)
        except BusError as error:
            return wrong(str(error), "look into the broker's log")
        await close_quietly(connection.close())
        return ok(login)

    return await _each(hub.broker_logins, look, "the broker")


async def _store_logins(hub: HubFolder, store_of: StoreOf) -> Verdict:
    async def look(login: str) -> Verdict:
        try:
            await store_of(login).read(PROBE_BUCKET, f"{PROBE_PREFIX}login", length=1)
        except LoginRefusedError:
            return wrong(f"the store refuses '{login}'", f"wardround hub apply --folder {hub.path}")
        except (NotFoundError, AccessDeniedError):
            pass
        except StoreError as error:
            return wrong(str(error), "look into the store's log")
        return ok(login)

    return await _each(hub.store_logins, look, "the store")


async def _each(logins: Sequence[str], look: Look, where: str) -> Verdict:
    """A look at every login, a few at once. Of a large roster the first are looked at."""
    room = asyncio.Semaphore(AT_ONCE)

    async def in_turn(login: str) -> Verdict:
        async with room:
            try:
                return await look(login)
            except OSError as error:
                return wrong(f"the secret {error.filename} cannot be read: {error.strerror}", "run this as its owner")

    tried = logins[:TRIED_AT_MOST]
    verdicts = await asyncio.gather(*map(in_turn, tried))
    of = f" (of {len(logins)})" if len(tried) < len(logins) else ""
    return worst_of(verdicts, f"{where} knows all {len(tried)}{of} logins that the folder holds secrets of")


async def _agents(hub: HubFolder, broker: AtBroker) -> Verdict:
    """Whether each clinic of the roster is connected now."""
    sites = hub.roster.sites
    if not sites:
        return warning("the hub has no clinic", f"wardround hub add-site clinic-1 --folder {hub.path}")
    silent = set(await broker.without_readers([site_queue(site) for site in sites]))
    away = [site for site in sites if site_queue(site) in silent]
    if away:
        return warning(
            f"{len(sites) - len(away)} of {len(sites)} are connected; not: {_named(away)}",
            "ask the clinic to run: wardround site doctor",
        )
    return ok(f"all {len(sites)} are connected")


def _named(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


async def _create_only(store: S3Store) -> Verdict:
    try:
        await store.prove_create_only()
    except CreateOnlyError as error:
        return wrong(str(error), "use another store: this one would lose experiments")
    except StoreError as error:
        return wrong(str(error), "look into the store's log")
    return ok("of several creators of an object one wins, and nobody replaces it")
