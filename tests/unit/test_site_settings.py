import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from wardround.runtime.secrets import SecretUnreadableError
from wardround.site_agent.settings import (
    Airflow,
    Inline,
    Local,
    SettingsError,
    load_site,
)

AUTHORITY = trustme.CA()
WHOLE = """
schema = 1
site   = "clinic-1"
[hub]
broker    = "amqps://hub.example.org:443"
store     = "https://store.example.org"
ca        = "ca.pem"
username  = "clinic-1"
password  = { file = "secrets/broker" }
store_key = { id = "clinic-1-key", file = "secrets/store" }
[paths]
inbox = "inbox.sqlite"
log   = "audit.jsonl"
spool = "/var/spool/wardround"
[scheduler]
kind     = "airflow"
url      = "https://airflow.hospital.lan"
username = "wardround"
password = { file = "secrets/airflow" }
slots    = 2
retries  = 3
dags     = { default = "wardround_task", "chest-cnn" = "chest.v2" }
[transfers]
at_most = "16 Mbit/s"
[datasets.brain-mri]
path       = "data/brain-mri"
layout     = "decathlon"
split_salt = { file = "secrets/split" }
[datasets.brain-mri-test]
path = ["data/a", "/mnt/b"]
"""

EMBEDDED = """
schema = 1
site   = "clinic-1"
[paths]
inbox = "inbox.sqlite"
log   = "audit.jsonl"
spool = "spool"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `site.toml`; the secrets lie beside it."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "secrets").mkdir()
    for name in ("broker", "store", "airflow", "split"):
        secret = tmp_path / "secrets" / name
        secret.write_text(f"hush-{name}\n")
        secret.chmod(0o600)

    def write(text: str) -> Path:
        file = tmp_path / "site.toml"
        file.write_text(text)
        return file

    return write


def refused(file: Path) -> SettingsError:
    with pytest.raises(SettingsError) as raised:
        load_site(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
    return raised.value


def test_a_whole_file_is_read_with_its_paths_resolved_against_its_folder(write: Write, tmp_path: Path) -> None:
    site = load_site(write(WHOLE))
    assert site.hub is not None
    assert site.hub.ca == tmp_path / "ca.pem"
    assert site.hub.store_key.id == "clinic-1-key"
    assert site.paths.inbox == tmp_path / "inbox.sqlite"
    assert site.paths.spool == Path("/var/spool/wardround")
    assert isinstance(site.scheduler, Airflow)
    assert (site.scheduler.slots, site.scheduler.retries) == (2, 3)
    assert site.transfers.at_most == 2_000_000
    assert site.datasets["brain-mri"].folders == (str(tmp_path / "data/brain-mri"),)
    assert site.datasets["brain-mri-test"].folders == (str(tmp_path / "data/a"), "/mnt/b")


def test_a_trainer_has_the_dag_that_is_named_for_it_or_the_default(write: Write) -> None:
    scheduler = load_site(write(WHOLE)).scheduler
    assert isinstance(scheduler, Airflow)
    assert (scheduler.dag_of("chest-cnn"), scheduler.dag_of("any-other")) == ("chest.v2", "wardround_task")


def test_an_embedded_site_needs_no_hub_and_trains_locally(write: Write) -> None:
    site = load_site(write(EMBEDDED))
    assert site.hub is None
    assert site.scheduler == Local(slots=1, retries=1)
    assert site.transfers.at_most is None
    assert site.datasets == {}


def test_the_kind_of_scheduler_can_be_chosen(write: Write, tmp_path: Path) -> None:
    inline = load_site(write(EMBEDDED + "[scheduler]\nkind = 'inline'\n")).scheduler
    assert isinstance(inline, Inline)
    local = load_site(write(EMBEDDED + "[scheduler]\nkind = 'local'\npython = 'venv/bin/python'\n")).scheduler
    assert local.python == tmp_path / "venv/bin/python"


def test_the_file_may_begin_with_a_byte_order_mark(write: Write) -> None:
    assert load_site(write("\ufeff" + EMBEDDED)).site == "clinic-1"


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        (("[paths]", "[paths]\nspol = 'x'"), "paths", "unknown key 'spol'; valid keys are inbox, log, spool"),
        (("site   =", "sight = 1\nsite   ="), "", "unknown key 'sight'; valid keys are site, hub, paths"),
        (("slots    = 2", "slot = 2"), "scheduler", "unknown key 'slot'; valid keys are slots, retries, python, kind"),
        (("[datasets.brain-mri]", "[datasets.brain-mri]\nsalt = ''"), "datasets.brain-mri", "unknown key 'salt'"),
        (("at_most = ", "at_least = "), "transfers", "unknown key 'at_least'; valid keys are at_most"),
        (('"16 Mbit/s"', '"16 MB"'), "transfers.at_most", "must be a speed such as '2 MB/s' or '16 Mbit/s'"),
        (('"16 Mbit/s"', '"1 kB/s"'), "transfers.at_most", "must be a speed of 10 kB/s to 100 GB/s"),
        (("schema = 1", "schema = 2"), "schema", "must be 1"),
        (("schema = 1", "schema = true"), "schema", "must be 1"),
        (("schema = 1", ""), "schema", "must be 1"),
        (('site   = "clinic-1"', ""), "site", "is missing"),
        (('spool = "/var/spool/wardround"', ""), "paths.spool", "is missing"),
        (('site   = "clinic-1"', "site = 1"), "site", "string"),
        (('site   = "clinic-1"', "site = 'Clinic 1'"), "site", "pattern"),
        (('site   = "clinic-1"', "site = 'hub'"), "site", "reserved"),
        (
            ('username  = "clinic-1"', "username = 'clinic-2'"),
            "",
            "a site speaks as itself: 'clinic-1'",
        ),
        (("amqps://hub.example.org:443", "hub.example.org"), "hub.broker", "amqps:// or amqp://"),
        (("amqps://hub", "amqps://me:hush@hub"), "hub.broker", "secrets are files"),
        (("https://store", "ftp://store"), "hub.store", "https:// or http://"),
        (('{ file = "secrets/broker" }', "'hush'"), "hub.password", "secrets are files"),
        (('file = "secrets/broker"', "file = 'absent'"), "hub.password.file", "No such file"),
        (('file = "secrets/broker"', "file = 'secrets'"), "hub.password.file", "is not a file"),
        (('"airflow"', '"cron"'), "scheduler", "'airflow', 'local' or 'inline'"),
        (('kind     = "airflow"', ""), "scheduler", "'airflow', 'local' or 'inline'"),
        (("slots    = 2", "slots = 0"), "scheduler.slots", "greater than or equal to 1"),
        (("slots    = 2", "slots = '2'"), "scheduler.slots", "integer"),
        (("slots    = 2", "slots = true"), "scheduler.slots", "integer"),
        (("retries  = 3", "retries = -1"), "scheduler.retries", "greater than or equal to 0"),
        (('"wardround_task"', '"a/../b"'), "scheduler.dags.default", "pattern"),
        (('path       = "data/brain-mri"', "path = 7"), "datasets.brain-mri.path", "must be a path"),
        (('["data/a", "/mnt/b"]', "[]"), "datasets.brain-mri-test.path", "at least 1"),
        (('["data/a", "/mnt/b"]', "['a', '']"), "datasets.brain-mri-test.path[2]", "must be a path"),
        (("[datasets.brain-mri]", "[datasets.'Brain MRI']"), "datasets", "pattern"),
    ],
)
def test_what_does_not_fit_is_told_with_the_file_the_key_and_what_is_valid(
    write: Write, change: tuple[str, str], key: str, said: str
) -> None:
    assert change[0] in WHOLE
    error = refused(write(WHOLE.replace(*change, 1)))
    assert error.key.startswith(key)
    assert said in error.problem
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    "text", ["site = ", "site = 'a'\nsite = 'b'", "[paths]\n[paths]", "= 1", "x = " + "9" * 5000, "x = " + "[" * 5000]
)
def test_a_broken_file_is_told_as_such(write: Write, text: str) -> None:
    assert "is not TOML" in refused(write(text)).problem


def test_a_file_that_is_not_text_is_told_as_such(write: Write) -> None:
    file = write("")
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in refused(file).problem


def test_a_file_that_is_absent_or_a_folder_is_told_as_such(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "site.toml").problem
    assert "cannot be read: Is a directory" in refused(tmp_path).problem


# --- secrets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_can_reach_is_refused(write: Write, tmp_path: Path, mode: int) -> None:
    (tmp_path / "secrets/broker").chmod(mode)
    error = refused(write(WHOLE))
    assert error.key == "hub.password.file"
    assert "chmod 600" in error.problem


def test_a_secret_is_read_when_it_is_needed(write: Write, tmp_path: Path) -> None:
    site = load_site(write(WHOLE))
    assert site.hub is not None
    assert site.hub.password.read() == "hush-broker"
    (tmp_path / "secrets/broker").write_text("changed\r\n")
    assert site.hub.password.read() == "changed"
    assert site.datasets["brain-mri"].salt() == "hush-split"
    assert site.datasets["brain-mri-test"].salt() == ""


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.chmod(0o644), lambda file: file.write_text("\n")])
def test_a_secret_that_was_spoiled_since_is_an_error(
    write: Write, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    site = load_site(write(WHOLE))
    spoil(tmp_path / "secrets/split")
    with pytest.raises(SecretUnreadableError):
        site.datasets["brain-mri"].salt()


def test_no_secret_is_shown(write: Write) -> None:
    site = load_site(write(WHOLE))
    assert "hush" not in repr(site) + str(site) + site.model_dump_json()


def test_a_secret_behind_a_link_is_judged_by_its_file(write: Write, tmp_path: Path) -> None:
    real = tmp_path / "mounted"
    real.write_text("hush\n")
    real.chmod(0o600)
    (tmp_path / "secrets/broker").unlink()
    os.symlink(real, tmp_path / "secrets/broker")
    site = load_site(write(WHOLE))
    assert site.hub is not None
    assert site.hub.password.read() == "hush"
    assert not stat.S_IMODE(real.stat().st_mode) & 0o077


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ('ca        = "ca.pem"', 'ca = "nowhere.pem"', "hub.ca", "cannot be used: No such file"),
        ('ca        = "ca.pem"', 'ca = "site.toml"', "hub.ca", "no certificates in PEM form"),
        ("amqps://hub.example.org:443", "amqps://hub.example.org:99999", "hub.broker", "port from 0 to 65535"),
        ("https://store.example.org", "https://store.example.org/minio", "hub.store", "nothing may follow"),
    ],
)
def test_a_hub_that_cannot_be_reached_as_described_is_told_with_its_key(
    write: Write, old: str, new: str, key: str, problem: str
) -> None:
    assert old in WHOLE
    error = refused(write(WHOLE.replace(old, new)))
    assert error.key == key
    assert problem in error.problem
