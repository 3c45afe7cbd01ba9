"""Whose turn it is: a clinic trains a few tasks at a time, and no experiment holds the others back.

A free slot goes to the experiment that has fewest at the moment, among equals to the one that was served longest ago;
within an experiment first come is first served. So an experiment that waits and has no slot is passed by no other
twice.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Turn:
    """A task's turn: wait for `comes`, and call `Slots.leave` when it is over or no longer wanted.

    `goes_on` marks a task that had begun to train before the agent was started: it comes before all others.
    """

    experiment: str
    goes_on: bool
    comes: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Slots:
    """`count` turns at a time. `served` names experiments in the order in which they were served, the latest last."""

    def __init__(self, count: int, served: Iterable[str] = ()) -> None:
        self._count = count
        self._training: list[Turn] = []
        self._line: list[Turn] = []
        self._events = 0
        self._served: dict[str, int] = {}
        for experiment in served:
            self._note(experiment)

    @property
    def order(self) -> tuple[Turn, ...]:
        """Those that have a slot, then those that wait, as their turns will come if each takes as long as the next."""
        return (*self._training, *(self._line[place] for place in self._order()))

    def line_up(self, experiment: str, *, goes_on: bool = False) -> Turn:
        """A new turn at the end of the line; it comes at once where a slot is free."""
        turn = Turn(experiment, goes_on)
        if experiment not in self._served:
            self._note(experiment)  # a newcomer does not pass those who wait already
        self._line.append(turn)
        self._fill()
        return turn

    def leave(self, turn: Turn) -> None:
        """Give up the slot, or the place in the line; nothing where the turn is over already."""
        if turn in self._training:
            self._training.remove(turn)
            self._note(turn.experiment)
        elif turn in self._line:
            self._line.remove(turn)
        self._fill()

    def _fill(self) -> None:
        while self._line and len(self._training) < self._count:
            turn = self._line.pop(self._order()[0])
            self._training.append(turn)
            self._note(turn.experiment)
            if not turn.comes.done():
                turn.comes.set_result(None)

    def _note(self, experiment: str) -> None:
        self._events += 1
        self._served[experiment] = self._events

    def _order(self) -> list[int]:
        training = Counter(turn.experiment for turn in self._training)
        going_on = [place for place, turn in enumerate(self._line) if turn.goes_on]
        others = [place for place, turn in enumerate(self._line) if not turn.goes_on]
        named = [self._line[place].experiment for place in others]
        return going_on + [others[place] for place in fair_order(named, self._served, training)]


def fair_order(waiting: Sequence[str], served: Mapping[str, int], training: Mapping[str, int]) -> list[int]:
    """In which order those that wait come, as places in `waiting`: pure.

    Args:
        waiting: the experiment of each, first come first.
        served: the greater the number, the later the experiment was served.
        training: how many slots an experiment has.
    """
    left: dict[str, list[int]] = {}
    for place, experiment in enumerate(waiting):
        left.setdefault(experiment, []).append(place)
    latest = max(served.values(), default=0)
    ranks = {experiment: (training.get(experiment, 0), served.get(experiment, 0)) for experiment in left}
    order: list[int] = []
    while left:
        experiment = min(left, key=ranks.__getitem__)
        order.append(left[experiment].pop(0))
        latest += 1
        ranks[experiment] = ranks[experiment][0], latest
        if not left[experiment]:
            del left[experiment]
    return order
