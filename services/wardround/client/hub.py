"""A hub as a researcher and an operator use it, from Python: built on the ports, so it works on any adapter."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wardround.client import hubs
from wardround.client.dead import DeadLetters, Parked
from wardround.client.errors import RefusedError, UnusableError
from wardround.client.follower import concerns
from wardround.client.journals import count_entries, read_entry, read_history
from wardround.client.looking import LOOK_EVERY, Looking
from wardround.client.models import GlobalModel, Which, fetch_model, find_model
from wardround.metrics.history import History
from wardround.runtime.bus.messaging import Received
from wardround.runtime.patience import patiently
from wardround.runtime.store.download import keep_on
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError
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


class Hub(Looking):
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


def _is_before(received: Received, number: int) -> bool:
    """Whether it says a journal entry again."""
    return isinstance(received.message, EntryRecorded) and received.message.number < number


def _raise_refusal(received: Received | None, command_id: str) -> None:
    message = None if received is None else received.message
    if isinstance(message, Refused) and message.command == command_id:
        raise RefusedError(message.code, message.reason)
