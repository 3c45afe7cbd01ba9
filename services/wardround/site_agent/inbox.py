"""What a site must not forget: commands taken, consents given, tasks and their ends, in one SQLite file.

One connection, used in place: each call takes well under a millisecond, and a command is on disk before it is acked.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from wardround.site_agent.inbox_file import open_database
from wardround_messages.base import canonical_json, digest
from wardround_messages.commands import CancelTask, OfferExperiment, StartTask, ToSite
from wardround_messages.manifest import Manifest
from wardround_messages.names import TaskId
from wardround_messages.objects import Consent

REMEMBERED = timedelta(days=30)

_OF_AN_EXPERIMENT = ("manifests", "offers", "consents", "tasks", "cancels")


class IdReusedError(Exception):
    """A message came with an id that was taken by another content."""


class Inbox:
    """Open with `Inbox.open`; every method that writes is one transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, durable: bool = True) -> Iterator[Self]:
        """The inbox in the file `path`, made if there is none. With `durable` each write is on disk when it returns.

        Raises:
            InboxInUseError: another agent holds it; InboxError: it is of a later version, or no inbox.
        """
        with open_database(path, durable=durable) as database:
            yield cls(database)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    # --- messages ------------------------------------------------------------------------------------------------

    def take(self, command: OfferExperiment | StartTask | CancelTask, *, at: datetime) -> bool:
        """Record a command with what follows from it; False where the same one was recorded before.

        Raises:
            IdReusedError: the id stands for another content.
        """
        body = canonical_json(command)
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO experiments VALUES (?, ?)", (command.experiment, at.timestamp()))
            if not self._is_new(command, digest(body), at):
                return False
            match command:
                case OfferExperiment():
                    database.execute(
                        "INSERT OR IGNORE INTO offers (id, experiment, body) VALUES (?, ?, ?)",
                        (command.id, command.experiment, body),
                    )
                    self._keep_manifest(command.manifest)
                case StartTask():
                    database.execute(
                        "INSERT OR IGNORE INTO tasks (id, experiment, manifest, round, task, attempt, body)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            str(command.task_id),
                            command.experiment,
                            command.manifest_sha256,
                            command.round,
                            command.task,
                            command.attempt,
                            body,
                        ),
                    )
                case CancelTask():
                    self._cancel(command.task_id, command.reason)
            return True

    def _is_new(self, command: ToSite, sha256: str, at: datetime) -> bool:
        known = self._database.execute("SELECT sha256 FROM messages WHERE id = ?", (command.id,)).fetchone()
        if known is None:
            self._database.execute("INSERT INTO messages VALUES (?, ?, ?)", (command.id, sha256, at.timestamp()))
            return True
        if known[0] != sha256:
            raise IdReusedError(f"{command.id} came before with another content")
        return False

    def forget_messages(self, *, now: datetime) -> None:
        """Forget the ids of messages older than 30 days; what they led to is kept."""
        self._database.execute("DELETE FROM messages WHERE at < ?", ((now - REMEMBERED).timestamp(),))

    def silent_experiments(self, *, now: datetime) -> tuple[str, ...]:
        """Experiments whose last message is older than 30 days, and of which nothing is left to do."""
        rows = self._database.execute(
            "SELECT name FROM experiments WHERE heard < ?"
            " AND NOT EXISTS (SELECT 1 FROM tasks WHERE experiment = name AND outcome IS NULL)"
            " AND NOT EXISTS (SELECT 1 FROM offers WHERE experiment = name AND answered = 0)"
            " AND NOT EXISTS (SELECT 1 FROM consents WHERE experiment = name AND stored = 0)",
            ((now - REMEMBERED).timestamp(),),
        ).fetchall()
        return tuple(name for (name,) in rows)

    def forget_experiment(self, experiment: str) -> None:
        """Forget all that is known of it; should it be heard of again, consents and manifest are in the store."""
        with self._transaction() as database:
            for table in _OF_AN_EXPERIMENT:
                database.execute(f"DELETE FROM {table} WHERE experiment = ?", (experiment,))  # noqa: S608
            database.execute("DELETE FROM experiments WHERE name = ?", (experiment,))

    # --- offers and consents -------------------------------------------------------------------------------------

    def open_offers(self) -> tuple[OfferExperiment, ...]:
        """Offers taken and not answered yet, in the order in which they were made."""
        rows = self._database.execute("SELECT body FROM offers WHERE answered = 0").fetchall()
        return _in_order(rows)

    def offers_of(self, experiment: str) -> tuple[OfferExperiment, ...]:
        """All offers of the experiment, in the order in which they were made."""
        return _in_order(
            self._database.execute("SELECT body FROM offers WHERE experiment = ?", (experiment,)).fetchall()
        )

    def is_open(self, offer: OfferExperiment) -> bool:
        """Whether the offer waits for its answer."""
        row = self._database.execute("SELECT 1 FROM offers WHERE id = ? AND answered = 0", (offer.id,)).fetchone()
        return row is not None

    def manifest(self, sha256: str) -> Manifest | None:
        row = self._database.execute("SELECT body FROM manifests WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None else Manifest.model_validate_json(row[0])

    def keep_manifest(self, manifest: Manifest) -> None:
        with self._transaction():
            self._keep_manifest(manifest)

    def _keep_manifest(self, manifest: Manifest) -> None:
        self._database.execute(
            "INSERT OR IGNORE INTO manifests VALUES (?, ?, ?)",
            (manifest.sha256, manifest.id, canonical_json(manifest)),
        )

    def consent(self, experiment: str, manifest_sha256: str) -> Consent | None:
        """The newest consent of this site to that manifest."""
        row = self._database.execute(
            "SELECT body FROM consents WHERE experiment = ? AND manifest = ? ORDER BY number DESC LIMIT 1",
            (experiment, manifest_sha256),
        ).fetchone()
        return None if row is None else Consent.model_validate_json(row[0])

    def consents_to(self, experiment: str) -> tuple[Consent, ...]:
        """The newest consent to each manifest of the experiment."""
        manifests = self._database.execute(
            "SELECT DISTINCT manifest FROM consents WHERE experiment = ?", (experiment,)
        ).fetchall()
        found = (self.consent(experiment, manifest) for (manifest,) in manifests)
        return tuple(consent for consent in found if consent is not None)

    def experiments_to_store(self) -> tuple[str, ...]:
        """Experiments with a consent that was decided and is not known to be in the store."""
        rows = self._database.execute(
            "SELECT DISTINCT experiment FROM consents WHERE stored = 0 ORDER BY experiment"
        ).fetchall()
        return tuple(name for (name,) in rows)

    def consents_to_store(self, experiment: str) -> tuple[Consent, ...]:
        """Consents to the experiment that were decided and are not known to be in the store."""
        rows = self._database.execute(
            "SELECT body FROM consents WHERE stored = 0 AND experiment = ? ORDER BY manifest, number", (experiment,)
        ).fetchall()
        return tuple(Consent.model_validate_json(body) for (body,) in rows)

    def keep_consent(self, consent: Consent, *, answers: str | None = None, stored: bool = False) -> None:
        """Record a consent; `answers` is the id of the offer that it answers."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO consents VALUES (?, ?, ?, ?, ?)",
                (
                    consent.experiment,
                    consent.manifest_sha256,
                    consent.number,
                    canonical_json(consent),
                    stored,
                ),
            )
            if answers is not None:
                database.execute("UPDATE offers SET answered = 1 WHERE id = ?", (answers,))

    def renumber_consent(self, consent: Consent, number: int) -> Consent:
        """The number was taken in the store by another content: the same consent under a higher one."""
        renumbered = consent.model_copy(update={"number": number})
        with self._transaction() as database:
            database.execute(
                "UPDATE consents SET number = ?, body = ? WHERE experiment = ? AND manifest = ? AND number = ?",
                (
                    number,
                    canonical_json(renumbered),
                    consent.experiment,
                    consent.manifest_sha256,
                    consent.number,
                ),
            )
        return renumbered

    def consent_is_stored(self, consent: Consent) -> None:
        self._database.execute(
            "UPDATE consents SET stored = 1 WHERE experiment = ? AND manifest = ? AND number = ?",
            (consent.experiment, consent.manifest_sha256, consent.number),
        )

    # --- tasks ---------------------------------------------------------------------------------------------------

    def tasks_in_hand(self) -> tuple[StartTask, ...]:
        """Tasks without an end: those in training first, of each task the lower attempts first."""
        rows = self._database.execute(
            "SELECT body FROM tasks WHERE outcome IS NULL ORDER BY trainings = 0, id"
        ).fetchall()
        return tuple(StartTask.model_validate_json(body) for (body,) in rows)

    def newest_attempt(self, task: TaskId) -> int:
        """The highest attempt taken of this site's task, 0 where there is none."""
        row = self._database.execute(
            "SELECT max(attempt) FROM tasks WHERE experiment = ? AND round = ? AND task = ?",
            (task.experiment, task.round, task.task),
        ).fetchone()
        return row[0] or 0

    def newest_round(self, experiment: str) -> int:
        """The highest round in which this site was given a task, -1 where there is none."""
        row = self._database.execute("SELECT max(round) FROM tasks WHERE experiment = ?", (experiment,)).fetchone()
        return -1 if row[0] is None else row[0]

    def trainings(self, task: TaskId) -> int:
        """How many trainings were asked of the scheduler for this task."""
        row = self._database.execute("SELECT trainings FROM tasks WHERE id = ?", (str(task),)).fetchone()
        return 0 if row is None else row[0]

    def count_training(self, task: TaskId) -> None:
        self._database.execute("UPDATE tasks SET trainings = trainings + 1 WHERE id = ?", (str(task),))

    def end(self, task: TaskId, outcome: str) -> None:
        self._database.execute("UPDATE tasks SET outcome = ? WHERE id = ?", (outcome, str(task)))

    def has_ended(self, task: TaskId) -> bool:
        row = self._database.execute(
            "SELECT 1 FROM tasks WHERE id = ? AND outcome IS NOT NULL", (str(task),)
        ).fetchone()
        return row is not None

    def cancel(self, task: TaskId, reason: str) -> None:
        with self._transaction():
            self._cancel(task, reason)

    def _cancel(self, task: TaskId, reason: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO cancels VALUES (?, ?, ?)", (str(task), task.experiment, reason))

    def cancelled(self, task: TaskId) -> str | None:
        """Why the task was cancelled, also where it is not known yet."""
        row = self._database.execute("SELECT reason FROM cancels WHERE task = ?", (str(task),)).fetchone()
        return None if row is None else row[0]


def _in_order(rows: list[tuple[bytes]]) -> tuple[OfferExperiment, ...]:
    offers = (OfferExperiment.model_validate_json(body) for (body,) in rows)
    return tuple(sorted(offers, key=lambda offer: (offer.experiment, offer.offer)))
