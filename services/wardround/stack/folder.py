"""The folder of a stack: what it was made for, the ports it used last, and how its programs are doing."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wardround.stack.ports import free_ports, is_free

PLAN_FILE = "stack.json"
STATE_FILE = "state.json"
LOCK_FILE = ".lock"
LOGS = "logs"
PORTS_OF_ALL = ("broker", "distribution", "epmd", "store", "metrics")
AIRFLOW_SERVER = "api-server"


M = TypeVar("M", bound=BaseModel)


class StackError(Exception):
    """The stack cannot do what was asked; the message says what to do."""


class StackRunsError(StackError):
    """Another process runs the stack of this folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"a stack runs in {folder} already")


class Plan(BaseModel):
    """What the stack consists of. `sites` are the clinics' names; `own_sites` is the folder with a person's own
    clinics, None where they were made from the template. `guests` are clinics that the hub knows and whose agents
    somebody else starts. With `airflow` each clinic of the stack has an Airflow of its own. `ports` are those of the
    programs by name."""

    model_config = ConfigDict(frozen=True)

    v: Literal[1] = 1
    name: str
    sites: tuple[str, ...]
    own_sites: Path | None = None
    guests: tuple[str, ...] = ()
    seed: int
    coordinators: int = 1
    aggregators: int = 1
    airflow: bool = False
    ports: dict[str, int] = {}

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services' processes, in the order in which they start."""
        return (
            *_numbered("coordinator", self.coordinators),
            *_numbered("aggregator", self.aggregators),
            "metrics",
            *self.sites,
        )

    def airflow_port(self, site: str) -> int:
        """Where the pages of the clinic's Airflow are. Raises `KeyError` where it has none."""
        return self.ports[airflow_program(site, AIRFLOW_SERVER)]

    def with_ports(self) -> "Plan":
        """With a port for each program: the one it had where that is free, else another."""
        airflows = (airflow_program(site, AIRFLOW_SERVER) for site in self.sites if self.airflow)
        wanted = (*PORTS_OF_ALL, *(name for name in self.services if name not in PORTS_OF_ALL), *airflows)
        kept = {name: self.ports[name] for name in wanted if is_free(self.ports.get(name, 0))}
        new = (port for port in free_ports(2 * len(wanted)) if port not in kept.values())
        return self.model_copy(update={"ports": {name: kept.get(name) or next(new) for name in wanted}})


class ProgramState(BaseModel):
    """How one program is doing. `since` is when it came into this state."""

    name: str
    pid: int | None = None
    state: Literal["waiting", "starting", "running", "restarting", "stopped"] = "waiting"
    restarts: int = 0
    since: datetime
    detail: str = ""


class StackState(BaseModel):
    """How the whole stack is doing; `error` says why it did not start."""

    supervisor: int
    phase: Literal["starting", "running", "stopping", "failed", "stopped"]
    error: str = ""
    programs: tuple[ProgramState, ...] = ()


def read_plan(folder: Path) -> Plan | None:
    """None where no stack was made in the folder. Raises `StackError` where it cannot be understood."""
    return _read(folder / PLAN_FILE, Plan)


def write_plan(folder: Path, plan: Plan) -> None:
    _write(folder / PLAN_FILE, plan)


def read_state(folder: Path) -> StackState | None:
    return _read(folder / STATE_FILE, StackState)


def write_state(folder: Path, state: StackState) -> None:
    _write(folder / STATE_FILE, state)


@contextmanager
def supervised(folder: Path) -> Iterator[None]:
    """Have the stack to oneself. Raises `StackRunsError` where another process does."""
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackRunsError(folder) from None
        yield


def is_supervised(folder: Path) -> bool:
    """Whether a process runs the stack now."""
    try:
        with supervised(folder):
            return False
    except StackRunsError:
        return True
    except FileNotFoundError:
        return False


def _read(file: Path, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise StackError(f"{file} is not what a stack of this version writes; name another --folder") from None


def _write(file: Path, model: BaseModel) -> None:
    aside = file.with_suffix(f".{os.getpid()}")
    try:
        aside.write_text(json.dumps(model.model_dump(mode="json"), indent=1))
        os.replace(aside, file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def airflow_program(site: str, component: str) -> str:
    """What a component of a clinic's Airflow is called; no other program has a dot in its name."""
    return f"{site}.{component}"


def _numbered(name: str, count: int) -> tuple[str, ...]:
    """The first keeps the plain name."""
    return tuple(name if number == 1 else f"{name}-{number}" for number in range(1, count + 1))
