"""What a login should be able to do at the broker, and what it can: proved without a message and without a consumer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from wardround.client.doctor.findings import Verdict, warning, worst_of, wrong
from wardround_messages import names
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY, Login

NOBODY = "doctor"  # in the place of an experiment, and of a clinic that is not asked about
PROBE = "doctor.probe"


@dataclass(frozen=True, slots=True)
class Right:
    """To write messages with a routing key to an exchange, or to read a queue (`key` is None)."""

    place: str
    key: str | None
    words: str


@dataclass(frozen=True, slots=True)
class Found:
    """A right, whether the login should have it, and whether it has."""

    right: Right
    should: bool
    may: bool


def rights_to_try(site: str | None = None) -> tuple[Right, ...]:
    """One of each kind; those of a clinic are those of `site`, or of a clinic that does not exist."""
    of = site or NOBODY
    return (
        Right(names.COMMANDS, f"cmd.coordinator.hub.{PROBE}", "give the coordinator commands"),
        Right(names.COMMANDS, f"cmd.site-agent.{NOBODY}.{PROBE}", "give clinics commands"),
        Right(names.COMMANDS, f"cmd.aggregator.hub.{PROBE}", "give the aggregator commands"),
        Right(names.EVENTS, f"evt.coordinator.hub.{PROBE}", "speak as the coordinator"),
        Right(names.EVENTS, f"evt.site-agent.{of}.{PROBE}", f"speak as {'this clinic' if site else 'a clinic'}"),
        Right(names.OBJECTSTORE, ANNOUNCED_ROUTING_KEY, "announce objects"),
        Right(names.DEAD, f"dead.site-agent.{of}", "park this clinic's dead letters" if site else "park dead letters"),
        Right(names.COORDINATOR_QUEUE, None, "read the coordinator's queue"),
        Right(names.AGGREGATOR_QUEUE, None, "read the aggregator's queue"),
        Right(names.METRICS_STREAM, None, "read the stream of events"),
        Right(names.DEAD_QUEUE, None, "read dead letters"),
        *((Right(names.site_queue(site), None, "read its queue"),) if site else ()),
    )


def should_have(login: Login, right: Right) -> bool:
    """Whether the topology gives the login this right."""
    if right.key is None:
        return right.place in login.reads
    pattern = login.writes.get(right.place)
    return pattern is not None and re.search(pattern, right.key) is not None


def judge_rights(login: str, found: Iterable[Found]) -> Verdict:
    """Whether the broker gives the login what it should have, and no more."""
    found = list(found)
    lacks = [each.right.words for each in found if each.should and not each.may]
    more = [each.right.words for each in found if each.may and not each.should]
    has = [each.right.words for each in found if each.may and each.should]
    to_do = "the hub's operator must bring the definitions to the broker: rabbitmqctl import_definitions"
    verdicts: list[Verdict] = []
    if lacks:
        verdicts.append(wrong(f"'{login}' may not {_listed(lacks)}", to_do))
    if more:
        verdicts.append(warning(f"'{login}' may {_listed(more)}, which it should not", to_do))
    return worst_of(verdicts, f"'{login}' may {_listed(has)}, and nothing else")


def _listed(words: list[str]) -> str:
    *others, last = words or ["do nothing"]
    return f"{', '.join(others)} and {last}" if others else last
