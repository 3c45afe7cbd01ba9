"""A warm process that forks a child for each task: `python -m wardround.training.serve SPOOL`.

What trainers import takes seconds in a new process and milliseconds in a forked one. What one imports only when it
works, such as torch, is imported here before the first task of that trainer. Orders are JSON lines on
standard input, `{"run": "<task id>"}` and `{"cancel": "<task id>"}`; reports are JSON lines on standard output,
`{"ready": true}` first, then `{"ended": "<task id>", "status": n}` with the exit status, or minus the signal's number.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wardround.training import __main__ as command
from wardround.training.processes import be_the_child, signal_group
from wardround.training.registry import code_digest, describe, installed_trainer
from wardround.training.runner import read_job
from wardround_messages.names import parse_task_id
from wardround_messages.task_folder import JOB, OUTPUT

GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL."""

_COULD_NOT_START = 1


@dataclass(slots=True)
class _Child:
    pid: int
    kill_at: float | None = None


class ForkServer:
    """Has one thread only, as a fork takes no other thread along. When its input ends, so do its children."""

    def __init__(self, spool: Path, *, orders: int, reports: int) -> None:
        self._spool = spool
        self._orders = orders
        self._reports = reports
        self._children: dict[str, _Child] = {}
        self._warm_for: set[str] = set()
        self._unread = b""

    def serve(self) -> None:
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._orders, selectors.EVENT_READ, self._take_orders)
            selector.register(woken, selectors.EVENT_READ, lambda: bool(os.read(woken, 4096)))
            try:
                self._report(ready=True)
                while self._turn(selector):
                    self._reap()
                    self._kill_overdue()
            except BrokenPipeError:
                pass
            finally:
                self._kill_all()

    def _turn(self, selector: selectors.BaseSelector) -> bool:
        """Wait for something to do and do it; False when the orders have ended."""
        overdue = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        timeout = max(0.0, min(overdue) - time.monotonic()) if overdue else None
        going_on = True
        for key, _ in selector.select(timeout):
            going_on &= key.data()
        return going_on

    def _take_orders(self) -> bool:
        received = os.read(self._orders, 65536)
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"run": str(task)}:
                    self._start(str(parse_task_id(task)))
                case {"cancel": str(task)} if task in self._children:
                    self._signal(task, signal.SIGTERM)
                    self._children[task].kill_at = time.monotonic() + GRACE
        return bool(received)

    def _start(self, task: str) -> None:
        self._warm_up(self._spool / task)
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            traceback.print_exc()
            self._report(ended=task, status=_COULD_NOT_START)
            return
        if pid == 0:
            be_the_child(
                lambda: _carry_out(self._spool / task),
                server,
                (self._orders, self._reports),
                handled=(signal.SIGCHLD,),
            )
        # Both sides set the group, so that no signal comes too early.
        with suppress(OSError):
            os.setpgid(pid, pid)
        self._children[task] = _Child(pid)

    def _warm_up(self, folder: Path) -> None:
        """Import what the task's trainer needs, once. Where that goes wrong, the task itself will say why."""
        try:
            if not (folder / JOB).is_file():  # a pipe in its place would hold all tasks up
                return
            trainer = read_job(folder).trainer
            if trainer in self._warm_for:
                return
            self._warm_for.add(trainer)
            for module in installed_trainer(trainer).type.needs:
                importlib.import_module(module)
        except (Exception, SystemExit):  # modules are somebody else's code
            with suppress(OSError):
                traceback.print_exc()
        with suppress(OSError, ValueError):
            sys.stdout.flush()  # or the fork says it again
        gc.freeze()

    def _reap(self) -> None:
        for task, child in list(self._children.items()):
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._signal(task, signal.SIGKILL)  # whatever the child started and left behind
                self._report(ended=task, status=self._wait_for(task))

    def _kill_overdue(self) -> None:
        for task, child in self._children.items():
            if child.kill_at is not None and child.kill_at <= time.monotonic():
                self._signal(task, signal.SIGKILL)
                child.kill_at = None

    def _kill_all(self) -> None:
        for task in list(self._children):
            self._signal(task, signal.SIGKILL)
        for task in list(self._children):
            self._wait_for(task)

    def _wait_for(self, task: str) -> int:
        _, status = os.waitpid(self._children.pop(task).pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _signal(self, task: str, number: int) -> None:
        signal_group(self._children[task].pid, number)

    def _report(self, **line: object) -> None:
        os.write(self._reports, json.dumps(line).encode() + b"\n")


def _carry_out(folder: Path) -> int:
    _redirect_output(folder / OUTPUT)
    return _train(folder)


def _train(folder: Path) -> int:
    """The exit code; or this process becomes a new one, where only that runs what is installed."""
    if _code_changed():
        os.execv(sys.executable, [sys.executable, "-P", "-m", "wardround.training", "run", str(folder)])  # noqa: S606
    return command.main(["run", str(folder)])


def _redirect_output(file: Path) -> None:
    with file.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _code_changed() -> bool:
    """Whether a trainer was installed anew since it was imported."""
    loaded = [installed_trainer(description.name) for description in describe()]
    return any(code_digest(each.type.__module__) != each.description.code_sha256 for each in loaded)


def main(arguments: list[str]) -> None:
    orders, reports = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what trainers print while they are imported is no report
    describe()
    sys.stdout.flush()
    gc.freeze()
    ForkServer(Path(arguments[0]), orders=orders, reports=reports).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
