"""What a clinic's `site.toml` says of its Airflow, and how long the agent's login there lasts."""

from pathlib import Path

import pytest
from airflow_scripted import token

from wardround.runtime import command
from wardround.site_agent.main import AgentShell
from wardround.site_agent.scheduler.airflow.login import lifetime
from wardround.site_agent.settings import Airflow, SettingsError, load_site

SITE = """
schema = 1
site = "clinic-1"
[hub]
broker = "amqp://127.0.0.1:9"
store = "http://127.0.0.1:9"
username = "clinic-1"
password = {{ file = "password" }}
store_key = {{ id = "clinic-1", file = "password" }}
[paths]
inbox = "inbox.sqlite"
log = "audit.jsonl"
spool = "spool"
[scheduler]
kind = "airflow"
url = "{url}"
username = "site-agent"
password = {{ file = "password" }}
queued_at_most = {queued_at_most}
"""


def site_file(folder: Path, *, url: str = "http://127.0.0.1:8080", queued_at_most: str = '"10m"') -> Path:
    password, file = folder / "password", folder / "site.toml"
    password.write_text("hush-airflow")
    password.chmod(0o600)
    file.write_text(SITE.format(url=url, queued_at_most=queued_at_most))
    return file


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_an_agent_does_not_start_where_its_login_would_travel_in_the_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    file = site_file(tmp_path, url="http://airflow.hospital.lan/airflow")
    with pytest.raises(SystemExit) as ended:
        command.run(AgentShell(), [str(file), *arguments])
    assert ended.value.code == command.Exit.CONFIGURATION
    assert "http://airflow.hospital.lan is not encrypted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "seconds"), [('"90s"', 90), ('"10m"', 600), ('"24h"', 86_400), ('"14d"', 1_209_600)]
)
def test_how_long_a_run_may_be_queued_is_a_duration(tmp_path: Path, written: str, seconds: int) -> None:
    scheduler = load_site(site_file(tmp_path, queued_at_most=written)).scheduler
    assert isinstance(scheduler, Airflow)
    assert scheduler.queued_at_most == seconds


@pytest.mark.parametrize("written", ["3600", '"1 h"', '"0s"', '"367d"', "true", '"\u0661h"'])
def test_what_is_no_duration_is_told_with_its_key(tmp_path: Path, written: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_site(site_file(tmp_path, queued_at_most=written))
    assert raised.value.key.startswith("scheduler.queued_at_most")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (token("t", lives=86_400), 86_340),
        (token("t", lives=100), 90),
        (token("t", lives=-5), 0),
        ("opaque", float("inf")),
        ("a.b.c", float("inf")),
        ("a.bnVsbA.c", float("inf")),
        ("a." + "eyJpYXQiOjEsImV4cCI6IngifQ" + ".c", float("inf")),
    ],
)
def test_how_long_a_token_is_used_follows_from_its_own_words(said: str, seconds: float) -> None:
    assert lifetime(said) == seconds
