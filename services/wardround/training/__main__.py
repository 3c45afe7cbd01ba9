"""`python -m wardround.training run|check <folder>` and `python -m wardround.training describe`."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from wardround.training.errors import CancelledTaskError
from wardround.training.registry import describe
from wardround.training.runner import run_folder

NO_RESULT = 1
CANCELLED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when `result.json` is there, whatever it says; 1 when it could not be written; 143 cancelled."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _cancel)
    try:
        if asked.command == "describe":
            print(json.dumps([trainer.model_dump(mode="json") for trainer in describe()], indent=2))
        else:
            run_folder(asked.folder, check=asked.command == "check")
    except CancelledTaskError:
        return CANCELLED
    except OSError as error:
        print(f"no result could be written: {error}", file=sys.stderr)
        return NO_RESULT
    return 0


def _cancel(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise CancelledTaskError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wardround.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="do the task in a folder").add_argument("folder", type=Path)
    commands.add_parser("check", help="try two cases, one step").add_argument("folder", type=Path)
    commands.add_parser("describe", help="list the installed trainers as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
