"""The stream of events as a researcher hears it, and whether the coordinator answers."""

from datetime import datetime, timedelta

from wardround.client.doctor.addresses import judge_skew
from wardround.client.doctor.findings import Verdict, ok, warning, wrong
from wardround.client.listening import Ear, listening
from wardround.metrics.wording import span_text
from wardround.runtime.bus.messaging import Messenger, Received
from wardround.runtime.bus.port import BusError
from wardround.runtime.clock import Clock
from wardround_messages.commands import PauseExperiment
from wardround_messages.events import CommandRefused

CONNECTS_WITHIN = 10.0
BEGINS_WITHIN = 3.0
QUIET_AFTER = 0.3
ANSWERS_WITHIN = 15.0
FRESH = timedelta(minutes=3)  # a clinic says every minute that it is there


async def look_at_stream(messenger: Messenger, *, now: Clock) -> Verdict:
    """Whether the stream can be read, and when the newest event was said."""
    try:
        async with listening(messenger, _anything, within=CONNECTS_WITHIN, offset="last") as ear:
            await ear.until_quiet(within=BEGINS_WITHIN, quiet=QUIET_AFTER)
            newest = _newest(ear)
    except BusError as error:
        return wrong(str(error), "ask the hub's operator for the right to read the stream")
    return judge_newest(None if newest is None else newest.envelope.time, now())


def _newest(ear: Ear) -> Received | None:
    newest = None
    while (received := ear.heard_already()) is not None:
        newest = received
    return newest


def judge_newest(newest: datetime | None, now: datetime) -> Verdict:
    """How fresh the stream is, by the time of its newest event."""
    to_do = "is the agent of any clinic on? wardround sites shows them"
    if newest is None:
        return warning("the stream can be read, and holds no event", to_do)
    age = max((now - newest).total_seconds(), 0.0)
    if age > FRESH.total_seconds():
        return warning(f"the stream can be read, but nothing was said for {span_text(age)}", to_do)
    return ok(f"the stream can be read; its newest event is {age:.0f} s old")


async def look_at_coordinator(speaking: Messenger, hearing: Messenger, *, nowhere: str, now: Clock) -> Verdict:
    """Whether the coordinator answers: it is told to pause an experiment that does not exist, and must refuse.

    This changes nothing at the hub; the refusal is one event on the stream.

    Args:
        speaking, hearing: as a login that may give commands, and as one that may read the stream.
        nowhere: the experiment that does not exist.
    """
    to_do = "ask the hub's operator whether the coordinator runs, and what its log says"
    try:
        async with listening(hearing, _anything, within=CONNECTS_WITHIN) as ear:
            asked = now()
            command = await speaking.send(PauseExperiment(experiment=nowhere), give_up_after=CONNECTS_WITHIN)
            answer = await _refusal(ear, command, now=now)
            answered = now()
    except BusError as error:
        return wrong(str(error), to_do)
    if answer is None:
        return wrong(f"the coordinator does not answer a command within {ANSWERS_WITHIN:.0f} s", to_do)
    ahead = (asked + (answered - asked) / 2 - answer.envelope.time).total_seconds()
    skew = judge_skew(ahead, "the coordinator's")
    if skew.state != "ok":
        return warning(f"the coordinator answers, but {skew.what}", skew.to_do)
    return ok(f"the coordinator answers a command in {(answered - asked).total_seconds() * 1000:.0f} ms")


async def _refusal(ear: Ear, command: str, *, now: Clock) -> Received | None:
    until = now() + timedelta(seconds=ANSWERS_WITHIN)
    while (left := (until - now()).total_seconds()) > 0:
        received = await ear.next(left)
        if received is not None and isinstance(said := received.message, CommandRefused) and said.command == command:
            return received
    return None


def _anything(_: Received) -> bool:
    return True
