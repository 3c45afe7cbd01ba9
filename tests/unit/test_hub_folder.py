"""An operator's folder: made once, added to, with every secret for its owner alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from wardround.client.hubs import read_profile
from wardround.hub.folder import HubError, HubFolder
from wardround.runtime.roster import Roster
from wardround.site_agent.settings import load_site


def roster(**more: object) -> Roster:
    return Roster(
        broker="amqps://hub.example.org:443",
        store="https://store.example.org",
        researchers=("researcher-a",),
        **more,  # type: ignore[arg-type]
    )


def test_a_site_is_handed_a_folder_whose_settings_work_and_whose_policy_allows_nothing(tmp_path: Path) -> None:
    HubFolder.init(tmp_path / "hub", roster()).with_site("clinic-1")
    handed = tmp_path / "hub" / "sites" / "clinic-1"
    settings = load_site(handed / "site.toml")
    assert settings.hub is not None
    assert (settings.site, settings.hub.username, settings.hub.broker) == (
        "clinic-1",
        "clinic-1",
        "amqps://hub.example.org:443",
    )
    assert 'default = "deny"' in (handed / "policy.toml").read_text()
    assert not [line for line in (handed / "policy.toml").read_text().splitlines() if line.startswith("[[allow]]")]
    assert read_profile(file=tmp_path / "hub" / "people" / "researcher-a" / "hubs.toml").username == "researcher-a"


def test_every_file_is_its_owners_alone_and_no_password_stands_in_the_definitions(tmp_path: Path) -> None:
    hub = HubFolder.init(tmp_path / "hub", roster()).with_site("clinic-1")
    files = [file for file in hub.path.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    definitions = (hub.path / "definitions.json").read_text()
    assert {user["name"] for user in json.loads(definitions)["users"]} == set(hub.broker_logins)
    assert not [login for login in hub.broker_logins if hub.broker_secret(login).read_text() in definitions]


def test_adding_keeps_the_secrets_and_what_a_clinic_wrote(tmp_path: Path) -> None:
    hub = HubFolder.init(tmp_path / "hub", roster()).with_site("clinic-1")
    before = {login: hub.broker_secret(login).read_text() for login in hub.broker_logins}
    policy = hub.path / "sites" / "clinic-1" / "policy.toml"
    policy.write_text("# ours")
    hub = hub.with_site("clinic-2").with_researcher("researcher-b")
    assert {login: hub.broker_secret(login).read_text() for login in before} == before
    assert policy.read_text() == "# ours"
    assert HubFolder.open(hub.path).roster.sites == ("clinic-1", "clinic-2")


@pytest.mark.parametrize("name", ["clinic-1", "researcher-a", "hub", "Clinic", "../x", "x" * 25, ""])
def test_a_name_that_cannot_be_or_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    hub = HubFolder.init(tmp_path / "hub", roster()).with_site("clinic-1")
    with pytest.raises(HubError):
        hub.with_site(name)
    assert HubFolder.open(hub.path).roster.sites == ("clinic-1",)


def test_a_private_authority_is_copied_along_also_with_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trustme.CA().cert_pem.write_to_path(tmp_path / "authority.pem")
    HubFolder.init(Path("hub"), roster(ca=str(tmp_path / "authority.pem")))
    HubFolder.open(Path("hub")).with_site("clinic-1")
    handed = load_site(tmp_path / "hub" / "sites" / "clinic-1" / "site.toml")
    assert handed.hub is not None
    assert handed.hub.ca is not None
    assert handed.hub.ca.read_text() == (tmp_path / "authority.pem").read_text()


def test_two_who_add_at_once_both_add(tmp_path: Path) -> None:
    path = HubFolder.init(tmp_path / "hub", roster()).path

    def add(number: int) -> None:
        with HubFolder.changing(path) as hub:
            hub.with_site(f"clinic-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(1, 9)))
    assert sorted(HubFolder.open(path).roster.sites) == [f"clinic-{number}" for number in range(1, 9)]


def test_a_hub_is_made_once(tmp_path: Path) -> None:
    HubFolder.init(tmp_path / "hub", roster())
    with pytest.raises(HubError, match="a hub is here already"):
        HubFolder.init(tmp_path / "hub", roster())
    with pytest.raises(HubError, match="begin with"):
        HubFolder.open(tmp_path / "elsewhere")


def test_nobody_is_called_like_the_stores_administrator(tmp_path: Path) -> None:
    hub = HubFolder.init(tmp_path / "hub", roster())
    for add in (hub.with_site, hub.with_researcher):
        with pytest.raises(HubError, match="administrator"):
            add("root")
    assert not (hub.path / "sites" / "root").exists()
