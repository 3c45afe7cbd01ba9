"""One experiment's loop: look, decide, act. Wake-ups differ only in how far they look; the timer is one of them."""

import asyncio
import contextlib
import random
from datetime import datetime

import structlog

from wardround.coordinator.commands import ExperimentCommand, Refusal, carry_out
from wardround.coordinator.decide import Observed, decide, next_moment
from wardround.coordinator.due import due
from wardround.coordinator.evolve import IllegalTransitionError, evolve
from wardround.coordinator.observe import ALL, NOWHERE, OPEN_STEP, Observer, Scope
from wardround.coordinator.outbox import Outbox
from wardround.coordinator.proposed import Proposed
from wardround.coordinator.pruning import delete_pruned
from wardround.coordinator.state import State
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.clock import Clock
from wardround.runtime.journal import Journal, JournalBrokenError, JournalMovedError, Stored
from wardround.runtime.store.port import ObjectStore, StoreUnavailableError
from wardround.runtime.together import together
from wardround_messages.events import SiteSeen
from wardround_messages.journal import Pruned
from wardround_messages.names import AnswerKey, ConsentKey, parse_key

log = structlog.get_logger()

EVERYWHERE_EVERY = 300.0  # seconds
OUTAGE_PAUSE = 2.0  # seconds, jittered, between tries while the store is away


class Experiment:
    """Runs one experiment until it has ended and nothing more is to be said of it."""

    def __init__(
        self, name: str, store: ObjectStore, messenger: Messenger, *, writer: str, clock: Clock, interval: float
    ) -> None:
        self.name = name
        self.broken: JournalBrokenError | None = None
        self._store = store
        self._writer = writer
        self._clock = clock
        self._interval = interval
        self._outbox = Outbox(name, messenger)
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read; the journal tells it again."""
        self.state: State | None = None
        self._journal = Journal(self._store, self.name, writer=self._writer, clock=self._clock)
        self._observer = Observer(self._store, self.name)
        self._newest: Stored | None = None
        self._scope = ALL
        self._looked_everywhere = 0.0
        self._looked_for_answers = 0.0
        self._looked_for_consents = 0.0
        self._moment: datetime | None = None
        self._rubbish = False
        self._deleted_to: int | None = None

    # --- waking up ---------------------------------------------------------------------------------------------------

    def wake(self, scope: Scope = OPEN_STEP) -> None:
        """Something may have changed, and where. Many wake-ups before the next look are one."""
        self._scope |= scope
        self._woken.set()

    def reconnected(self) -> None:
        """What was said before may have been lost with the connection: say it again."""
        self._outbox.forget()
        self.repeat_newest()
        self.wake(ALL)

    def repeat_newest(self) -> None:
        """Publish the newest entry once more."""
        if self._newest is not None:
            self._outbox.announce(self._newest)
            self.wake()

    def announced(self, key: str) -> None:
        """The store says that an object was written: a hint where to look."""
        known = parse_key(key)
        match known:
            case ConsentKey():
                self.wake(Scope(consents=True))
            case AnswerKey() if self._is_of_open_step(known):
                self.wake(Scope(announced=frozenset({known})))
            case AnswerKey():
                self.wake(ALL)
            case _:
                self.wake(NOWHERE)  # a result is looked for at every look

    def _is_of_open_step(self, key: AnswerKey) -> bool:
        step = None if self.state is None else self.state.step
        return step is not None and step.name == (key.round, key.task)

    def concerns(self, message: SiteSeen) -> bool:
        return self.state is None or message.site in self.state.sites

    def seen(self, message: SiteSeen) -> None:
        """A site says what it has in hand: it is sent what it lacks, and told to stop what is over."""
        self._outbox.seen(message)
        self.wake()

    async def run(self) -> None:
        """Loop until the experiment has ended, or its journal cannot be believed (`broken` says why)."""
        while True:
            self._woken.clear()
            try:
                async with self._lock:
                    await self._reconcile()
            except StoreUnavailableError as error:
                log.warning("store_unavailable", experiment=self.name, error=str(error))
                self.wake(ALL)
                await asyncio.sleep(OUTAGE_PAUSE * (0.5 + random.random()))  # noqa: S311 - jitter
            except JournalBrokenError as error:
                self._stop(error)
                return
            if self.state is not None and self.state.ended and not self._woken.is_set():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._woken.wait()

    def _stop(self, error: JournalBrokenError) -> None:
        self.broken = error
        log.error("journal_broken", experiment=self.name, entry=error.number, why=error.why)

    def _pause(self) -> float:
        """Seconds until the next look, when nothing wakes it before."""
        if self.state is None:
            self._moment = None
            return self._interval
        now = self._clock()
        self._moment = next_moment(self.state, now)
        # Not an interval from now: what woke the last look up may not have led it where something has been lost.
        listed = min(self._looked_for_answers, self._looked_for_consents)
        pause = max(listed + self._interval - asyncio.get_running_loop().time(), 0.0)
        return pause if self._moment is None else min(pause, (self._moment - now).total_seconds() + 0.001)

    # --- list, decide, act -------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        self._outbox.hear()
        observed = await self._look()
        while observed is not None and self.state is not None:
            proposals = decide(self.state, observed, self._clock())
            if not proposals:
                await self._act(observed)
                return
            try:
                await self._append(proposals)
            except JournalMovedError:
                observed = await self._look()

    async def _look(self) -> Observed | None:
        """Read on in the journal, then what sites and aggregator left; None where there is no journal."""
        if self.broken is not None:
            raise self.broken
        if self.state is None:
            await self._catch_up()
            return None if self.state is None else await self._observe(self.state)
        before = self.state
        observed, _ = await together(self._observe(before), self._catch_up())
        if self.state is not before:  # somebody else has appended: other objects may matter now
            self._scope |= ALL
            return await self._observe(self.state)
        return observed

    async def _observe(self, state: State) -> Observed:
        scope, self._scope = self._scope | self._what_it_is_time_for(), NOWHERE
        try:
            observed = await self._observer.look(state, scope)
        except BaseException:
            self._scope |= scope
            raise
        now = asyncio.get_running_loop().time()
        if scope.everywhere:
            self._looked_everywhere = now
        if scope.answers:
            self._looked_for_answers = now
        if scope.consents:
            self._looked_for_consents = now
        return observed

    def _what_it_is_time_for(self) -> Scope:
        """An announcement may have been lost, however many others arrive: the open step is listed once an interval, and
        before a deadline decides. Late answers are looked for now and then: a listing of all rounds is dear."""
        now = asyncio.get_running_loop().time()
        if now >= self._looked_everywhere + EVERYWHERE_EVERY:
            return ALL
        return Scope(
            answers=now >= self._looked_for_answers + self._interval or self._is_time_to_decide(),
            consents=now >= self._looked_for_consents + self._interval,
        )

    def _is_time_to_decide(self) -> bool:
        return self._moment is not None and self._clock() >= self._moment

    async def _catch_up(self) -> None:
        starting = self.state is None
        for stored in await self._journal.read_on():
            self._fold(stored)
            if stored.entry.writer == self._writer:
                self._outbox.announce(stored)  # appended by a call that seemed to fail
        if starting:
            self.repeat_newest()

    async def _append(self, proposals: list[Proposed]) -> None:
        for proposed in proposals:
            entry = self._journal.draft(proposed.body, cause=proposed.cause)
            after = evolve(self.state, entry)  # first: what cannot follow must never be written
            stored = await self._journal.append(entry)
            self._adopt(stored, after)
            self._outbox.announce(stored)
            log.info(f"{proposed.body.noun}_{proposed.body.verb}", experiment=self.name, entry=stored.entry.number)

    def _fold(self, stored: Stored) -> None:
        try:
            after = evolve(self.state, stored.entry)
        except IllegalTransitionError as error:
            raise JournalBrokenError(self.name, stored.entry.number, str(error)) from None
        self._adopt(stored, after)

    def _adopt(self, stored: Stored, state: State) -> None:
        self.state = state
        self._newest = stored
        self._rubbish = self._rubbish or isinstance(stored.entry.body, Pruned)

    async def _act(self, observed: Observed) -> None:
        assert self.state is not None  # noqa: S101 - it was looked at
        await self._outbox.speak(self.state, due(self.state, observed.answers), self._clock())
        if self._rubbish:
            await delete_pruned(self._store, self.state, since=self._deleted_to)
            self._deleted_to, self._rubbish = self.state.updates_pruned_to, False

    # --- commands ----------------------------------------------------------------------------------------------------

    async def carry_out(self, command: ExperimentCommand, command_id: str) -> Refusal | None:
        """Carry out a researcher's command, once.

        Raises:
            StoreUnavailableError: try again; JournalBrokenError: the experiment stands still.
        """
        self.wake()  # keeps the loop of an ended experiment alive until this is carried out
        async with self._lock:
            while True:
                observed = await self._look()
                if observed is None or self.state is None:
                    return Refusal("unknown_experiment", f"there is no experiment '{self.name}'")
                led_to = carry_out(self.state, command, command_id, observed.answers)
                if isinstance(led_to, Refusal):
                    return led_to
                with contextlib.suppress(JournalMovedError):
                    await self._append(led_to)
                    if not led_to:
                        self.repeat_newest()
                    self.wake()
                    return None
