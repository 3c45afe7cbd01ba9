"""A training that ends with the input of its process, or once it is stopped, and every process that it started too."""

import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from wardround.training.processes import adopt_orphans, be_the_child, kill_children, signal_group

GRACE = 0.3
"""Seconds between SIGTERM and SIGKILL."""
LOOKS_EVERY = 1.0
"""Seconds between two looks whether it is stopped."""

_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class UnwatchableInputError(Exception):
    """Standard input is nothing whose end can be waited for."""


def guard(work: Callable[[], int], *, stopped: Callable[[], bool]) -> NoReturn:
    """Do `work` in a forked child, and exit with its exit code; with 128 and the signal's number where one ended it.

    Standard input is a leash: nothing is read from it. Once whoever holds its other end lets go, is killed even, or
    this process hears SIGTERM, or is `stopped`, the child is asked to end by SIGTERM, and then killed. However the
    child ends, no process that it started is left. Has one thread only, as a fork takes no other thread along.

    Raises:
        UnwatchableInputError: standard input can be no leash; nothing was begun.
    """
    watched = selectors.DefaultSelector()
    leash = _leash(watched)
    adopt_orphans()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    watched.register(woken, selectors.EVENT_READ)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (*_ENDING, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)

    parent = os.getpid()
    child = os.fork()
    if child == 0:
        watched.close()
        be_the_child(work, parent, (leash, woken, wake), handled=(*_ENDING, signal.SIGCHLD))
    with suppress(OSError):  # both sides set the group, so that no signal comes too early
        os.setpgid(child, child)
    _wait(child, watched, leash, woken, stopped)
    status = _end_all(child)
    os._exit(status if status >= 0 else 128 - status)  # at once: there is nothing to tidy up


def _leash(watched: selectors.BaseSelector) -> int:
    """A copy of standard input, watched before anything is begun: of files and /dev/null the kernel tells no end."""
    try:
        leash = os.dup(0)
        watched.register(leash, selectors.EVENT_READ)
    except OSError as error:
        raise UnwatchableInputError(
            f"standard input must be a pipe or a socket whose other end is held for as long as the training may go on "
            f"({error.strerror}): with containers, run them with --interactive"
        ) from None
    return leash


def _wait(child: int, watched: selectors.BaseSelector, leash: int, woken: int, stopped: Callable[[], bool]) -> None:
    """Return when the child is over, or has had its time to end."""
    kill_at: float | None = None
    while not _over(child):
        if kill_at is not None and kill_at <= time.monotonic():
            return
        ends = stopped()
        for key, _ in watched.select(LOOKS_EVERY if kill_at is None else kill_at - time.monotonic()):
            received = os.read(key.fd, 4096)
            if key.fd == woken:
                ends |= not _ENDING.isdisjoint(received)
            elif not received:
                watched.unregister(leash)
                ends = True
        if ends and kill_at is None:
            signal_group(child, signal.SIGTERM)
            kill_at = time.monotonic() + GRACE


def _over(child: int) -> bool:
    """Whether the child has ended; orphans that ended are buried on the way."""
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if ended.si_pid == child:
            return True
        os.waitpid(ended.si_pid, 0)
    return False


def _end_all(child: int) -> int:
    """The exit status of the child, once neither it nor any process that it started is there."""
    status = 0
    signal_group(child, signal.SIGKILL)
    while True:
        kill_children()  # each death may leave orphans, who are children from then on
        try:
            ended, how = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if ended == child:
            status = os.waitstatus_to_exitcode(how)
