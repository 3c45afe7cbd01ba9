"""An agent on duty: its inbox is open, it hears commands, carries them out, and says once a minute what it does."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import TypeVar

import structlog

from wardround.runtime.bus.messaging import Messenger, Received
from wardround.runtime.bus.port import DeadLetterError
from wardround.site_agent.enrolment import Enrolment
from wardround.site_agent.forgetting import forget
from wardround.site_agent.hand import STOPPED, WITHDRAWN, Hand
from wardround.site_agent.hands import Hands
from wardround.site_agent.inbox import IdReusedError
from wardround.site_agent.patience import NO_TRAINERS
from wardround.site_agent.site import Site
from wardround.site_agent.standstill import WORDS, Stopped
from wardround.site_agent.trainers import TrainersError
from wardround.site_agent.work import Work
from wardround_messages.commands import CancelTask, OfferExperiment, StartTask
from wardround_messages.events import SiteSeen
from wardround_messages.names import GlobalKey, TaskId, parse_key, parse_task_id, site_queue
from wardround_messages.objects import Consent
from wardround_messages.parts import Trainer
from wardround_messages.registry import SITE_READS

log = structlog.get_logger()

T = TypeVar("T")

SEEN_EVERY = 60.0  # seconds
STOPS_WITHIN = 5.0  # seconds in which most tasks in hand have ended when a person stops the clinic
VERSION = version("wardround")


class Duty:
    """Work of an agent between start and stop. `ignored` counts the messages that came again."""

    def __init__(self, site: Site, messenger: Messenger, group: asyncio.TaskGroup, ready: asyncio.Event) -> None:
        self.enrolment = Enrolment(site)
        self.ignored = 0
        self._site = site
        self._messenger = messenger
        self._group = group
        self._ready = ready
        self._work = Work(site, self.enrolment)
        self._hands = Hands(site, lambda hand: self._spawn(self._work.carry_out, hand))
        self._offers: set[str] = set()
        self._reconnected = asyncio.Event()
        self._stands_still = site.standstill.word is not None
        self._ended_unasked: dict[asyncio.Task[None], TaskId] = {}  # by `heed`, and told when a person asks for it
        self._over = False

    async def run(self) -> None:
        """Take up what was left, then hear commands until cancelled."""
        try:
            self._take_up_what_was_left()
            self._group.create_task(forget(self._site))
            await self._hear()
        finally:
            self._over = True

    async def _hear(self) -> None:
        self._messenger.bus.on_connect(self._reconnected.set)
        subscription = await self._site.patience(
            lambda: self._messenger.listen(site_queue(self._site.name), self._on_message)
        )
        try:
            await self._be_seen()
        finally:
            await subscription.close()

    @property
    def site_name(self) -> str:
        return self._site.name

    @property
    def stopped(self) -> Stopped | None:
        """The word that stopped the clinic; None while it works."""
        return self._site.standstill.word

    @property
    def trouble(self) -> str | None:
        """Why the clinic does not do all that is asked of it, in words that may leave it; None while it does."""
        return WORDS if self.stopped is not None else self.waits_for

    @property
    def waits_for(self) -> str | None:
        """What is away, and waited for; None while nothing is."""
        return self._site.patience.trouble

    @property
    def tasks(self) -> tuple[Hand, ...]:
        """The tasks in hand, to be looked at."""
        return self._hands.all

    @property
    def at_most(self) -> int | None:
        """How many bytes per second models and updates may take together; None where nothing limits them."""
        return None if self._site.limit is None else self._site.limit.per_second

    # --- a person's word ---------------------------------------------------------------------------------------------

    async def approve(self, experiment: str, *, by: str, reason: str) -> tuple[Consent, ...]:
        """The consents that follow, which leave the clinic soon; see `Enrolment.approve`."""
        given = await self.enrolment.approve(experiment, by=by, reason=reason)
        self._spawn(self.enrolment.store, experiment)
        return given

    async def refuse(self, experiment: str, *, by: str, reason: str) -> tuple[Consent, ...]:
        """The consents that follow, which leave the clinic soon; see `Enrolment.refuse`."""
        given = await self.enrolment.refuse(experiment, by=by, reason=reason)
        self._spawn(self.enrolment.store, experiment)
        return given

    async def withdraw(self, experiment: str, *, by: str, reason: str) -> tuple[Consent, ...]:
        """Take the consent to an experiment back; its tasks in hand end, and count as refused.

        Returns the consents that follow, which leave the clinic soon; see `Enrolment.withdraw`.
        """
        await self._hands.end_those_of(experiment, WITHDRAWN)
        given = await self.enrolment.withdraw(experiment, by=by, reason=reason)
        await self._hands.end_those_of(experiment, WITHDRAWN)  # and those that came before the withdrawal counted
        self._spawn(self.enrolment.store, experiment)
        return given

    async def stop(self, *, by: str, reason: str) -> Mapping[TaskId, bool]:
        """Stop the clinic: tasks in hand end and count as refused, offers wait, nothing but such answers leaves.

        Returns, within seconds, the tasks that were in hand, and of each whether it is over. Those count, too, that
        ended since the clinic stopped: whoever stops it may write `stopped.json` first.

        Raises:
            OSError: it cannot be made to outlast a restart; what is in hand is stopped all the same.
        """
        workers = self._hands.workers
        try:
            self._site.standstill.begin(at=self._site.clock(), by=by, reason=reason)
        finally:
            # Not left to `heed`: the clinic may have stood still before, been resumed unnoticed, or not be able to
            # note it down.
            self._spawn(self._hands.end_all, STOPPED)
        self.heed()
        workers |= self._ended_unasked
        self._ended_unasked = {}
        self._note("stop", by, reason)
        if workers:
            await asyncio.wait(workers, timeout=STOPS_WITHIN)
        return {task: worker.done() for worker, task in workers.items()}

    async def resume(self, *, by: str, reason: str) -> None:
        """Let the clinic work again: offers that waited are answered, and new tasks done. Raises `OSError`."""
        if self._site.standstill.end():
            self._note("resume", by, reason)
        self.heed()

    def heed(self) -> None:
        """Do what follows where the clinic was stopped, or resumed, since this was called last."""
        stood, self._stands_still = self._stands_still, self.stopped is not None
        if self._stands_still and not stood:
            self._ended_unasked = self._hands.workers
            self._spawn(self._hands.end_all, STOPPED)
        elif stood and not self._stands_still:
            self._ended_unasked = {}
            for experiment in self._site.inbox.experiments_to_store():
                self._spawn(self.enrolment.store, experiment)
            for offer in self._site.inbox.open_offers():
                self._spawn(self.enrolment.answer, offer)
        if stood != self._stands_still:
            log.warning("stopped" if self._stands_still else "resumed", site=self._site.name)
            self._reconnected.set()  # the hub is told at once

    def _note(self, action: str, by: str, reason: str) -> None:
        """In the log, as soon as it takes it: nothing waits for that."""
        self._spawn(self._record, (action, by, reason))

    async def _record(self, word: tuple[str, str, str]) -> None:
        action, by, reason = word
        await self._site.log("person", action=action, by=by, reason=reason)

    # --- commands ------------------------------------------------------------------------------------------------

    async def _on_message(self, received: Received) -> None:
        if self._over:
            # Subscribed just as the agent was stopped: the message is held until the connection closes and gives it
            # back; given back at once it would come again and again until its delivery limit is spent.
            await asyncio.Event().wait()
        command = received.message
        if not isinstance(command, OfferExperiment | StartTask | CancelTask):
            raise DeadLetterError("unexpected_type", f"a site has no use for {command.type}")
        if command.site != self._site.name:
            raise DeadLetterError("wrong_site", f"this is {self._site.name}")
        if isinstance(command, StartTask):
            _check_model(command)
        try:
            new = await self._site.write(self._site.inbox.take, command, at=self._site.clock())
        except IdReusedError as error:
            log.warning("security", event_kind="id_reused", login=received.login, message_id=command.id)
            raise DeadLetterError("id_reused", str(error)) from None
        if not new:
            self.ignored += 1
        # What came again is seen to as well, unless it is seen to already: what was begun may have come to nothing.
        match command:
            case OfferExperiment() if command.id not in self._offers:
                self._answer(command)
            case StartTask() if command.task_id not in self._hands:
                self._hands.take_up(command)
            case CancelTask():
                if hand := self._hands.get(command.task_id):
                    hand.cancel(command.reason)

    def _answer(self, offer: OfferExperiment) -> None:
        self._offers.add(offer.id)
        self._spawn(self.enrolment.answer, offer).add_done_callback(lambda _: self._offers.remove(offer.id))

    def _take_up_what_was_left(self) -> None:
        inbox, spool = self._site.inbox, self._site.settings.paths.spool
        spool.mkdir(parents=True, exist_ok=True)
        for folder in spool.iterdir():
            with suppress(ValueError):
                if inbox.has_ended(parse_task_id(folder.name)):
                    shutil.rmtree(folder, ignore_errors=True)
        for experiment in inbox.experiments_to_store():
            self._spawn(self.enrolment.store, experiment)
        for offer in inbox.open_offers():
            self._answer(offer)
        for start in inbox.tasks_in_hand():
            self._hands.take_up(start)

    def _spawn(self, work: Callable[[T], Awaitable[None]], what: T) -> asyncio.Task[None]:
        return self._group.create_task(_never_raising(work, what))

    # --- being seen ----------------------------------------------------------------------------------------------

    async def _be_seen(self) -> None:
        while True:
            self._reconnected.clear()
            await self._messenger.send(await self._seen())
            self._ready.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(SEEN_EVERY):
                    await self._reconnected.wait()

    async def _seen(self) -> SiteSeen:
        site, slots = self._site, self._site.settings.scheduler.slots
        busy = sum(hand.phase in ("queued", "training") for hand in self._hands.all)
        trouble = self.trouble
        try:
            trainers = await site.catalogue()
        except TrainersError as error:
            log.warning("no_trainers", error=str(error))
            trainers, trouble = (), NO_TRAINERS
        return SiteSeen(
            site=site.name,
            agent_version=VERSION,
            reads=SITE_READS,
            trainers=tuple(
                Trainer(name=each.name, version=each.version, code_sha256=each.code_sha256) for each in trainers[:100]
            ),
            datasets=tuple(sorted(site.settings.datasets)[:100]),
            slots=slots,
            free=max(0, slots - busy),
            tasks=tuple(hand.seen() for hand in self._work.in_turn(self._hands.all)[:200]),
            status="ok" if trouble is None else "degraded",
            detail=trouble or "",
        )


def _check_model(start: StartTask) -> None:
    if start.model is not None and not isinstance(parse_key(start.model.key), GlobalKey):
        raise DeadLetterError("no_global_model", "a task builds on a global model and on nothing else")


async def _never_raising(work: Callable[[T], Awaitable[None]], what: T) -> None:
    """What goes wrong with one task or offer does not stop the others; it is taken up again when the hub repeats it,
    or at the next start."""
    try:
        await work(what)
    except Exception:
        log.exception("left_for_later")
