"""Whose word counts for where a dead letter came from: a site cannot have an operator speak as somebody else."""

import pytest

from wardround.client.dead import Parked
from wardround.client.errors import UnusableError
from wardround.runtime.bus.dead_letters import DeadLetter, dead_letter
from wardround.runtime.bus.port import DeadLetterError, Packet


def parked(packet: Packet, *, queue: str, by: str) -> Packet:
    letter = dead_letter(packet, DeadLetterError("invalid"), queue=queue, dead_key=f"dead.site-agent.{by}")
    return Packet(letter.exchange, letter.routing_key, letter.body, letter.headers, user_id=by)


ABORT = Packet("wr.commands", "cmd.coordinator.hub.victim.abort", b"{}", user_id="researcher-a")
OWN = Packet("wr.commands", "cmd.site-agent.clinic-1.count.start", b"{}", user_id="coordinator")


@pytest.mark.parametrize("queue", ["wr.coordinator", "wr.site.clinic-1"])
def test_a_site_is_not_believed_about_what_it_cannot_have_received(queue: str) -> None:
    letter = parked(ABORT, queue=queue, by="clinic-1")
    assert (DeadLetter.read(letter).believed, DeadLetter.read(letter).parked_by) == (False, "clinic-1")
    with pytest.raises(UnusableError, match="parked by clinic-1"):
        Parked.of(letter).as_it_was()


def test_the_hubs_services_and_a_sites_own_queue_are_believed() -> None:
    assert Parked.of(parked(ABORT, queue="wr.coordinator", by="coordinator")).as_it_was().user_id == "researcher-a"
    assert Parked.of(parked(OWN, queue="wr.site.clinic-1", by="clinic-1")).as_it_was().user_id == "coordinator"
    with pytest.raises(UnusableError):
        Parked.of(parked(OWN, queue="wr.site.clinic-1", by="clinic-2")).as_it_was()
