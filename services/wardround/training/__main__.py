"""`python -m wardround.training run|check <folder>` and `python -m wardround.training describe`."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from wardround.training.errors import CancelledTaskError
from wardround.training.folder_lock import FolderLock, folder_lock
from wardround.training.guard import UnwatchableInputError, guard
from wardround.training.registry import describe
from wardround.training.runner import run_folder
from wardround_messages.task_folder import RESULT, STOPPED

NO_RESULT = 1
BAD_USAGE = 2
CANCELLED = 128 + signal.SIGTERM

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when `result.json` is there, whatever it says; 1 when it could not be written; 2 when nothing
    was begun, as it was called in a wrong way; 143 cancelled."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _cancel)
    if asked.command == "describe":
        print(json.dumps([trainer.model_dump(mode="json") for trainer in describe()], indent=2))
        return 0
    try:
        # In its folder, the training has to do with this folder, and not with one that is made anew under its name.
        os.chdir(asked.folder)
        with folder_lock(Path()) as lock:
            if asked.command == "run" and asked.ends_with_stdin:
                guard(lambda: _exit_code(lock, check=False), stopped=_is_stopped)
            return _exit_code(lock, check=asked.command == "check")
    except CancelledTaskError:
        return CANCELLED
    except UnwatchableInputError as error:
        print(f"--ends-with-stdin: {error}", file=sys.stderr)
        return BAD_USAGE
    except OSError as error:
        return _no_result(error)


def _exit_code(lock: FolderLock, *, check: bool) -> int:
    signal.signal(signal.SIGTERM, _cancel)
    try:
        lock.acquire()
        if not check and _is_stopped():
            logger.info("stopped before it began")
            return CANCELLED
        # The agent makes a folder anew for another job, so a result that is there is of this job.
        if not check and Path(RESULT).is_file():
            logger.info("done already")
            return 0
        lock.note_beginning()
        run_folder(Path(), check=check)
    except CancelledTaskError:
        return CANCELLED
    except OSError as error:
        return _no_result(error)
    return 0


def _is_stopped() -> bool:
    return os.path.lexists(STOPPED)


def _no_result(error: OSError) -> int:
    print(f"no result could be written: {error}", file=sys.stderr)
    return NO_RESULT


def _cancel(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise CancelledTaskError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wardround.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do the task in a folder, unless it is done; one at a time in a folder")
    run.add_argument("folder", type=Path)
    run.add_argument(
        "--ends-with-stdin",
        action="store_true",
        help=f"end when standard input does, or when {STOPPED} is there, with every process that it started",
    )
    commands.add_parser("check", help="try two cases, one step").add_argument("folder", type=Path)
    commands.add_parser("describe", help="list the installed trainers as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
