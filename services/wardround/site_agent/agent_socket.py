"""The Unix socket on which a running agent listens to the people at its clinic, and what is said there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround_messages.base import Model, Text

SOCKET = "agent.sock"


class Word(Model):
    """What a person says with a command: who it is, and why."""

    by: Text
    reason: Text = ""


def socket_of(inbox: Path) -> Path:
    """Where the agent that works on this inbox listens."""
    return inbox.with_name(SOCKET)


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of the socket that fits into an address, good inside the block.

    An address holds 107 bytes of a name (`sun_path` in unix(7)), and the folders of inboxes may be longer: an open
    folder has a short name of its own.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
