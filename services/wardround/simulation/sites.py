"""The clinics of a simulation: folders with `site.toml` and `policy.toml`, a person's own or made from a template."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.runtime.toml_file import SettingsError
from wardround.site_agent.settings import Paths, SiteSettings, load_site
from wardround.training.imaging.decathlon import DATASET
from wardround.training.registry import dataset_writer
from wardround_messages.manifest import Manifest

SITE_FILE = "site.toml"
POLICY_FILE = "policy.toml"
RESEARCHER = "researcher-a"


class SitesError(Exception):
    """The clinics cannot be set up; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Clinic:
    """One site of the federation: its settings, and the policy file that is read at every decision."""

    settings: SiteSettings
    policy: Path

    @property
    def name(self) -> str:
        return self.settings.site


def load_clinics(folder: Path, wanted: tuple[str, ...]) -> list[Clinic]:
    """The clinics in `folder/<site>/`, all that are there.

    Raises:
        SitesError: a site that the experiment asks has no folder, or a file in one cannot be used.
    """
    missing = [site for site in wanted if not (folder / site / SITE_FILE).is_file()]
    if missing:
        raise SitesError(f"{folder / missing[0] / SITE_FILE} is missing: cohort.sites asks for '{missing[0]}'")
    clinics = []
    for file in sorted(folder.glob(f"*/{SITE_FILE}")):
        try:
            settings = load_site(file)
        except SettingsError as error:
            raise SitesError(str(error)) from None
        if settings.site != file.parent.name:
            raise SitesError(f"{file}: site is '{settings.site}', but its folder is '{file.parent.name}'")
        clinics.append(Clinic(settings, file.parent / POLICY_FILE))
    return clinics


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the policy of a clinic made here allows."""

    study: str
    trainer: str
    datasets: tuple[str, ...]
    rule: str = "simulated"


def make_clinics(folder: Path, manifest: Manifest, *, scheduler: str) -> list[Clinic]:
    """Clinics from the template, with the example data that is installed under the experiment's data set's name.

    What is there already is kept, so that an experiment can go on where it stopped.

    Raises:
        SitesError: nothing installed can make the data set.
    """
    training = manifest.training
    sites = manifest.cohort.sites
    if not all((folder / site / SITE_FILE).is_file() for site in sites):
        shutil.rmtree(folder, ignore_errors=True)
        data = example_data(training.dataset, folder, sites, manifest.seed)
        for site in sites:
            allowed = Allowed(manifest.study, training.trainer, tuple(sorted(data.get(site, {}))))
            write_clinic(folder / site, site, data.get(site, {}), [allowed], seed=manifest.seed, scheduler=scheduler)
    return load_clinics(folder, sites)


def example_data(dataset: str, folder: Path, sites: Sequence[str], seed: int) -> Mapping[str, Mapping[str, Path]]:
    """Write the example data installed under that name into `folder/<site>/`: site -> {data set: its folder}.

    Raises:
        SitesError: no such data are installed, or they cannot be divided among so many sites.
    """
    writer = dataset_writer(dataset)
    if writer is None:
        raise SitesError(
            f"training.dataset: no example data '{dataset}' is installed; "
            "give your own sites with --sites DIR (DIR/<site>/site.toml and policy.toml)"
        )
    try:
        return writer(folder, tuple(sites), seed)
    except ValueError as error:
        raise SitesError(f"--sites: {error}") from None


def write_clinic(
    folder: Path, site: str, data: Mapping[str, Path], allowed: Sequence[Allowed], *, seed: int, scheduler: str
) -> None:
    """Settings, policy and split salt of a clinic whose data lie in its folder."""
    (folder / "secrets").mkdir(parents=True, exist_ok=True)
    salt = folder / "secrets" / "split"
    salt.touch(mode=0o600)
    salt.write_text(hashlib.sha256(f"{site}.{seed}".encode()).hexdigest())
    (folder / POLICY_FILE).write_text(policy_text(allowed))
    (folder / SITE_FILE).write_text(_site(folder, site, data, scheduler=scheduler))


def add_data(folder: Path, data: Mapping[str, Path], allowed: Allowed) -> None:
    """Give a clinic that was made here more data, in its folder, and a policy rule for them. Nothing else changes."""
    with (folder / SITE_FILE).open("a") as site, (folder / POLICY_FILE).open("a") as policy:
        site.write(_datasets(folder, data))
        policy.write(_rule(allowed))


def _site(folder: Path, site: str, data: Mapping[str, Path], *, scheduler: str) -> str:
    return f"""schema = 1
site   = "{site}"

[paths]
inbox = "inbox.sqlite"
log   = "audit.jsonl"
spool = "spool"

[scheduler]
kind  = "{scheduler}"
slots = 1
{_datasets(folder, data)}"""


def _datasets(folder: Path, data: Mapping[str, Path]) -> str:
    return "".join(
        f'\n[datasets.{name}]\npath       = "{path.relative_to(folder)}"\n'
        + ('layout     = "decathlon"\n' if (path / DATASET).is_file() else "")
        + 'split_salt = { file = "secrets/split" }\n'
        for name, path in sorted(data.items())
    )


def policy_text(allowed: Sequence[Allowed]) -> str:
    """A policy that allows this and nothing else."""
    return """schema  = 1
default = "deny"

[leave]
update_at_most = "10 GB"
metrics        = ["*"]
errors         = "text"
""" + "".join(map(_rule, allowed))


def _rule(allowed: Allowed) -> str:
    named = ", ".join(f'"{name}"' for name in allowed.datasets)
    return f"""
[[allow]]
id           = "{allowed.rule}"
study        = "{allowed.study}"
requested_by = ["{RESEARCHER}"]
trainers     = ["{allowed.trainer}"]
datasets     = [{named}]
approval     = "automatic"
"""


def beside(clinic: Clinic, folder: Path) -> Clinic:
    """The clinic with an inbox, a spool and a log of its own in `folder`: a person's site folder is only read."""
    paths = Paths.model_construct(inbox=folder / "inbox.sqlite", log=folder / "audit.jsonl", spool=folder / "spool")
    folder.mkdir(parents=True, exist_ok=True)
    return Clinic(clinic.settings.model_copy(update={"paths": paths}), clinic.policy)
