"""Fates drawn by a seed: each question is answered with the next throw of the dice."""

import random
from collections.abc import Callable

from wardround.runtime.bus.port import Packet
from wardround.simulation.faults.fates import UNDISTURBED, Course, Fate, Moment, Port
from wardround.simulation.faults.plan import HOUR, Mail, Schedule
from wardround_messages.names import OBJECTSTORE

SLOWEST = 5.0  # seconds for a call
LATEST = 20.0  # seconds for a message that others overtake
QUICK = 0.02
SLOW_REPLIES = 0.3  # how many of them take time; each costs a step of the loop


class SeededFates:
    """What the schedule makes likely, as long as its faults last."""

    def __init__(self, schedule: Schedule, clock: Callable[[], float]) -> None:
        self._schedule = schedule
        self._clock = clock
        self._dice = random.Random(f"fates {schedule.seed}")  # noqa: S311 - nothing here is secret
        self._stopped = False
        self.last_arrival = 0.0

    @property
    def over(self) -> bool:
        return self._stopped or self._clock() >= self._schedule.lasts

    def stop(self) -> None:
        """Nothing is disturbed from here on."""
        self._stopped = True

    def call(self, service: str, port: Port, method: str) -> Fate:
        if self.over:
            return UNDISTURBED
        rates, dice = self._schedule.calls, self._dice
        slowest = SLOWEST if dice.random() < rates.slow else QUICK
        killed: Moment | None = dice.choice(("before", "after")) if dice.random() < rates.killed else None
        failed: Moment | None = None
        if dice.random() < rates.failed:
            failed = "before"
        elif dice.random() < rates.timed_out and port != "disk":  # a disk that took it says so
            failed = "after"
        reply = slowest * dice.random() if dice.random() < SLOW_REPLIES else 0.0
        return Fate(slowest * dice.random(), reply, killed, failed)

    def listing_age(self, service: str) -> float:
        if self.over or self._dice.random() >= self._schedule.calls.stale:
            return 0.0
        return 10.0 * self._dice.random()

    def message(self, packet: Packet) -> tuple[float, ...]:
        mail = self._schedule.announcements if packet.exchange == OBJECTSTORE else self._schedule.messages
        if self.over or mail == Mail():
            return (0.0,)
        if self._dice.random() < mail.lost:
            return ()
        copies = 2 if self._dice.random() < mail.doubled else 1
        arrivals = tuple(self._delay(mail) for _ in range(copies))
        self.last_arrival = max(self.last_arrival, *(self._clock() + delay for delay in arrivals))
        return arrivals

    def _delay(self, mail: Mail) -> float:
        dice = self._dice
        if dice.random() < mail.very_late:
            return HOUR * dice.random()
        return LATEST * dice.random() if dice.random() < mail.late else 0.0

    def training(self, task: str) -> Course:
        shortest, longest = self._schedule.training
        seconds = self._dice.uniform(shortest, longest)
        return Course(seconds, crashes=not self.over and self._dice.random() < self._schedule.crashes)

    def restart(self, service: str) -> float:
        return self._dice.uniform(0.1, 10.0)

    def rots(self, key: str) -> bool:
        likely = self._schedule.rot.get(key.partition("/")[0], 0.0)
        return not self.over and self._dice.random() < likely
