"""How a task fails: a code that may leave the clinic, a hint for a person, and words that stay."""

import re

from wardround_messages.parts import Failure

_CODE = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")
_UNSAFE = re.compile("[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
CODE_AT_MOST = 40
HINT_AT_MOST = 400


class TaskError(Exception):
    """Ends the task with `code`; `hint` says what to do and holds no path, no case name and no value.

    A trainer may raise it too. `code` is lower-case words joined by underscores, at most 40 characters.
    """

    def __init__(self, code: str, hint: str = "") -> None:
        if len(code) > CODE_AT_MOST or not _CODE.fullmatch(code):
            raise ValueError(f"'{code}' is no code: lower-case words joined by underscores, at most {CODE_AT_MOST}")
        super().__init__(f"{code}: {hint}" if hint else code)
        self.code = code
        self.hint = hint

    def failure(self, phase: str) -> Failure:
        return Failure(phase=phase, code=self.code, hint=_UNSAFE.sub("?", self.hint)[:HINT_AT_MOST])


class CaseUnreadableError(TaskError):
    """One of the site's cases cannot be read. Its name stays at the site: say it in the exception that caused this."""

    def __init__(self, hint: str = "a case cannot be read; the log of the site's task names it") -> None:
        super().__init__("case_unreadable", hint)


class CancelledTaskError(BaseException):
    """The task is to end now. Not an `Exception`, so that no trainer's `except Exception` holds it up."""
