"""What an agent finds in a task's folder of its run, whether there is a task and of which trainer, and leaves there."""

import os
import shutil
from pathlib import Path

import structlog

from wardround.runtime.regular_file import open_regular
from wardround.site_agent.scheduler.port import SchedulerError
from wardround_messages.codec import MalformedError, parse
from wardround_messages.names import parse_task_id
from wardround_messages.task_folder import FOLDER_AT_MOST, JOB, STOPPED, Job

log = structlog.get_logger()

BAD_ID = "bad_task_id"


class NoTaskError(SchedulerError):
    """What is asked for is no task, or has no job: no run was ever asked for."""


def folder_of(spool: Path, task: str) -> Path:
    """Raises `NoTaskError`: this is no task's id."""
    try:
        return spool / str(parse_task_id(task))
    except ValueError as error:
        raise NoTaskError(BAD_ID, str(error)) from None


def remove(path: Path) -> None:
    """What lies there, if anything does: a training may have made a folder where a file belongs."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def forbid_training(folder: Path) -> None:
    """Whatever Airflow still starts there ends at once, until the sign is removed."""
    try:
        os.close(os.open(folder / STOPPED, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except (
        FileExistsError,
        FileNotFoundError,
    ):  # whatever a training has put there, it is a sign; or there is no folder
        pass
    except OSError as error:  # on a full disk a training is stopped all the same
        log.warning("stopped_without_a_sign", task=folder.name, error=error.strerror)


def trainer_of(folder: Path) -> str:
    """The trainer that the job in the folder names.

    Raises:
        NoTaskError: there is no folder, or no job in it.
        SchedulerError: `no_folder`; the job is there, and cannot be read.
    """
    try:
        with open_regular(folder / JOB) as file:
            return parse(Job, file.read(FOLDER_AT_MOST + 1), at_most=FOLDER_AT_MOST).trainer
    except FileNotFoundError:
        raise NoTaskError("no_folder", "the folder of the task holds no job.json") from None
    except OSError as error:
        raise SchedulerError("no_folder", f"the agent may not read the task's job.json: {error.strerror}") from None
    except MalformedError:
        raise SchedulerError("no_folder", "the folder of the task holds an unreadable job.json") from None
