"""An example of a clinic's own DAG: each task in a container without a network, on a queue of workers with GPUs.

It does the same in the same folder as `wardround_task`, beside which it is copied, and is named in the agent's
`site.toml`, for all trainers or for one:

    [scheduler.dags]
    default = "wardround_container"

The worker's environment names the spool, `WARDROUND_SPOOL`, and in `WARDROUND_IMAGE` an image whose `python` has
Wardround and the clinic's trainers.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowFailException
from wardround_task import TrainingOperator, training_dag

ENGINE = "docker"  # or podman: the arguments are the same but for the GPUs (`--device=nvidia.com/gpu=all`)
GPUS = ("--gpus=all", "--shm-size=2g")
POOL = QUEUE = "gpu"  # a pool with as many slots as trainings fit the GPUs, and the queue of the workers that have them

IMAGE = "WARDROUND_IMAGE"
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:@/-]*")
_BELOW_SPOOL = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
_PLACE = Path("/spool")


def container_command(folder: Path, job: dict[str, Any], *, image: str, user: int, group: int) -> list[str]:
    """The command that does the job of a folder in a container which sees that folder, its data and nothing else.

    The data cannot be written to. What the container is told by its input, `--interactive`, is to end with it.

    Raises:
        AirflowFailException: `bad_job`, where a path cannot be mounted; `not_configured`, where this is no image.
    """
    if not _IMAGE.fullmatch(image):
        raise AirflowFailException(f"not_configured: {IMAGE} does not name an image")
    task, carry = folder.name, job.get("carry")
    mounts = [_mount(folder, _PLACE / task)]
    if carry is not None and not carry.startswith(f"{task}/"):
        if not _BELOW_SPOOL.fullmatch(carry):
            raise AirflowFailException("bad_job: the folder to carry things in is not below the spool")
        mounts.append(_mount(folder.parent / carry, _PLACE / carry))
    mounts += [_mount(Path(data), Path(data), readonly=True) for data in job["data"]["folders"]]
    return [
        *(ENGINE, "run", "--rm", "--interactive", "--pull=never", "--network=none"),
        *("--read-only", "--tmpfs=/tmp", "--env=HOME=/tmp", "--env=PYTHONUNBUFFERED=1"),
        *("--cap-drop=all", "--security-opt=no-new-privileges", f"--user={user}:{group}"),
        *GPUS,
        *mounts,
        image,
        # The agent, which is another user, removes what is left.
        *("sh", "-c", 'umask 007; exec "$@"', "sh"),
        *("python", "-P", "-m", "wardround.training", "run", "--ends-with-stdin", str(_PLACE / task)),
    ]


def _mount(source: Path, target: Path, *, readonly: bool = False) -> str:
    if not source.is_absolute() or any(sign in str(source) for sign in ',"\n'):
        raise AirflowFailException("bad_job: a path with a comma, a quotation mark or a line break cannot be mounted")
    return f"--mount=type=bind,source={source},target={target}{',readonly' if readonly else ''}"


class ContainerOperator(TrainingOperator):
    """Runs the command of a container in place of a Python; all else is as with every training."""

    def command(self, folder: Path) -> list[str]:
        job = json.loads((folder / "job.json").read_bytes())
        image = os.environ.get(IMAGE, "")
        return container_command(folder, job, image=image, user=os.geteuid(), group=folder.stat().st_gid)

    def environment(self) -> dict[str, str]:
        reaches_engine = {name: os.environ[name] for name in ("DOCKER_HOST", "XDG_RUNTIME_DIR") if name in os.environ}
        return super().environment() | reaches_engine


wardround_container = training_dag("wardround_container", operator=ContainerOperator, pool=POOL, queue=QUEUE)
