"""A training that is over for good, noted in the task's folder: no restart of agent or machine begins it anew."""

from contextlib import suppress
from pathlib import Path

from wardround.runtime.regular_file import open_regular
from wardround.site_agent.scheduler.port import RunEnd
from wardround_messages.base import Model, canonical_json
from wardround_messages.codec import MalformedError, parse
from wardround_messages.task_folder import FOLDER_AT_MOST

GIVEN_UP = "given-up.json"


class _GivenUp(Model):
    code: str
    hint: str


def note_given_up(folder: Path, end: RunEnd) -> None:
    """Remember how the last run ended. A disk that does not take it costs, after a restart, one training too many."""
    aside = folder / f"{GIVEN_UP}.new"
    with suppress(OSError):
        aside.write_bytes(canonical_json(_GivenUp(code=end.code, hint=end.hint)))
        aside.replace(folder / GIVEN_UP)


def given_up(folder: Path) -> RunEnd | None:
    """How the last run ended, where no other may begin."""
    try:
        with open_regular(folder / GIVEN_UP) as file:
            noted = parse(_GivenUp, file.read(FOLDER_AT_MOST + 1), at_most=FOLDER_AT_MOST)
    except (OSError, MalformedError):
        return None
    return RunEnd(False, noted.code, noted.hint)
