"""What a researcher or an operator looks at from afar: broker, store, stream, services and clinics of one hub."""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from wardround.client.doctor.addresses import look_at_address, look_at_clock
from wardround.client.doctor.at_broker import AtBroker
from wardround.client.doctor.findings import Check, Verdict, ok, skipped, warning, wrong
from wardround.client.doctor.hub_folder import folder_checks, metrics_bus, without_folder
from wardround.client.doctor.store import look_at_login, look_at_rights, rights_of_person
from wardround.client.doctor.stream import look_at_coordinator, look_at_stream
from wardround.client.errors import HubError
from wardround.client.hubs import Connections, Profile
from wardround.client.sites import SiteShown, read_sites
from wardround.hub.folder import HubFolder
from wardround.metrics.wording import span_text
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Bus
from wardround.runtime.clock import Clock, wall_clock
from wardround.runtime.ids import fresh_id
from wardround_messages.names import AGGREGATOR_QUEUE, COORDINATOR_QUEUE, HUB
from wardround_messages.topology import OPERATOR

START = "start it, and look into its log: wardround-{0}"
RESEARCHERS_ONLY = (
    "an operator's login does not hear the stream: run this with a researcher's --hub, or with --hub-folder"
)
ANSWERS_WITHIN = 40.0  # seconds, those of connecting included


@dataclass
class HubDoctor:
    """One login's look at a hub. `closing` closes what the checks opened.

    Args:
        folder: the hub's own folder, where this runs beside it: with it, what only the hub's services may is tried.
    """

    profile: Profile
    to: Connections
    folder: HubFolder | None = None
    now: Clock = wall_clock
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    _speaking: Messenger = field(init=False)
    _hearing: Messenger = field(init=False)

    def checks(self) -> Sequence[Check]:
        """All that there is to look at, in the order in which it is shown."""
        profile, store = self.profile, self.to.store
        broker = AtBroker(profile, self.closing)
        rights, nowhere = rights_of_person(), f"doctor-{fresh_id()[:8]}"
        hears = profile.username != OPERATOR or self.folder is not None
        after_login = ("broker login",)
        return (
            Check("broker address", lambda: look_at_address(profile.broker, ca=profile.ca, now=self.now)),
            Check("broker login", broker.look_at_login, ("broker address",)),
            Check("broker rights", broker.look_at_rights, after_login),
            Check("store address", lambda: look_at_address(profile.store, ca=profile.ca, now=self.now)),
            Check("clock", lambda: look_at_clock(profile.store, ca=profile.ca, now=self.now), ("store address",)),
            Check("store login", lambda: look_at_login(store, profile.store_key.id), ("clock",)),
            Check(
                "store rights",
                lambda: look_at_rights(store, profile.store_key.id, rights, nowhere=nowhere),
                ("store login",),
            ),
            Check("stream", self._stream if hears else _researchers_only, ("broker rights",) if hears else ()),
            Check(
                "coordinator",
                lambda: broker.look_at_readers(COORDINATOR_QUEUE, "coordinator", START.format("coordinator")),
                after_login,
            ),
            Check(
                "its answer",
                (lambda: self._answer(nowhere)) if hears else _researchers_only,
                ("stream", "coordinator") if hears else (),
                within=ANSWERS_WITHIN,
            ),
            Check(
                "aggregator",
                lambda: broker.look_at_readers(AGGREGATOR_QUEUE, "aggregator", START.format("aggregator")),
                after_login,
            ),
            Check("metrics service", self._metrics),
            Check("clinics", self._clinics, ("metrics service",)),
            Check("dead letters", broker.look_at_dead_letters, after_login),
            *(without_folder() if self.folder is None else folder_checks(self.folder, broker, self.closing)),
        )

    async def close(self) -> None:
        """Whatever the checks came to."""
        await self.closing.aclose()
        await self.to.store.close()

    async def _stream(self) -> Verdict:
        """Heard by a researcher's own login. An operator's may not: beside the hub's folder that of metrics does."""
        self._speaking = self._hearing = await self._messenger(self.to.open_bus)
        if self.folder is not None and self.profile.username == OPERATOR:
            self._hearing = await self._messenger(partial(metrics_bus, self.folder))
        return await look_at_stream(self._hearing, now=self.now)

    async def _messenger(self, open_bus: Callable[[], Awaitable[Bus]]) -> Messenger:
        bus = await open_bus()
        self.closing.push_async_callback(bus.close)
        return Messenger(bus, service="client", origin=HUB, clock=self.now)

    async def _answer(self, nowhere: str) -> Verdict:
        return await look_at_coordinator(self._speaking, self._hearing, nowhere=nowhere, now=self.now)

    async def _metrics(self) -> Verdict:
        if self.profile.metrics is None:
            return skipped('the profile has no metrics = "https://..."')
        return await look_at_service(self.profile.metrics, ca=self.profile.ca)

    async def _clinics(self) -> Verdict:
        try:
            sites = await read_sites(self.profile)
        except HubError as error:
            return wrong(str(error), "check metrics and metrics_token in the profile")
        return judge_clinics(sites)


async def _researchers_only() -> Verdict:
    return skipped(RESEARCHERS_ONLY)


async def look_at_service(address: str, *, ca: Path | None) -> Verdict:
    """What the service at the address says of its own health, which needs no token."""
    trusted = ssl.create_default_context(cafile=None if ca is None else str(ca))
    to_do = "ask the hub's operator to look into the service's log"
    try:
        async with httpx.AsyncClient(verify=trusted, timeout=10.0, trust_env=False) as client:
            answer = await client.get(f"{address.rstrip('/')}/health")
        said = answer.json()
        status, detail, version = said["status"], said.get("detail", ""), said.get("version", "")
    except httpx.HTTPError as error:
        return wrong(f"{address} does not answer: {error or type(error).__name__}", to_do)
    except (ValueError, TypeError, KeyError):
        return wrong(f"{address} answers, but not as a service of Wardround does", "check metrics in the profile")
    if status != "ok":
        return warning(f"{address} is {status}: {detail}", to_do)
    return ok(f"{address} is well, version {version}")


def judge_clinics(sites: Sequence[SiteShown]) -> Verdict:
    """Whether clinics were heard of, and how each says it is doing."""
    to_do = "ask the clinic to run: wardround site doctor"
    if not sites:
        return warning("no clinic was heard of yet", to_do)
    amiss = [f"{site.site} was last heard of {span_text(site.seen_ago)} ago" for site in sites if site.quiet]
    amiss += [
        f"{site.site} is {site.status}: {site.detail or 'it does not say why'}"
        for site in sites
        if not site.quiet and site.status != "ok"
    ]
    if amiss:
        return warning("; ".join(amiss), to_do)
    oldest = max(site.seen_ago for site in sites)
    return ok(f"{len(sites)} heard of, each in the last {span_text(max(oldest, 1))}")
