"""A task's folder: filled for the training, and read when it is over."""

import errno
import os
import shutil
import stat
from pathlib import Path

from wardround.runtime.regular_file import open_regular
from wardround.runtime.store.download import download, part_of
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import AccessDeniedError, NotFoundError, ObjectStore
from wardround.site_agent.hand import TaskEndsError
from wardround.site_agent.outbound import regular_file
from wardround_messages.base import canonical_json
from wardround_messages.codec import MalformedError, parse
from wardround_messages.commands import StartTask
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task, bucket_of
from wardround_messages.parts import ObjectRef
from wardround_messages.task_folder import FOLDER_AT_MOST, JOB, MODEL, RESULT, Job, JobData, TaskResult

ROOM_BESIDES = 2**20  # bytes: for all that a training leaves besides its update


def job_of(start: StartTask, manifest: Manifest, data: JobData, carry: str) -> Job:
    """What the training is told: from the manifest and the command, the site's own data in place of the data set.

    A check keeps nothing: what it carries lies in the task's own folder and goes with it.
    """
    training = manifest.training
    model = model_of(start)
    return Job(
        experiment=start.experiment,
        round=start.round,
        task=start.task,
        site=start.site,
        attempt=start.attempt,
        trainer=training.trainer,
        parameters=training.parameters,
        seed=start.seed,
        epochs=training.epochs,
        optimizer_state=training.optimizer_state,
        deterministic=training.deterministic,
        evaluate_received=manifest.evaluation.received,
        data=data,
        model_sha256=None if model is None else model.sha256,
        carry=f"{start.task_id}/carry" if start.task is Task.CHECK else carry,
        encoding=start.encoding,
    )


def model_of(start: StartTask) -> ObjectRef | None:
    """The model that the task builds on."""
    return None if start.task is Task.INITIALISE else start.model


def is_filled(folder: Path, job: Job) -> bool:
    """Whether the folder was filled for this very job before: `job.json` is written last, and counts when whole."""
    wanted = canonical_json(job)
    try:
        with open_regular(folder / JOB) as file:
            return file.read(len(wanted) + 1) == wanted
    except OSError:
        return False


async def fill(
    folder: Path,
    job: Job,
    model: ObjectRef | None,
    store: ObjectStore,
    passage: Passage | None = None,
    *,
    durable: bool,
) -> None:
    """Make the folder anew, with the model, its digest checked, and then `job.json` under its name.

    What an earlier try has fetched of this model is kept and gone on from; nothing else of the folder is.

    With `durable` the disk has the model before `job.json` has its name: no power cut leaves a folder that only seems
    to be filled.

    Raises:
        NotFoundError, DigestMismatchError: the model is not there, or not that model; OSError: the disk.
    """
    _clear(folder, keep=None if model is None else part_of(folder / MODEL, model.sha256))
    if job.carry is not None and not os.path.isdir(carry := folder.parent / job.carry):
        carry.mkdir(parents=True, exist_ok=True)
    # Before the model: a disk that has room for all but this would have the model fetched again and again.
    aside = folder / f"{JOB}.new"
    aside.write_bytes(canonical_json(job))
    if model is not None:
        bucket = bucket_of(job.experiment)
        try:
            await download(
                store,
                bucket,
                model.key,
                size=model.size,
                sha256=model.sha256,
                to=folder / MODEL,
                passage=passage,
                durable=durable,
            )
        except AccessDeniedError:  # what S3 says of an absent key to whoever may not list
            raise NotFoundError(f"{bucket}/{model.key} is not there, or not readable here") from None
    aside.replace(folder / JOB)


def _clear(folder: Path, *, keep: Path | None) -> None:
    """An empty folder, but for the file to keep where it is there.

    Trainings may write to the spool: what lies where a link in it leads to is not the agent's to delete.
    """
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(opened):
            if stat.S_ISDIR(os.lstat(name, dir_fd=opened).st_mode):
                shutil.rmtree(name, dir_fd=opened)
            elif keep is None or name != keep.name:
                os.unlink(name, dir_fd=opened)
    finally:
        os.close(opened)


def read_result(folder: Path) -> TaskResult | None:
    """`result.json`, or None where there is none; raises `TaskEndsError` for one that is not what it should be."""
    path = folder / RESULT
    if not regular_file(path):
        return None
    try:
        with open_regular(path) as file:
            return parse(TaskResult, file.read(FOLDER_AT_MOST + 1), at_most=FOLDER_AT_MOST)
    except MalformedError:
        raise TaskEndsError("failed", "checking", "bad_result", "the training left an unreadable result.json") from None


def lacked_room(result: TaskResult) -> bool:
    """Whether the training found the disk full, and could still say so."""
    return result.failure is not None and result.failure.code == "disk_full"


async def find_room(folder: Path, start: StartTask) -> None:
    """Look whether a training that begins now can leave its update.

    Raises:
        OSError: the disk is full, or cannot be looked at.
    """
    model = model_of(start)
    needed = ROOM_BESIDES + (0 if model is None else model.size)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
