"""The experiment as its journal tells it, entry by entry as they are written."""

from wardround.coordinator.evolve import IllegalTransitionError, evolve
from wardround.coordinator.state import State
from wardround.simulation.faults.history import History, Written
from wardround_messages.journal import JournalEntry
from wardround_messages.names import JournalKey, parse_key


class Followed:
    """Folds what was first written under each number; stops where an entry does not follow: the checker names it."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen = 0
        self._state: State | None = None
        self.illegal = False

    @property
    def state(self) -> State | None:
        """None before entry 0."""
        while self._seen < len(self._history.written) and not self.illegal:
            self._take(self._history.written[self._seen])
            self._seen += 1
        return self._state

    def _take(self, one: Written) -> None:
        key = parse_key(one.key)
        number = 0 if self._state is None else self._state.entries
        if not isinstance(key, JournalKey) or key.number < number:
            return
        try:
            self._state = evolve(self._state, JournalEntry.model_validate_json(one.data))
        except IllegalTransitionError:
            self.illegal = True
