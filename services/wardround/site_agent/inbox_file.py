"""The file of a site's inbox: one agent holds it, and its tables are those of this version."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

SCHEMA = 1

_TABLES = """
CREATE TABLE messages (id TEXT PRIMARY KEY, sha256 TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX messages_by_age ON messages (at);
CREATE TABLE experiments (name TEXT PRIMARY KEY, heard REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE manifests (sha256 TEXT PRIMARY KEY, experiment TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE offers (
  id TEXT PRIMARY KEY, experiment TEXT NOT NULL, body BLOB NOT NULL, answered INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE consents (
  experiment TEXT NOT NULL, manifest TEXT NOT NULL, number INTEGER NOT NULL,
  body BLOB NOT NULL, stored INTEGER NOT NULL,
  PRIMARY KEY (experiment, manifest, number)
) WITHOUT ROWID;
CREATE TABLE tasks (
  id TEXT PRIMARY KEY, experiment TEXT NOT NULL, manifest TEXT NOT NULL, round INTEGER NOT NULL,
  task TEXT NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL,
  trainings INTEGER NOT NULL DEFAULT 0, outcome TEXT
) WITHOUT ROWID;
CREATE INDEX tasks_by_step ON tasks (experiment, round, task);
CREATE INDEX tasks_in_hand ON tasks (outcome) WHERE outcome IS NULL;
CREATE TABLE cancels (task TEXT PRIMARY KEY, experiment TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
"""
# An inbox made before there was this table gets it, and an earlier agent does not mind it: no other version.
_ADDED = """
CREATE TABLE IF NOT EXISTS given_up (
  task TEXT PRIMARY KEY, experiment TEXT NOT NULL, failure BLOB NOT NULL
) WITHOUT ROWID
"""


class InboxError(Exception):
    """The inbox file cannot be used; the message says why."""


class InboxInUseError(InboxError):
    """Another agent works on this inbox."""


@contextmanager
def open_database(path: Path, *, durable: bool) -> Iterator[sqlite3.Connection]:
    """The database in the file `path`, made if there is none. With `durable` each write is on disk when it returns.

    Raises:
        InboxInUseError: another agent holds it; InboxError: it is of a later version, or no inbox.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lock file of its own: closing another descriptor of the database would drop SQLite's own locks.
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InboxInUseError(
                f"another agent works on the inbox {path}: stop it first, or give this one its own"
            ) from None
        try:
            database = sqlite3.connect(path, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise InboxError(f"{path} is no inbox that can be opened: {error}") from None
        try:
            _prepare(database, path, durable=durable)
            yield database
        finally:
            database.close()
    finally:
        os.close(lock)


@contextmanager
def read_database(path: Path) -> Iterator[sqlite3.Connection]:
    """The database in the file `path`, to look at as it stands; an agent that works on it is not disturbed.

    Raises:
        InboxError: there is none, it may not be read here, or it is of another version.
    """
    if not path.exists():
        raise InboxError(f"there is no inbox {path}: the agent has not run yet, or the settings are not its own")
    with closing(_opened_to_read(path)) as database:
        try:
            database.execute("BEGIN")  # all that is read is of one moment
            version = database.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise InboxError(f"the inbox {path} cannot be read: {error}") from None
        if version != SCHEMA:
            raise InboxError(f"the inbox {path} is of version {version}; this command reads {SCHEMA}")
        yield database


def _opened_to_read(path: Path) -> sqlite3.Connection:
    # Without a log beside it no agent is at work, and the file is all there is: unless it is called unchanging, SQLite
    # would make a log even to read, which needs more rights than to read, and leave it behind.
    options = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None)
    except sqlite3.DatabaseError as error:
        raise InboxError(f"{path} is no inbox that can be opened: {error}") from None


def _prepare(database: sqlite3.Connection, path: Path, *, durable: bool) -> None:
    try:
        database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        database.execute("PRAGMA journal_mode = WAL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
            version = SCHEMA
        if version == SCHEMA:
            database.execute(_ADDED)
    except sqlite3.DatabaseError as error:
        raise InboxError(f"{path} is no inbox that can be opened: {error}") from None
    if version != SCHEMA:
        raise InboxError(f"the inbox {path} is of version {version}; this agent reads {SCHEMA}: use the newer agent")
