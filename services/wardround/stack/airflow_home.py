"""The folder of one clinic's Airflow: its settings, its secrets and its logins."""

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.hub.folder import write_private
from wardround.stack.folder import Plan
from wardround.stack.ports import LOOPBACK

AGENT = "site-agent"  # starts runs, and may do nothing else
PERSON = "admin"  # whoever opens Airflow's pages
ROLES = {AGENT: "user", PERSON: "admin"}

DATABASE = "airflow.db"
SETTINGS = "airflow.cfg"
PASSWORDS = "passwords.json"
TASKS_AT_ONCE = 4  # a worker process each, from the first run on
LOST_AFTER = 10  # seconds without a sign of life after which a scheduler counts as dead


AIRFLOWS = Path("servers/airflow")  # in the folder of a stack: one for each clinic, and databases to copy


@dataclass(frozen=True, slots=True)
class AirflowHome:
    """One clinic's Airflow, in a folder that is its `AIRFLOW_HOME`, with its web server at `port`."""

    folder: Path
    port: int

    @classmethod
    def of(cls, folder: Path, plan: Plan, site: str) -> "AirflowHome":
        """That of a clinic of the stack in the folder."""
        return cls(folder / AIRFLOWS / site, plan.airflow_port(site))

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / DATABASE

    def password_file(self, login: str) -> Path:
        """The file with the password of `AGENT` or `PERSON`, for its owner alone."""
        return self.folder / "secrets" / login

    def write(self, dags: Path) -> None:
        """Write what Airflow starts from. Secrets that are there are kept, so that sessions and connections that were
        saved with them stay good.

        Raises:
            OSError: the folder cannot be written.
        """
        (self.folder / "secrets").mkdir(mode=0o700, parents=True, exist_ok=True)
        passwords = {login: self._secret(login) for login in ROLES}
        write_private(self.folder / PASSWORDS, json.dumps(passwords))
        keys = {
            "fernet_key": self._secret("fernet-key", _fernet_key),
            "secret_key": self._secret("session-key"),
            "jwt_secret": self._secret("token-key"),
        }
        write_private(self.folder / SETTINGS, settings_text(settings(self, dags, **keys)))

    def _secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        file = self.password_file(name)
        if not file.exists():
            write_private(file, make())
        return file.read_text()


def settings(
    home: AirflowHome, dags: Path, *, fernet_key: str, secret_key: str, jwt_secret: str
) -> dict[str, dict[str, str]]:
    """Section -> key -> value of `airflow.cfg`: answers in half a second, loopback only, nothing told to anybody.

    All that Airflow must know stands in this file, which only its owner reads: a training inherits the environment of
    the scheduler, and has no business with these secrets.
    """
    return {
        "core": {
            "dags_folder": str(dags),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "executor": "LocalExecutor",
            "parallelism": str(TASKS_AT_ONCE),
            "simple_auth_manager_users": ",".join(f"{login}:{role}" for login, role in ROLES.items()),
            "simple_auth_manager_passwords_file": str(home.folder / PASSWORDS),
            # It must follow the port, or every task fails.
            "execution_api_server_url": f"{home.url}/execution/",
            "fernet_key": fernet_key,
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home.database}"},
        "logging": {"base_log_folder": str(home.folder / "logs")},
        "api": {
            "base_url": home.url,
            "host": LOOPBACK,
            "port": str(home.port),
            "workers": "1",
            "secret_key": secret_key,
        },
        "api_auth": {"jwt_secret": jwt_secret},
        "scheduler": {
            "scheduler_idle_sleep_time": "0.25",
            "enable_health_check": "False",
            # What a killed scheduler had started is started again by the next one, within seconds and not minutes.
            "scheduler_heartbeat_sec": "2",
            "scheduler_health_check_threshold": str(LOST_AFTER),
            "orphaned_tasks_check_interval": str(LOST_AFTER),
        },
        "workers": {"min_heartbeat_interval": "1"},
        # The DAGs change with the installation: to look every half minute would cost a process each time.
        "dag_processor": {"min_file_process_interval": "600", "print_stats_interval": "0", "parsing_processes": "1"},
        "usage_data_collection": {"enabled": "False"},
    }


def settings_text(sections: Mapping[str, Mapping[str, str]]) -> str:
    """As a file. A percent sign would begin a reference to another key."""
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {value.replace('%', '%%')}\n" for key, value in held.items())
        for section, held in sections.items()
    )


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
