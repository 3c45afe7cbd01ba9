"""The word of a person at the clinic that everything stops: a file beside the inbox, read again at every step."""

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from wardround.runtime.on_disk import sync_folder
from wardround.runtime.regular_file import open_regular
from wardround_messages.base import Model, Text, Timestamp, canonical_json

FILE = "stopped.json"
AT_MOST = 16 * 1024
CODE: Final = "site_stopped"  # why nothing is allowed meanwhile; code and words may leave the clinic, a reason does not
WORDS = "a person at the clinic has stopped all work there"
UNREADABLE = "the file cannot be read"


class Stopped(Model):
    """Who stopped the clinic, when and why. For the clinic's own eyes."""

    v: Literal[1] = 1
    at: Timestamp | None = None
    by: Text = ""
    reason: Text = ""


class Standstill:
    """Whether the clinic is stopped. It stays so over every restart, until somebody ends it."""

    def __init__(self, inbox: Path) -> None:
        self.path = inbox.with_name(FILE)

    @property
    def word(self) -> Stopped | None:
        """The word that stopped the clinic; None while work goes on. A file that cannot be read stops it as well."""
        try:
            with open_regular(self.path, follow=True) as file:
                return Stopped.model_validate_json(file.read(AT_MOST))
        except FileNotFoundError:
            return Stopped(reason=UNREADABLE) if self.path.is_symlink() else None
        except (OSError, ValidationError):
            return Stopped(reason=UNREADABLE)

    def begin(self, *, at: datetime, by: str, reason: str) -> bool:
        """Stop the clinic; False where it is stopped already, and the first word stands.

        Raises:
            OSError: there can be no such file, so nothing is stopped.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        try:
            # That the file is there is what stops the clinic: with a full disk it is there without the words.
            with suppress(OSError):
                os.fchmod(descriptor, 0o644)  # the agent reads it, also where root with a umask of its own stops it
                os.write(descriptor, canonical_json(Stopped(at=at, by=by, reason=reason)))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self.path.parent)
        return True

    def end(self) -> bool:
        """Work may go on; False where nothing stood still. Raises `OSError`."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(self.path.parent)
        return True
