"""What a site must not forget: commands taken, consents given, tasks and their ends, in one SQLite file.

One connection, used in place: each call takes well under a millisecond, and a command is on disk before it is acked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from wardround.site_agent.inbox_consents import ConsentsKept
from wardround.site_agent.inbox_file import open_database, read_database
from wardround_messages.base import canonical_json, digest
from wardround_messages.commands import CancelTask, OfferExperiment, StartTask, ToSite
from wardround_messages.names import TaskId
from wardround_messages.parts import Failure

REMEMBERED = timedelta(days=30)

_OF_AN_EXPERIMENT = ("manifests", "offers", "consents", "tasks", "cancels", "given_up")


class IdReusedError(Exception):
    """A message came with an id that was taken by another content."""


class Inbox(ConsentsKept):
    """Open with `Inbox.open`, or with `Inbox.read` to look only; every method that writes is one transaction."""

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, durable: bool = True) -> Iterator[Self]:
        """The inbox in the file `path`, made if there is none. With `durable` each write is on disk when it returns.

        Raises:
            InboxInUseError: another agent holds it; InboxError: it is of a later version, or no inbox.
        """
        with open_database(path, durable=durable) as database:
            yield cls(database)

    @classmethod
    @contextmanager
    def read(cls, path: Path) -> Iterator[Self]:
        """The inbox as it stands now, to look at only, whether an agent works on it or not.

        Raises:
            InboxError: there is none, or it may not be read.
        """
        with read_database(path) as database:
            yield cls(database)

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
                    self._supersede_offers(command.experiment, command.manifest_sha256)
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

    # --- tasks ---------------------------------------------------------------------------------------------------

    def tasks_in_hand(self) -> tuple[StartTask, ...]:
        """Tasks without an end: those in training first, then as they came; what came a month ago came first."""
        rows = self._database.execute(
            "SELECT body FROM tasks LEFT JOIN messages ON messages.id = 'start.' || tasks.id"
            " WHERE outcome IS NULL ORDER BY trainings = 0, at, tasks.id"
        ).fetchall()
        return tuple(StartTask.model_validate_json(body) for (body,) in rows)

    def experiments_served(self) -> tuple[str, ...]:
        """All experiments with tasks: first those that none was trained for, as they came, then the others, the one
        whose latest training was of the task that came last at the end."""
        rows = self._database.execute(
            "SELECT experiment FROM tasks LEFT JOIN messages ON messages.id = 'start.' || tasks.id GROUP BY experiment"
            " ORDER BY max(CASE WHEN trainings > 0 THEN at END) NULLS FIRST, min(at), experiment"
        ).fetchall()
        return tuple(experiment for (experiment,) in rows)

    def outcomes(self, experiment: str) -> dict[str | None, int]:
        """How many tasks of the experiment ended in which way; None counts those in hand."""
        rows = self._database.execute(
            "SELECT outcome, count(*) FROM tasks WHERE experiment = ? GROUP BY outcome ORDER BY outcome", (experiment,)
        ).fetchall()
        return dict(rows)

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

    def give_up(self, task: TaskId, failure: Failure) -> None:
        """Remember why no further training of the task may begin."""
        row = (str(task), task.experiment, canonical_json(failure))
        self._database.execute("INSERT OR REPLACE INTO given_up VALUES (?, ?, ?)", row)

    def given_up(self, task: TaskId) -> Failure | None:
        row = self._database.execute("SELECT failure FROM given_up WHERE task = ?", (str(task),)).fetchone()
        return None if row is None else Failure.model_validate_json(row[0])

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
