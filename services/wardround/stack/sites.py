"""The clinics of a stack: a person's own, or made from the template with the data of the examples."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wardround.hub.folder import HubFolder
from wardround.runtime.toml_file import SettingsError, read_toml
from wardround.runtime.toml_text import toml_document
from wardround.simulation.sites import (
    SITE_FILE,
    Allowed,
    SitesError,
    add_data,
    example_data,
    load_clinics,
    write_clinic,
)
from wardround.stack.airflow_home import AGENT, AirflowHome
from wardround.stack.folder import Plan
from wardround_messages.names import SITE_MAX, is_id

SITES = "sites"
OF_ANY_SCHEDULER = ("slots", "retries", "python")
WRITTEN_BY = """\
# Written by `wardround stack up`: the hub, the paths, the HTTP port and what runs the trainings are those of the stack,
# at each start anew. Whatever else stands here is kept.
"""
EXAMPLES = (
    Allowed("breast-cancer", "breast-cancer-mlp", ("breast-cancer", "breast-cancer-test"), rule="breast-cancer"),
    Allowed("counting", "adding", ("counting",), rule="counting"),
)
BRAIN_TUMOUR = Allowed("glioma", "brain-tumour-unet", ("brain-mri", "brain-mri-test"), rule="brain-tumour")


def make_sites(folder: Path, sites: Sequence[str], seed: int) -> None:
    """A folder for each site with the data of all examples and a policy that allows these. Those there are kept.

    Raises:
        SitesError: there are others than these, or the data cannot be divided among so many sites.
    """
    there = {file.parent.name for file in folder.glob(f"*/{SITE_FILE}")}
    if there == set(sites):
        return
    if there:
        raise SitesError(
            f"--sites: the stack has {len(there)} clinics, and dividing the data anew would train on what was kept for "
            "validation; --fresh begins anew, another --name makes another stack"
        )
    data: dict[str, dict[str, Path]] = {site: {} for site in sites}
    for example in EXAMPLES:
        for site, written in example_data(example.datasets[0], folder, sites, seed).items():
            data[site] |= written
    for site in sites:
        allowed = [_of_its_own(each, data[site]) for each in EXAMPLES]
        write_clinic(folder / site, site, data[site], allowed, seed=seed, scheduler="local")


def add_brain_tumour(folder: Path, sites: Sequence[str], seed: int) -> None:
    """Give the clinics that `make_sites` made the scans of the brain tumour example, which take longer to make than
    all else. Those that have them keep them.

    Raises:
        SitesError: a clinic cannot be read, or what makes the scans is not installed.
    """
    name = BRAIN_TUMOUR.datasets[0]
    having = {clinic.name for clinic in load_clinics(folder, tuple(sites)) if name in clinic.settings.datasets}
    if having >= set(sites):
        return
    for site, written in example_data(name, folder, sites, seed).items():
        if site not in having:
            add_data(folder / site, written, _of_its_own(BRAIN_TUMOUR, written))


def _of_its_own(allowed: Allowed, data: Mapping[str, Path]) -> Allowed:
    """As far as the clinic has the data."""
    return replace(allowed, datasets=tuple(name for name in allowed.datasets if name in data))


def own_sites(folder: Path) -> tuple[str, ...]:
    """The names of the clinics in a person's own folder, once each of their files can be used.

    Raises:
        SitesError: there are none, or one cannot be used.
    """
    if not folder.is_dir():
        raise SitesError(f"--sites: there is no folder {folder}")
    names = tuple(clinic.name for clinic in load_clinics(folder, ()))
    if not names:
        raise SitesError(f"--sites: no clinic in {folder}: one is DIR/<site>/site.toml with policy.toml beside it")
    wrong = [name for name in names if not is_id(name, SITE_MAX)]
    if wrong:
        raise SitesError(f"--sites: '{wrong[0]}' cannot be a site")
    return names


def write_site_files(folder: Path, plan: Plan, hub: HubFolder) -> None:
    """Make `site.toml` of each clinic that was made here complete, with what the stack has now: the agent, and a
    person's `wardround site --site ...`, need nothing besides. Data sets, and what a person added, are kept.

    Raises:
        SitesError: one cannot be read as it stands.
    """
    for site in plan.sites:
        file = folder / SITES / site / SITE_FILE
        try:
            table = read_toml(file)
        except SettingsError as error:
            raise SitesError(str(error)) from None
        made = site_tables(folder, plan, hub, site)
        scheduler = _table(table, "scheduler")
        made["scheduler"] = {key: scheduler[key] for key in OF_ANY_SCHEDULER if key in scheduler} | made["scheduler"]
        made["http"] = _table(table, "http") | made["http"]
        head = {key: value for key, value in table.items() if not isinstance(value, dict)}
        file.write_text(WRITTEN_BY + toml_document(head | made | {k: v for k, v in table.items() if k not in made}))


def site_tables(folder: Path, plan: Plan, hub: HubFolder, site: str) -> dict[str, dict[str, object]]:
    """What `site.toml` of a clinic must say in this stack: table -> key -> value."""
    home = folder / SITES / site
    tables: dict[str, dict[str, object]] = {
        "hub": {
            "broker": hub.roster.broker,
            "store": hub.roster.store,
            "username": site,
            "password": {"file": hub.broker_secret(site)},
            "store_key": {"id": site, "file": hub.store_secret(site)},
        },
        "paths": {
            "inbox": home / "inbox.sqlite",
            "log": home / "audit.jsonl",
            "spool": spool_of(folder, site),
        },
        "http": {"port": plan.ports[site]},
    }
    if plan.airflow:
        airflow = AirflowHome.of(folder, plan, site)
        tables["scheduler"] = {
            "kind": "airflow",
            "url": airflow.url,
            "username": AGENT,
            "password": {"file": airflow.password_file(AGENT)},
        }
    elif plan.own_sites is None:
        tables["scheduler"] = {"kind": "local"}
    return tables


def spool_of(folder: Path, site: str) -> Path:
    """Where the clinic's agent lays the tasks' folders, and its Airflow looks for them."""
    return folder / SITES / site / "spool"


def python_of(folder: Path, plan: Plan, site: str) -> str:
    """The interpreter that the clinic's trainers are installed in: what `site.toml` names, else this one.

    Raises:
        SettingsError: the file cannot be read.
    """
    file = (plan.own_sites or folder / SITES) / site / SITE_FILE
    named = _table(read_toml(file), "scheduler").get("python")
    return str(file.parent / named) if isinstance(named, str) else sys.executable


def _table(table: Mapping[str, object], name: str) -> dict[str, object]:
    held = table.get(name)
    return held if isinstance(held, dict) else {}
