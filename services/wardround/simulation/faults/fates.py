"""What befalls a call, a message, a training: the questions that a run asks, and the answers of an undisturbed one."""

from dataclasses import dataclass
from typing import Literal, Protocol

from wardround.runtime.bus.port import Packet

Port = Literal["bus", "store", "scheduler", "disk"]
Moment = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Fate:
    """Of one call: the seconds it takes before it is carried out and after; whether its service is killed, or the call
    fails, `before` it was carried out or `after`."""

    before: float = 0.0
    after: float = 0.0
    killed: Moment | None = None
    failed: Moment | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """Of one training: how long it takes, in seconds, and whether it crashes at the end."""

    seconds: float = 1.0
    crashes: bool = False


UNDISTURBED = Fate()


class Fates(Protocol):
    """Asked in the order in which things happen, and nothing else decides what does. `last_arrival` is the second in
    which the last late message comes."""

    @property
    def last_arrival(self) -> float: ...

    def call(self, service: str, port: Port, method: str) -> Fate: ...

    def listing_age(self, service: str) -> float:
        """How many seconds old a listing is that the store gives: what was written since is not in it."""

    def message(self, packet: Packet) -> tuple[float, ...]:
        """After how many seconds each copy of a message arrives; none: it is lost."""

    def training(self, task: str) -> Course: ...

    def restart(self, service: str) -> float:
        """Seconds until a service that was killed, or ended by itself, is started again."""

    def rots(self, key: str) -> bool:
        """Whether a bit of the object flips as soon as it is stored."""


class Calm:
    """Nothing is disturbed."""

    last_arrival = 0.0

    def call(self, service: str, port: Port, method: str) -> Fate:
        return UNDISTURBED

    def listing_age(self, service: str) -> float:
        return 0.0

    def message(self, packet: Packet) -> tuple[float, ...]:
        return (0.0,)

    def training(self, task: str) -> Course:
        return Course()

    def restart(self, service: str) -> float:
        return 1.0

    def rots(self, key: str) -> bool:
        return False
