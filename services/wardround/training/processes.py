"""What the kernel is asked for, so that no process of a training outlives it. Linux; elsewhere less is promised."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends in any way, be it by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def be_the_child(
    work: Callable[[], int], parent: int, not_its_own: tuple[int, ...], *, handled: tuple[signal.Signals, ...]
) -> NoReturn:
    """What a fork does: `work`, in a process group of its own that dies with its parent, and then nothing else.

    Args:
        not_its_own: files of the parent, which are closed here.
        handled: signals that the parent handles, and the child not.
    """
    status = 1
    try:
        os.setpgid(0, 0)
        die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        for file in not_its_own:
            os.close(file)
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def adopt_orphans() -> None:
    """Have what this process's children leave behind become its own children."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_group(leader: int, number: int) -> None:
    """Signal a process group, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):  # macOS forbids what Linux does not find
        os.killpg(leader, number)


def kill_children() -> None:
    """SIGKILL to every child of this process; with `adopt_orphans`, theirs are children at the next call."""
    for child in _children():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(child, signal.SIGKILL)


def _children() -> Iterator[int]:
    me = os.getpid()
    with suppress(FileNotFoundError), os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and _parent(entry.path) == me:
                yield int(entry.name)


def _parent(folder: str) -> int | None:
    try:
        with open(f"{folder}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):  # it ended meanwhile
        return None
