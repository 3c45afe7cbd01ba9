"""A hub as a researcher and an operator use it, from Python: built on the ports, so it works on any adapter."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wardround.client import hubs
from wardround.client.checked import Checked, read_checked
from wardround.client.dead import DeadLetters, Parked
from wardround.client.errors import NoAnswerError, RefusedError, UnusableError, unknown_experiment
from wardround.client.follower import Follower, concerns
from wardround.client.journals import count_entries, read_entry, read_history
from wardround.client.listening import Ear
from wardround.client.listing import summaries
from wardround.client.models import GlobalModel, Which, fetch_model, find_model
from wardround.client.reach import Reach
from wardround.client.report.material import RunRead
from wardround.client.report.reading import read_run
from wardround.client.sites import SiteShown, read_sites
from wardround.metrics.history import History
from wardround.metrics.summary import Summary
from wardround.metrics.view import ExperimentView
from wardround.runtime.bus.messaging import Received
from wardround.runtime.bus.port import BusError
from wardround.runtime.patience import patiently
from wardround.runtime.store.download import keep_on
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError, StoreUnavailableError
from wardround.runtime.store.transfer import file_digest
from wardround_messages.commands import (
    AbortExperiment,
    ExtendExperiment,
    PauseExperiment,
    ReadmitSite,
    ResumeExperiment,
    StartExperiment,
)
from wardround_messages.events import EntryRecorded, Refused
from wardround_messages.journal import ExperimentAccepted
from wardround_messages.manifest import Brought, Manifest
from wardround_messages.names import MODELS_BUCKET, brought_model_key

LOOK_EVERY = 1.0  # while an answer is waited for: its event may be lost
GLANCE_EVERY = 15.0  # while an experiment is watched, for the same reason
STREAM_BEGINS_WITHIN = 3.0
STREAM_ENDS_AFTER = 1.0
STREAM_QUIET_AFTER = 0.3
OVERHEARD_AT_MOST = 2000  # messages; each site says at least one a minute
OVERHEARS_WITHIN = 5.0

ExperimentCommand = PauseExperiment | ResumeExperiment | AbortExperiment | ExtendExperiment | ReadmitSite


@dataclass(frozen=True, slots=True)
class Started:
    """The hub has accepted the experiment; `new` is False where it had it already, with the same content."""

    experiment: str
    new: bool


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """A command is carried out; `entry` is the journal entry it led to, None where nothing was left to do."""

    experiment: str
    entry: int | None


@asynccontextmanager
async def connect(name: str | None = None, *, insecure_lab: bool = False) -> AsyncIterator["Hub"]:
    """The hub of a profile in `hubs.toml`; without a name, of the default one.

    Raises:
        SettingsError, UnusableError, UnencryptedError, SecretUnreadableError: the profile cannot be used.
    """
    async with Hub(hubs.open_hub(name, insecure_lab=insecure_lab)) as hub:
        yield hub


class Hub(Reach):
    """One hub, as one login. Close it, or use it as an asynchronous context.

    Every method may raise `StoreUnavailableError` and `AccessDeniedError`, and those that speak or listen
    `BusUnavailableError` and `ForbiddenError`; an outage is waited out for at most `answers_within` seconds.
    """

    # --- starting ----------------------------------------------------------------------------------------------------

    async def start(self, manifest: Manifest, *, brought: Path | None = None) -> Started:
        """Start an experiment, and return when the hub has accepted it. The same manifest again changes nothing.

        Args:
            brought: the file of the first model, where the manifest says that one is brought; it is stored first.

        Raises:
            RefusedError: the hub refuses it; NoAnswerError: it has not said anything yet.
            UnusableError: `brought` is not the model that the manifest names.
        """
        if (started := await self._bounded(lambda: self._accepted(manifest, ""))) is not None:
            return started
        if brought is not None:
            await self._bring(manifest, brought)
        command = StartExperiment(manifest=manifest)
        async with (
            self._speaking(concerns(command.experiment)) as (ear, messenger),
            self._answering(command.experiment),
        ):
            command_id = await messenger.send(command, give_up_after=self._patience)
            while True:
                if (started := await patiently(lambda: self._accepted(manifest, command_id))) is not None:
                    return started
                _raise_refusal(await ear.next(LOOK_EVERY), command_id)

    async def _accepted(self, manifest: Manifest, command_id: str) -> Started | None:
        """What the first entry of the journal says of it; None where there is none yet."""
        first = await read_entry(self._store, manifest.id, 0)
        if first is None:
            return None
        accepted = first.body
        if not isinstance(accepted, ExperimentAccepted) or accepted.manifest_sha256 != manifest.sha256:
            raise RefusedError(
                "exists", f"an experiment '{manifest.id}' with other content exists; choose another id with --id"
            )
        return Started(manifest.id, new=first.cause == command_id)

    async def _bring(self, manifest: Manifest, model: Path) -> None:
        initial = manifest.model.initial
        if not isinstance(initial, Brought):
            raise UnusableError("a model is brought, but the manifest names none that is")
        if await asyncio.to_thread(file_digest, model) != (initial.size, initial.sha256):
            raise UnusableError(f"{model} is not the model that the manifest names: it has changed since")

        async def put() -> None:
            try:
                await self._store.put(MODELS_BUCKET, brought_model_key(initial.sha256), model)
            except NotFoundError:
                await self._store.make_bucket(MODELS_BUCKET)
                await self._store.put(MODELS_BUCKET, brought_model_key(initial.sha256), model)

        await self._bounded(put)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def view(self, experiment: str) -> ExperimentView | None:
        """How the experiment stands; None where there is none.

        The store has all that counts. What clinics do just now is on the stream: it is left out where it cannot be
        heard.

        Raises:
            JournalBrokenError, IllegalEntryError: not even its first entry can be believed.
        """
        follower = Follower(self._store, experiment, clock=self._clock)
        await self._bounded(follower.look)
        if not follower.over:
            await self._overhear(follower)
        return follower.view()

    async def _overhear(self, follower: Follower) -> None:
        """Take in what the clinics said lately of what they do in the open step."""
        with suppress(TimeoutError, BusError, StoreUnavailableError):
            async with asyncio.timeout(OVERHEARS_WITHIN):
                end = await self._end_of_stream()
                if end is None:
                    return
                begin = max(end - OVERHEARD_AT_MOST, 0)
                async with self._speaking(follower.is_of_open_step, offset=begin) as (ear, _):
                    while not ear.has_all_up_to(end):
                        if (received := await ear.next(LOOK_EVERY)) is not None:
                            await follower.hear(received)

    async def watch(self, experiment: str) -> AsyncGenerator[ExperimentView, None]:
        """How the experiment stands, again and again as it goes on, until it has ended or its journal is broken.

        Once it has begun no outage ends it. Close it (`contextlib.aclosing`) where you leave before its end.

        Raises:
            NotThereError: there is no such experiment; otherwise as `view`.
        """
        follower = Follower(self._store, experiment, clock=self._clock)
        async with self._speaking(concerns(experiment)) as (ear, _):
            await self._bounded(follower.look)
            view = follower.view()
            if view is None:
                raise unknown_experiment(experiment)
            yield view
            while not follower.over:
                await self._go_on(follower, ear)
                if (newer := follower.view()) is not None and newer != view:
                    view = newer
                    yield view

    async def _go_on(self, follower: Follower, ear: Ear) -> None:
        """Take in all that was said meanwhile; look into the journal where nothing was, or something may be lost."""
        received = await ear.next(GLANCE_EVERY)
        if received is None:
            await patiently(follower.look)
        while received is not None:
            await patiently(partial(follower.hear, received))
            received = ear.heard_already()

    async def read_run(self, experiment: str) -> RunRead:
        """All that the store holds of the experiment, but for its weights; raises as `reading.read_run`."""
        return await self._bounded(lambda: read_run(self._store, experiment))

    async def experiments(self) -> tuple[Summary, ...]:
        """All experiments of the hub, the one changed last first."""
        return await self._bounded(lambda: summaries(self._store, clock=self._clock))

    async def checked(self, check: Manifest, of: Manifest, doing: Mapping[str, str]) -> Checked:
        """What the clinics answered to a check; raises as `read_checked`."""
        return await self._bounded(lambda: read_checked(self._store, check, of, doing))

    async def sites(self) -> tuple[SiteShown, ...]:
        """All clinics that the metrics service has heard of; raises as `read_sites`."""
        if self._to.profile is None:
            raise UnusableError("clinics are shown by the metrics service; this connection has no address for it")
        return await read_sites(self._to.profile)

    async def events(self, *, follow: bool = False, experiment: str | None = None) -> AsyncGenerator[Received, None]:
        """What is on the metrics stream: all that it holds, or what is said from now on, without end."""
        end = None if follow else await self._end_of_stream()
        if not follow and end is None:
            return
        async with self._speaking(_anything, offset="next" if follow else "first") as (ear, _):
            waited = 0.0
            while end is None or not ear.has_all_up_to(end):
                before = ear.reached
                received = await ear.next(GLANCE_EVERY if follow else STREAM_ENDS_AFTER)
                if received is not None and experiment in (None, getattr(received.message, "experiment", None)):
                    yield received
                if not follow:
                    waited = 0.0 if received is not None or ear.reached > before else waited + STREAM_ENDS_AFTER
                    if waited >= self._within:
                        raise NoAnswerError(f"the stream stopped at {ear.reached} of {end}; try again")

    async def _end_of_stream(self) -> int | None:
        """The offset of the stream's last message; None where it is empty."""
        async with self._speaking(_anything, offset="last") as (ear, _):  # a broker begins with the last few
            return await ear.until_quiet(within=STREAM_BEGINS_WITHIN, quiet=STREAM_QUIET_AFTER)

    # --- models ------------------------------------------------------------------------------------------------------

    async def model(self, experiment: str, which: Which) -> GlobalModel:
        """One of the experiment's global models; raises `NotThereError`."""
        return await self._bounded(lambda: find_model(self._store, experiment, which))

    async def fetch(self, experiment: str, which: Which, to: Path) -> GlobalModel:
        """The same as the file `to`, which appears only when its digest is right.

        An outage is waited out as ever, counted from the last byte that came. What had come when this ended otherwise
        is kept beside the file, and the same call goes on from there.

        Raises:
            NotThereError: there is no such model; DigestMismatchError: the store holds other bytes;
            OSError: the file cannot be written.
        """
        model = await self.model(experiment, which)
        passage = Passage(model.size)
        await keep_on(lambda: fetch_model(self._store, model, to, passage), passage, patient=self._bounded)
        return model

    # --- commands ----------------------------------------------------------------------------------------------------

    async def pause(self, experiment: str, reason: str = "") -> CarriedOut:
        """Open, ask and close nothing until resumed. These commands all raise `RefusedError` and `NoAnswerError`."""
        return await self._carry_out(
            PauseExperiment(experiment=experiment, reason=reason), lambda known: known.paused is not None
        )

    async def resume(self, experiment: str) -> CarriedOut:
        """Go on: the open step's time starts anew."""
        return await self._carry_out(ResumeExperiment(experiment=experiment), lambda _: False)

    async def abort(self, experiment: str, reason: str = "") -> CarriedOut:
        """End the experiment now; its models stay."""
        return await self._carry_out(
            AbortExperiment(experiment=experiment, reason=reason), lambda known: known.phase == "aborted"
        )

    async def extend(self, experiment: str, rounds: int) -> CarriedOut:
        """Train until there are `rounds` rounds in all, also after the experiment finished."""
        return await self._carry_out(
            ExtendExperiment(experiment=experiment, rounds=rounds),
            lambda known: known.rounds_planned == rounds and known.phase not in ("failed", "aborted"),
        )

    async def readmit(self, experiment: str, site: str) -> CarriedOut:
        """Ask a site that was set aside again."""
        return await self._carry_out(
            ReadmitSite(experiment=experiment, site=site),
            lambda known: not known.ended and site in known.sites and known.sites[site].set_aside is None,
        )

    async def _carry_out(self, command: ExperimentCommand, done: Callable[[History], bool]) -> CarriedOut:
        """Send it, and wait for the journal entry that it causes, or for the hub's no.

        A command that finds everything `done` leads to no entry: the hub says its newest one again, and only then is
        the whole journal worth reading.
        """
        experiment = command.experiment
        number = await self._bounded(lambda: count_entries(self._store, experiment))
        async with self._speaking(concerns(experiment)) as (ear, messenger), self._answering(experiment):
            command_id = await messenger.send(command, give_up_after=self._patience)
            looks_done = False
            while True:
                while (entry := await patiently(partial(read_entry, self._store, experiment, number))) is not None:
                    if entry.cause == command_id:
                        return CarriedOut(experiment, number)
                    number += 1
                if looks_done:  # and no entry up to there was this command's doing
                    return CarriedOut(experiment, None)
                received = await ear.next(LOOK_EVERY)
                _raise_refusal(received, command_id)
                if number > 0 and (received is None or _is_before(received, number)):
                    looks_done = done(await patiently(partial(read_history, self._store, experiment)))

    # --- dead letters ------------------------------------------------------------------------------------------------

    async def dead_letters(self) -> tuple[Parked, ...]:
        """What nobody could handle; needs an operator's login."""
        return await (await self._dead()).all()

    async def replay(self, id: str) -> Parked:  # noqa: A002 - what a person calls it
        """Send a dead letter's message again, as its sender; raises as `DeadLetters.replay`."""
        return await (await self._dead()).replay(id)

    async def drop(self, id: str) -> Parked:  # noqa: A002
        """Let go of a dead letter; raises `NotThereError`."""
        return await (await self._dead()).drop(id)

    async def _dead(self) -> DeadLetters:
        messenger = await self._messenger()
        return DeadLetters(messenger.bus, dead_key=messenger.dead_key)


def _anything(_: Received) -> bool:
    return True


def _is_before(received: Received, number: int) -> bool:
    """Whether it says a journal entry again."""
    return isinstance(received.message, EntryRecorded) and received.message.number < number


def _raise_refusal(received: Received | None, command_id: str) -> None:
    message = None if received is None else received.message
    if isinstance(message, Refused) and message.command == command_id:
        raise RefusedError(message.code, message.reason)
