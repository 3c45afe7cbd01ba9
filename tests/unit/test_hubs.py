"""Hub profiles: read, chosen, written whole; and no address without TLS off this machine."""

import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wardround.client.errors import UnusableError
from wardround.client.hubs import connections, hubs_file, profile_names, read_profile, remove_profiles, write_profile
from wardround.runtime.encryption import UnencryptedError, refuse_unencrypted
from wardround.runtime.secrets import SecretUnreadableError
from wardround.runtime.toml_file import SettingsError

pytestmark = pytest.mark.usefixtures("hubs")


@pytest.fixture
def table(tmp_path: Path) -> dict[str, object]:
    for name in ("broker", "store"):
        secret = tmp_path / name
        secret.write_text(f"{name}-password\n")
        secret.chmod(0o600)
    return {
        "broker": "amqps://hub.example.org:443",
        "store": "https://store.example.org",
        "username": "researcher-a",
        "password": {"file": str(tmp_path / "broker")},
        "store_key": {"id": "researcher-a", "file": str(tmp_path / "store")},
    }


def test_a_profile_is_read_as_it_was_written_and_only_its_owner_may_read_the_file(
    hubs: Path, table: dict[str, object]
) -> None:
    table["metrics"] = "https://metrics.example.org"
    assert write_profile("glioma", table) == hubs == hubs_file()
    assert stat.S_IMODE(hubs.stat().st_mode) == 0o600
    profile = read_profile("glioma")
    assert (profile.host, profile.username, profile.metrics) == (
        "hub.example.org",
        "researcher-a",
        "https://metrics.example.org",
    )
    assert (profile.password.read(), profile.store_key.id) == ("broker-password", "researcher-a")
    assert list(hubs.parent.iterdir()) == [hubs]


def test_writing_one_profile_keeps_the_others_and_the_default(hubs: Path, table: dict[str, object]) -> None:
    hubs.parent.mkdir()
    hubs.write_text(
        'schema = 1\ndefault = "own"\n[hubs.own]\nbroker = "amqps://\\"é\\u007f"\nlater = [1, 2.5, true, 1e400]\n'
        '[hubs.own.password]\nfile = "x"\n'
    )
    before = tomllib.loads(hubs.read_text())["hubs"]["own"]
    write_profile("stack", table)
    write_profile("stack", table | {"username": "researcher-b"})
    data = tomllib.loads(hubs.read_text())
    assert (data["default"], data["hubs"]["own"], profile_names()) == ("own", before, ("own", "stack"))
    assert read_profile("stack").username == "researcher-b"
    write_profile("stack", table, make_default=True)
    assert read_profile().username == "researcher-a"


def test_a_removal_that_is_cut_short_leaves_the_file_whole(
    hubs: Path, table: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile("one", table)
    write_profile("two", table | {"username": "researcher-b"})
    before = hubs.read_text()

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wardround.client.hubs.os.replace", cut)
    with pytest.raises(KeyboardInterrupt):
        remove_profiles(lambda profile: profile["username"] == "researcher-a")
    assert (hubs.read_text(), list(hubs.parent.iterdir())) == (before, [hubs])


def test_without_a_name_the_default_profile_is_meant_or_the_only_one(hubs: Path, table: dict[str, object]) -> None:
    write_profile("one", table)
    hubs.write_text(hubs.read_text().replace('default = "one"\n', ""))
    assert read_profile().username == "researcher-a"
    write_profile("two", table | {"username": "researcher-b"})
    hubs.write_text(hubs.read_text().replace('default = "two"\n', ""))
    with pytest.raises(UnusableError, match=r"--hub.*there are: one, two"):
        read_profile()


def test_a_profile_out_of_order_stands_in_nobodys_way_but_its_own(hubs: Path, table: dict[str, object]) -> None:
    write_profile("good", table)
    with hubs.open("a") as file:
        file.write("[hubs.bad]\nbroker = 7\n")
    assert read_profile("good").username == "researcher-a"
    with pytest.raises(SettingsError, match=r"hubs\.bad\.broker"):
        read_profile("bad")


def test_a_file_that_is_not_there_and_a_name_that_is_not_in_it_say_what_to_do(table: dict[str, object]) -> None:
    with pytest.raises(UnusableError, match="wardround stack up"):
        read_profile()
    assert profile_names() == ()
    write_profile("one", table)
    with pytest.raises(UnusableError, match="has no hub 'two'; there are: one"):
        read_profile("two")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema = 2", "schema: must be 1"),
        ("schema = true", "schema: must be 1"),
        ("schema = 1\nhub = 1", "hub: unknown key; valid keys are schema, default, hubs"),
        ("schema = 1\nhubs = 1", "hubs: must hold a table"),
        ("schema = 1\ndefault = 1", "default: must be the name"),
        ("schema = 1\n[hubs.x]\nschema = 1", r"hubs\.x\.schema: unknown key"),
        ("schema = 1\n[hubs.x]", r"hubs\.x\.broker: is missing"),
        ("schema = ", "is not TOML"),
        ("a" * 300_000, "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(hubs: Path, text: str, told: str) -> None:
    hubs.parent.mkdir()
    hubs.write_text(text)
    with pytest.raises(SettingsError, match=told) as error:
        read_profile("x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("password", "hunter22", "secrets are files"),
        ("broker", "amqps://me:hunter22@hub", "must not hold a user name"),
        ("metrics", "ftp://hub", "must be an address"),
        ("metrics_token", "hunter22", "secrets are files"),
        ("colour", "blue", "unknown key 'colour'"),
    ],
)
def test_what_could_not_be_read_again_is_not_written_and_no_secret_is_told(
    hubs: Path, table: dict[str, object], key: str, value: str, told: str
) -> None:
    write_profile("x", table)
    before = hubs.read_bytes()
    with pytest.raises(SettingsError, match=told) as error:
        write_profile("x", table | {key: value})
    assert "hunter22" not in str(error.value)
    assert hubs.read_bytes() == before
    with pytest.raises(SettingsError, match="lower-case"):
        write_profile("../x", table)


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, table: dict[str, object]) -> None:
    write_profile("x", table)
    (tmp_path / "broker").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_profile("x")


def test_an_empty_secret_is_told(tmp_path: Path, table: dict[str, object]) -> None:
    write_profile("x", table)
    (tmp_path / "store").write_text("")
    with pytest.raises(SecretUnreadableError, match="is empty"):
        connections(read_profile("x"))


@pytest.mark.parametrize(
    "address", ["amqp://hub.example.org", "http://10.0.0.7:9000", "http://localhost.example.org", "http://[::2]:80"]
)
def test_an_address_without_tls_off_this_machine_is_refused(table: dict[str, object], address: str) -> None:
    with pytest.raises(UnencryptedError, match=r"not encrypted: use .*--insecure-lab"):
        refuse_unencrypted(["amqps://hub", address], insecure_lab=False)
    refuse_unencrypted([address], insecure_lab=True)


@pytest.mark.parametrize(
    "address", ["amqp://localhost:5672", "http://127.0.0.9", "http://[::1]:80", "amqps://hub", "https://10.0.0.7"]
)
def test_this_machine_and_addresses_with_tls_are_fine(address: str) -> None:
    refuse_unencrypted([address], insecure_lab=False)


def test_a_profile_without_tls_is_not_connected_to(table: dict[str, object]) -> None:
    write_profile("x", table | {"metrics": "http://metrics.example.org"})
    with pytest.raises(UnencryptedError, match=r"http://metrics\.example\.org"):
        connections(read_profile("x"))


def test_the_command_line_answers_without_loading_what_a_hub_needs() -> None:
    heavy = "aio_pika", "minio", "httpx", "torch", "platformdirs", "wardround.client.hub"
    code = f"import sys, wardround.client.cli.main as m; print([n for n in {heavy} if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
