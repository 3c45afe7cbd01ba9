"""Exchanges, queues, bindings and rights for a roster of sites: what the broker's definitions are made from."""

from dataclasses import dataclass
from typing import Literal

from wardround_messages import names
from wardround_messages.names import SITE_MAX, is_id

DELIVERY_LIMIT = 20
# Whoever lists the dead letters gives them all back: as good as no limit, and a number that every broker takes.
NO_DELIVERY_LIMIT = 2**31 - 1
ANNOUNCED_ROUTING_KEY = "announced"
OPERATOR = "operator"
LOOK_PREFIX = "wr.look."


@dataclass(frozen=True, slots=True)
class Queue:
    """`single_active`: of several consumers one receives, the next takes over when it goes."""

    name: str
    kind: Literal["quorum", "stream"] = "quorum"
    single_active: bool = False
    delivery_limit: int = DELIVERY_LIMIT


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    queue: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Login:
    """`writes` maps an exchange to the regular expression that a routing key must match; `reads` names queues;
    `declares` names exchanges; `looks` names exchanges to which it may bind queues of its own, whose names begin with
    `LOOK_PREFIX`; one that `impersonates` may publish under the name of another login."""

    name: str
    writes: dict[str, str]
    reads: tuple[str, ...] = ()
    declares: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()
    impersonates: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    logins: tuple[Login, ...]


def topology(sites: tuple[str, ...], researchers: tuple[str, ...]) -> Topology:
    """All that the broker must hold before a service connects; services declare nothing.

    Raises:
        ValueError: a name is not an id, is reserved, or stands for two logins.
    """
    for name in (*sites, *researchers):
        if not is_id(name, SITE_MAX if name in sites else 40):
            raise ValueError(f"'{name}' cannot be a login: lower-case letters, digits and single dashes; not reserved")
    if len({*sites, *researchers}) != len(sites) + len(researchers):
        raise ValueError("every site and every researcher needs a login of its own")
    exchanges = (names.COMMANDS, names.EVENTS, names.OBJECTSTORE, names.DEAD)
    return Topology(
        exchanges=exchanges,
        queues=(
            Queue(names.COORDINATOR_QUEUE, single_active=True),
            Queue(names.AGGREGATOR_QUEUE),
            *(Queue(names.site_queue(site), single_active=True) for site in sites),
            Queue(names.METRICS_STREAM, kind="stream"),
            Queue(names.DEAD_QUEUE, delivery_limit=NO_DELIVERY_LIMIT),
        ),
        bindings=(
            Binding(names.COMMANDS, names.COORDINATOR_QUEUE, "cmd.coordinator.hub.#"),
            Binding(names.EVENTS, names.COORDINATOR_QUEUE, "evt.site-agent.*.none.site.seen"),
            Binding(names.OBJECTSTORE, names.COORDINATOR_QUEUE, "#"),
            Binding(names.COMMANDS, names.AGGREGATOR_QUEUE, "cmd.aggregator.hub.#"),
            *(Binding(names.COMMANDS, names.site_queue(site), f"cmd.site-agent.{site}.#") for site in sites),
            Binding(names.EVENTS, names.METRICS_STREAM, "evt.#"),
            Binding(names.DEAD, names.DEAD_QUEUE, "#"),
        ),
        logins=(
            Login(
                "coordinator",
                {
                    names.COMMANDS: r"^cmd\.(site-agent|aggregator)\.",
                    names.EVENTS: r"^evt\.coordinator\.hub\.",
                    names.DEAD: r"^dead\.coordinator\.hub$",
                },
                (names.COORDINATOR_QUEUE,),
                # All announcements come to it anyhow; a queue of one's own shows whether they come at all.
                looks=(names.OBJECTSTORE,),
            ),
            Login("aggregator", {names.DEAD: r"^dead\.aggregator\.hub$"}, (names.AGGREGATOR_QUEUE,)),
            Login("metrics", {names.DEAD: r"^dead\.metrics\.hub$"}, (names.METRICS_STREAM,)),
            # MinIO declares the exchange again before each announcement.
            Login("store", {names.OBJECTSTORE: f"^{ANNOUNCED_ROUTING_KEY}$"}, declares=(names.OBJECTSTORE,)),
            # A dead letter is sent again as it was: to its exchange, under its sender's name.
            Login(OPERATOR, dict.fromkeys(exchanges, ".*"), (names.DEAD_QUEUE,), impersonates=True),
            *(_site(site) for site in sites),
            *(
                Login(name, {names.COMMANDS: r"^cmd\.coordinator\.hub\."}, (names.METRICS_STREAM,))
                for name in researchers
            ),
        ),
    )


def _site(site: str) -> Login:
    return Login(
        site,
        {names.EVENTS: rf"^evt\.site-agent\.{site}\.", names.DEAD: rf"^dead\.site-agent\.{site}$"},
        (names.site_queue(site),),
    )
