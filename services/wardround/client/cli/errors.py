"""How a command ends: the exit codes, and the one line a person reads instead of a traceback."""

from enum import IntEnum


class Exit(IntEnum):
    DONE = 0
    ENDED_BADLY = 1
    BAD_INPUT = 2
    REFUSED = 3
    TRY_AGAIN = 75
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with one line on standard error and the given exit code."""

    def __init__(self, message: str, code: Exit = Exit.BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code
