"""The DAG `wardround_task`: one run carries out one training task that the clinic's Wardround agent put into the spool.

It imports Airflow and the standard library alone, and runs the trainings with the interpreter named in the worker's
environment:

    WARDROUND_PYTHON    the Python that Wardround and the clinic's trainers are installed in
    WARDROUND_SPOOL     the spool folder, as this worker sees it

A clinic that wants another pool or queue leaves this file as it is, and calls `training_dag` in a file of its own.
"""

import os
import re
import selectors
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowFailException

RUNS_AT_ONCE = 16
"""More than a clinic trains at a time: how many the agent asks for is `scheduler.slots` in its `site.toml`."""

PYTHON, SPOOL = "WARDROUND_PYTHON", "WARDROUND_SPOOL"

# What a training may know of the worker's environment. Airflow's logins, keys and tokens are in the rest of it.
PASSED = {
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "WARDROUND_STACK",  # the mark by which a stack finds its processes
}

UMASK = 0o007  # the agent, which may be another Unix user, reads and removes what a training leaves
LINE_AT_MOST = 4000  # bytes of a line that reach the log
ENDS_WITHIN = 2.0  # seconds, of which a training needs one at most
CANCELLED = 128 + signal.SIGTERM
REASON = "reason"  # the XCom that the agent reads where a run failed

_ID = r"[a-z0-9](?:-?[a-z0-9])*"
_TASK_ID = re.compile(
    rf"({_ID})\.r[0-9]{{6}}\.(?:initialise|train|evaluate|test|check)\.({_ID})\.a(?!00)[0-9]{{2}}", re.ASCII
)
_EXPERIMENT_AT_MOST, _SITE_AT_MOST = 40, 24
_RESERVED = {"hub", "none", "models", "coordinator", "aggregator", "metrics", "store", "operator"}


def task_of(conf: object, run_id: str) -> str:
    """The task that a run is for: its configuration is `{"task": <task id>}`, and the run bears the same id.

    Raises:
        AirflowFailException: `bad_conf`. Nothing of what was given becomes a path or an argument.
    """
    task = conf.get("task") if isinstance(conf, dict) and conf.keys() == {"task"} else None
    if not isinstance(task, str) or not is_task_id(task):
        raise AirflowFailException('bad_conf: the configuration of a run is {"task": "<task id>"} and nothing else')
    if run_id != task:
        raise AirflowFailException("bad_conf: the id of the run is not that of the task")
    return task


def is_task_id(text: str) -> bool:
    """Whether it looks like `brain-tumour.r000012.train.clinic-1.a01`, as Wardround writes it."""
    match = _TASK_ID.fullmatch(text)
    if match is None or not _RESERVED.isdisjoint(match.groups()):
        return False
    return len(match[1]) <= _EXPERIMENT_AT_MOST and len(match[2]) <= _SITE_AT_MOST


def folder_of(task: str, spool: str) -> Path:
    """The task's folder, directly below the spool and no link, with a job in it.

    Raises:
        AirflowFailException: `no_folder`; `not_configured`, where this worker may not write in it.
    """
    folder = Path(spool, task)
    try:
        filled = stat.S_ISDIR(folder.lstat().st_mode) and stat.S_ISREG((folder / "job.json").lstat().st_mode)
    except OSError as error:
        raise AirflowFailException(f"no_folder: {error.strerror}: {SPOOL} has to name the spool of the agent") from None
    if not filled:
        raise AirflowFailException(f"no_folder: {SPOOL} holds something else in place of a folder with a job")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise AirflowFailException(
            "not_configured: this worker may not write in a task's folder: the agent makes it, "
            "with the group of the spool and the umask 0007"
        )
    return folder


def configured(variable: str, environment: Mapping[str, str]) -> str:
    """The absolute path in an environment variable of the worker.

    Raises:
        AirflowFailException: `not_configured`, with what to set where.
    """
    path = environment.get(variable, "")
    if not os.path.isabs(path):
        raise AirflowFailException(
            f"not_configured: set {variable} to an absolute path in the environment of this Airflow worker, "
            "as deploy/airflow/README.md of Wardround says, and restart it"
        )
    return path


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the worker's environment a training is given."""
    passed = {name: value for name, value in environment.items() if name in PASSED or name.startswith("LC_")}
    return {**passed, "PYTHONUNBUFFERED": "1"}


class TrainingOperator(BaseOperator):
    """Runs the training in a process of its own, which ends with all its children when this task does, however it does.

    The process hears nothing on its standard input: it ends when that closes, which the kernel sees to also where this
    task is killed. A subclass says in `command` what else does the task in the folder, such as a container.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._training: subprocess.Popen[bytes] | None = None
        self._kill_at: float | None = None

    def command(self, folder: Path) -> list[str]:
        """The program that does the task in the folder, and its arguments; it ends when its input does."""
        python = configured(PYTHON, os.environ)
        return [python, "-P", "-m", "wardround.training", "run", "--ends-with-stdin", str(folder)]

    def environment(self) -> dict[str, str]:
        """The environment of that program."""
        return clean(os.environ)

    def execute(self, context: Any) -> None:
        """Do the task. Why it failed is left for the agent too, as the XCom `reason`.

        Raises:
            AirflowFailException: begins with the reason in one word: `bad_conf`, `not_configured`, `no_folder`,
                `cancelled`, `crashed`, `killed`. The agent decides whether a training begins again.
        """
        try:
            self._carry_out(context["dag_run"])
        except AirflowFailException as reason:
            with suppress(Exception):  # Airflow takes no more from a task that it is ending
                context["ti"].xcom_push(key=REASON, value=str(reason))
            raise

    def _carry_out(self, run: Any) -> None:
        folder = folder_of(task_of(run.conf, run.run_id), configured(SPOOL, os.environ))
        status = self._run(self.command(folder), folder)
        if status == CANCELLED or self._kill_at is not None:
            raise AirflowFailException("cancelled: the training was stopped")
        if status > 0:
            raise AirflowFailException(f"crashed: the training ended with exit code {status}")
        if status < 0:
            raise AirflowFailException(f"killed: the training was ended by signal {-status}")

    def on_kill(self) -> None:
        """Airflow calls this in its handler of SIGTERM."""
        self._kill_at = time.monotonic() + ENDS_WITHIN
        self._let_end()

    def _run(self, command: list[str], folder: Path) -> int:
        """The exit status of the command, or minus the number of the signal that ended it."""
        self.log.info("%s", shlex.join(command))
        try:
            self._training = training = subprocess.Popen(  # noqa: S603 - built by `command` from what was checked
                command,
                bufsize=0,  # a handler of signals may close the input at any time
                cwd=folder,
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # what Airflow signals to the task's own group is this task's to hear
                umask=UMASK,
            )
        except OSError as error:
            program = Path(command[0]).name
            raise AirflowFailException(f"not_configured: {program} does not start: {error.strerror}") from None
        try:
            if self._kill_at is not None:  # SIGTERM came while the process was started
                self._let_end()
            for line in self._output(training):
                self.log.info("%s", line)
            return self._status(training)
        finally:
            self._end(training)

    def _output(self, training: subprocess.Popen[bytes]) -> Iterator[str]:
        """The lines that the training prints, until it is over."""
        assert training.stdout is not None  # noqa: S101 - opened as a pipe
        lines = Lines()
        with training.stdout as output, selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=0.25):
                    if not (received := os.read(output.fileno(), 65536)):
                        break
                    yield from lines.take(received)
                elif training.poll() is not None:
                    break
                if self._overdue():
                    break
        yield from lines.rest()

    def _status(self, training: subprocess.Popen[bytes]) -> int:
        """Its exit status, once it is over: which it need not be when it has closed its output."""
        while not self._overdue():
            with suppress(subprocess.TimeoutExpired):
                return training.wait(0.25)
        return self._end(training)

    def _overdue(self) -> bool:
        return self._kill_at is not None and time.monotonic() > self._kill_at

    def _let_end(self) -> None:
        if self._training is not None and self._training.stdin is not None:
            self._training.stdin.close()

    def _end(self, training: subprocess.Popen[bytes]) -> int:
        self._let_end()
        try:
            return training.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(training.pid, signal.SIGKILL)
            return training.wait()


class Lines:
    """Bytes as they come, made into lines that fit a log."""

    def __init__(self) -> None:
        self._unfinished = b""
        self._cut = False

    def take(self, received: bytes) -> Iterator[str]:
        *lines, self._unfinished = (self._unfinished + received).split(b"\n")
        for line in lines:
            if not self._cut:
                yield _shown(line)
            self._cut = False
        if len(self._unfinished) > LINE_AT_MOST:
            if not self._cut:
                yield _shown(self._unfinished)
            self._unfinished, self._cut = b"", True

    def rest(self) -> Iterator[str]:
        if self._unfinished and not self._cut:
            yield _shown(self._unfinished)


def _shown(line: bytes) -> str:
    text = line[:LINE_AT_MOST].decode(errors="replace").rstrip("\r")
    return f"{text} ..." if len(line) > LINE_AT_MOST else text


def training_dag(
    dag_id: str,
    *,
    operator: type[TrainingOperator] = TrainingOperator,
    runs_at_once: int = RUNS_AT_ONCE,
    **arguments: Any,
) -> DAG:
    """A DAG that does the agent's tasks; `arguments` are those of any Airflow operator, such as `pool` and `queue`."""
    dag = DAG(
        dag_id,
        description="Training tasks of the Wardround agent, which starts the runs itself",
        schedule=None,
        catchup=False,
        max_active_runs=runs_at_once,
        max_active_tasks=runs_at_once,
        tags=["wardround"],
    )
    operator(task_id="train", dag=dag, retries=0, do_xcom_push=False, **arguments)
    return dag


wardround_task = training_dag("wardround_task")
