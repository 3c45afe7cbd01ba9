"""Runs DAGs with `dag.test()`, under Airflow's own interpreter: `python runs.py FOLDER`, with AIRFLOW_HOME prepared.

Says on one line what Airflow finds in the folder. Then takes an order a line, as JSON, and answers it with a line:

    {"grammar": [text, ...]}    which of the texts are ids of tasks
    {"dag": id, "run": id, "conf": ..., "environment": {...}, "log": path}
                                whether the run succeeded, and the reason that it left
    {"apart": true, "dag": ...} the id of the process that it runs in, which may be killed; and its exit status, in a
                                second line. All orders of a process are of this kind, or none is: a fork takes no
                                thread of Airflow's along

A run takes a third of a second, but the first one in each process takes three seconds more.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from airflow.dag_processing.dagbag import DagBag
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import delete, select


def main(folder: str) -> None:
    sys.path.append(folder)  # as Airflow has it for a folder of DAGs
    bag = DagBag(folder)
    _say(errors=bag.import_errors, dags={dag.dag_id: _described(dag) for dag in bag.dags.values()})
    for line in sys.stdin:
        order = json.loads(line)
        if "grammar" in order:
            from wardround_task import is_task_id

            _say(ids=[text for text in order["grammar"] if is_task_id(text)])
        elif order.get("apart"):
            child = os.fork()
            if child == 0:
                _run_and_end(bag.dags[order["dag"]], order)
            _say(pid=child)
            _say(status=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            _say(succeeded=_succeeds(bag.dags[order["dag"]], order), reason=_reason(order["run"]))


def _described(dag: Any) -> dict[str, Any]:
    (task,) = dag.tasks
    return {
        "file": dag.fileloc,
        "timetable": type(dag.timetable).__name__,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "max_active_tasks": dag.max_active_tasks,
        "retries": task.retries,
        "pool": task.pool,
        "queue": task.queue,
    }


def _succeeds(dag: Any, order: dict[str, Any]) -> bool:
    with create_session() as session:  # a run of this id from before
        session.execute(delete(DagRun).where(DagRun.run_id == order["run"]))
    DagRun.generate_run_id = lambda **_: order["run"]  # which `dag.test()` does not ask for
    with _printing_to(order["log"]), _environment(order["environment"]):
        try:
            return str(dag.test(run_conf=order["conf"]).state) == "success"
        except Exception:
            traceback.print_exc()
            return False


def _reason(run: str) -> Any:
    with create_session() as session:
        left = session.scalars(select(XComModel.value).where(XComModel.run_id == run, XComModel.key == "reason")).all()
    return left[0] if left else None


def _run_and_end(dag: Any, order: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)  # as Airflow's supervisor has it
        status = 0 if _succeeds(dag, order) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@contextmanager
def _printing_to(log: str) -> Iterator[None]:
    before = [os.dup(output) for output in (1, 2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for output in (1, 2):
        os.dup2(file, output)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for output, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, output)
            os.close(kept)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _say(**what: Any) -> None:
    os.write(_REPORTS, json.dumps(what).encode() + b"\n")


_REPORTS = os.dup(1)

if __name__ == "__main__":
    os.dup2(2, 1)  # what Airflow prints is no report
    main(sys.argv[1])
