"""What travels on the bus: the bases of commands and events, and how each finds its address."""

from typing import Annotated, ClassVar

from pydantic import Field

from wardround_messages.base import Model
from wardround_messages.names import (
    COMMANDS,
    EVENTS,
    HUB,
    NO_EXPERIMENT,
    command_routing_key,
    event_routing_key,
)

TYPE_PREFIX = "io.wardround"
TypeName = Annotated[str, Field(max_length=80, pattern=r"^io\.wardround\.[a-z-]+\.[a-z-]+\.v[1-9][0-9]?$")]


class Message(Model):
    """A command or an event. A schema is immutable: a change is a new version with a new type."""

    noun: ClassVar[str]
    verb: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def type(self) -> str:
        return type_name(self.noun, self.verb, self.version)

    @property
    def exchange(self) -> str:
        raise NotImplementedError

    @property
    def routing_key(self) -> str:
        raise NotImplementedError

    @property
    def sender(self) -> str | None:
        """The login that alone may say this; None where any researcher may."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """`<experiment>/r000012`, as far as it applies."""
        experiment = getattr(self, "experiment", None) or NO_EXPERIMENT
        round_ = getattr(self, "round", None)
        return experiment if round_ is None else f"{experiment}/r{round_:06d}"

    @property
    def id(self) -> str | None:
        """The deterministic id, where the content has one: the same id means the same body."""
        return None


def type_name(noun: str, verb: str, version: int) -> str:
    return f"{TYPE_PREFIX}.{noun}.{verb}.v{version}"


class Command(Message):
    """An order to the one service that owns it."""

    service: ClassVar[str]
    sender_login: ClassVar[str | None] = None

    @property
    def exchange(self) -> str:
        return COMMANDS

    @property
    def target(self) -> str:
        return HUB

    @property
    def routing_key(self) -> str:
        experiment: str = getattr(self, "experiment")  # noqa: B009 - a property or a field of each command
        return command_routing_key(self.service, self.target, experiment, self.verb)

    @property
    def sender(self) -> str | None:
        return self.sender_login


class Event(Message):
    """A fact, said once by the service that knows it, for whoever listens."""

    service: ClassVar[str]

    @property
    def exchange(self) -> str:
        return EVENTS

    @property
    def origin(self) -> str:
        return HUB

    @property
    def routing_key(self) -> str:
        experiment = getattr(self, "experiment", None) or NO_EXPERIMENT
        return event_routing_key(self.service, self.origin, experiment, self.noun, self.verb)

    @property
    def sender(self) -> str | None:
        return self.service if self.origin == HUB else self.origin
