"""Never two trainings at a time in a task's folder, be they of two agents or of a scheduler that starts one twice."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from wardround_messages.task_folder import LOCK

logger = logging.getLogger(__name__)


class FolderLock:
    """A file that one process at a time holds locked; children that it forks hold it with it.

    Children that are new programs do not: they would hold it for as long as they are left behind.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def acquire(self) -> None:
        """Wait until nobody else holds it, however long: whoever cancels the task ends the wait by a signal.

        Raises:
            OSError: the file system knows no locks.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for the training that is at work in this folder")
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def note_beginning(self) -> None:
        """Write down that a training begins here: when, on which machine, as which process."""
        line = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {socket.gethostname()} {os.getpid()}\n"
        with suppress(OSError):  # on a full disk the training says so itself
            os.write(self._file, line.encode())


@contextmanager
def folder_lock(folder: Path) -> Iterator[FolderLock]:
    """The lock of a folder, not held yet; let go at the end, or when the last process that holds it ends.

    It is a file, as a folder on NFS cannot be locked from two machines, and open for writing, as NFS wants it.

    Raises:
        OSError: the folder is not there, or not writable.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(folder / LOCK, flags, 0o666)
    try:
        yield FolderLock(file)
    finally:
        os.close(file)
