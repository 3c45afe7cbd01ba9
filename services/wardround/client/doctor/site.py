"""What a clinic's administrator looks at beside `site.toml`: the hub, the scheduler, the trainings, the agent."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from wardround.client.doctor.addresses import look_at_address, look_at_clock
from wardround.client.doctor.agent import look_at_agent
from wardround.client.doctor.airflow import AirflowLook
from wardround.client.doctor.at_broker import LOAD, AtBroker
from wardround.client.doctor.findings import Check, Verdict, in_thread, ok, skipped, warning, wrong
from wardround.client.doctor.probe import WITHIN as PROBE_WITHIN
from wardround.client.doctor.probe import Probe, clear_left
from wardround.client.doctor.room import ENOUGH, look_at_room
from wardround.client.doctor.site_files import (
    judge_policy,
    look_at_dataset,
    look_at_records,
    look_at_secrets,
    look_at_user,
)
from wardround.client.doctor.store import look_at_login, look_at_rights, rights_of_site
from wardround.client.doctor.trainers import DESCRIBES_WITHIN, TRAINER_OF_PROBE, Trainers
from wardround.runtime.clock import Clock, wall_clock
from wardround.runtime.hub_settings import Hub
from wardround.runtime.ids import fresh_id
from wardround.runtime.store.s3 import S3Store
from wardround.site_agent.main import AgentSettings, scheduler_of
from wardround.site_agent.policy import Policy, load_policy
from wardround.site_agent.settings import Airflow, Local
from wardround.site_agent.standstill import Standstill
from wardround_messages.names import site_queue

UPDATES_OF_ROOM = 3


@dataclass
class SiteDoctor:
    """One clinic, looked at from its own machine. `closing` closes what the checks opened."""

    settings: AgentSettings
    now: Clock = wall_clock
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    def checks(self) -> Sequence[Check]:
        """All that there is to look at, in the order in which it is shown."""
        site, policy = self.settings.site, load_policy(self.settings.policy)
        paths = site.paths
        folders = {"spool": paths.spool, "inbox": paths.inbox.parent, "log": paths.log.parent}
        trainers = Trainers(site.scheduler.python or sys.executable)
        datasets = [
            Check(f"data set {name}", partial(look_at_dataset, dataset)) for name, dataset in site.datasets.items()
        ]
        return (
            Check("policy.toml", partial(_said, judge_policy(policy, site.datasets))),
            Check("user", lambda: look_at_user(paths.inbox)),
            Check("inbox and log", lambda: look_at_records(paths)),
            Check("secrets", lambda: look_at_secrets(site)),
            Check("disk", lambda: look_at_room(folders, wanted=room_wanted(policy))),
            *self._hub_checks(),
            Check("trainers", trainers.look, within=DESCRIBES_WITHIN),
            Check("trainers allowed", lambda: trainers.look_at_policy(policy), ("policy.toml", "trainers")),
            *datasets,
            *self._scheduler_checks(trainers, [check.name for check in datasets]),
            Check("agent", lambda: look_at_agent(paths.inbox, site.http)),
        )

    async def close(self) -> None:
        """Whatever the checks came to."""
        await self.closing.aclose()

    # --- the hub -----------------------------------------------------------------------------------------------------

    def _hub_checks(self) -> Iterator[Check]:
        hub, site = self.settings.site.hub, self.settings.site.site
        if hub is None:
            lacking = wrong("site.toml has no [hub]", "add what the hub's operator handed over")
            yield Check("hub", partial(_said, lacking))
            return
        broker = AtBroker(hub, self.closing, site=site)
        yield Check("broker address", lambda: look_at_address(hub.broker, ca=hub.ca, now=self.now))
        yield Check("broker login", broker.look_at_login, ("broker address", "secrets"))
        yield Check("broker rights", broker.look_at_rights, ("broker login",))
        yield Check("queue", lambda: look_at_queue(broker, site), ("broker login",))
        yield Check("store address", lambda: look_at_address(hub.store, ca=hub.ca, now=self.now))
        yield Check("clock", lambda: look_at_clock(hub.store, ca=hub.ca, now=self.now), ("store address",))
        yield Check("store login", lambda: look_at_login(self._store(hub), hub.store_key.id), ("clock", "secrets"))
        yield Check("store rights", lambda: self._store_rights(hub), ("store login",))

    async def _store_rights(self, hub: Hub) -> Verdict:
        nowhere = f"doctor-{fresh_id()[:8]}"
        rights = rights_of_site(self.settings.site.site)
        return await look_at_rights(self._store(hub), hub.store_key.id, rights, nowhere=nowhere)

    def _store(self, hub: Hub) -> S3Store:
        store = S3Store(hub.store, access_key=hub.store_key.id, secret_key=hub.store_key.read(), ca=hub.ca)
        self.closing.push_async_callback(store.close)
        return store

    # --- the scheduler -----------------------------------------------------------------------------------------------

    def _scheduler_checks(self, trainers: Trainers, datasets: Sequence[str]) -> Iterator[Check]:
        match self.settings.site.scheduler:
            case Airflow() as airflow:
                yield from self._airflow_checks(airflow, trainers, datasets)
            case Local() as local:
                scheduler = scheduler_of(local, self.settings.site.paths.spool)
                self.closing.push_async_callback(scheduler.close)
                probe = Probe(scheduler, self.settings.site.paths.spool, self.settings.site.site)
                yield self._probe_check("probe run", probe, trainers, ("trainers", "disk"))
            case _:
                yield Check("probe run", partial(_said, skipped("scheduler.kind 'inline' is for simulations")))

    def _airflow_checks(self, airflow: Airflow, trainers: Trainers, datasets: Sequence[str]) -> Iterator[Check]:
        site, look = self.settings.site, AirflowLook(airflow)
        self.closing.push_async_callback(look.close)
        yield Check("Airflow", lambda: look_at_address(airflow.url, ca=airflow.ca, now=self.now))
        yield Check("Airflow login", look.look_at_login, ("Airflow", "secrets"))
        yield Check("Airflow health", look.look_at_health, ("Airflow login",))
        if airflow.dag_of(TRAINER_OF_PROBE) is None:
            named = ", ".join(airflow.dags)
            yield Check("DAG", partial(_said, warning(f"only {named} have a DAG", "add scheduler.dags.default")))
        dags = sorted(set(airflow.dags.values()))
        for dag in dags:
            scheduler = scheduler_of(airflow.model_copy(update={"dags": {"default": dag}}), site.paths.spool)
            self.closing.push_async_callback(scheduler.close)
            probe = Probe(scheduler, site.paths.spool, site.site, partial(look.is_busy, dag))
            named = f"DAG {dag}"
            yield Check(named, partial(look.look_at_dag, dag), ("Airflow health",))
            yield self._probe_check(f"run of {dag}", probe, trainers, (named, "disk"))
            yield Check(
                f"data at {dag}",
                partial(probe.look_at_data, site.datasets),
                (f"run of {dag}", *datasets),
                within=PROBE_WITHIN * max(len(site.datasets), 1),
            )

    def _probe_check(self, name: str, probe: Probe, trainers: Trainers, after: tuple[str, ...]) -> Check:
        async def look() -> Verdict:
            await in_thread(partial(clear_left, probe.spool))
            if Standstill(self.settings.site.paths.inbox).word is not None:
                return skipped("the clinic is stopped: wardround site resume")
            return await probe.look_at_spool(code=trainers.code_of(TRAINER_OF_PROBE))

        return Check(name, look, ("trainers", *(each for each in after if each != "trainers")), within=PROBE_WITHIN)


async def _said(verdict: Verdict) -> Verdict:
    return verdict


def room_wanted(policy: Policy) -> int:
    """Bytes that should be free: room for three of the largest updates that may leave, and no less than `ENOUGH`."""
    largest = max((policy.leave_of(rule.id).update_at_most for rule in policy.rules), default=0)
    return max(ENOUGH, UPDATES_OF_ROOM * largest)


async def look_at_queue(broker: AtBroker, site: str) -> Verdict:
    """Whether the hub holds a queue for the clinic, and an agent is connected to it."""
    seen = await broker.looker.queue(site_queue(site))
    if seen is None:
        return wrong(f"the hub has no queue for '{site}'", f"wardround hub add-site {site}; {LOAD}")
    if not seen.consumers:
        return warning(f"no agent is connected; {seen.waiting} messages wait", "start it: wardround-site-agent")
    return ok("the clinic's agent is connected")
