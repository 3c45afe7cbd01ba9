"""The clinics of a stack: a person's own, or made from the template with the data of the examples."""

from collections.abc import Sequence
from pathlib import Path

from wardround.simulation.sites import (
    SITE_FILE,
    Allowed,
    SitesError,
    example_data,
    load_clinics,
    write_clinic,
)
from wardround_messages.names import SITE_MAX, is_id

EXAMPLES = (
    Allowed("breast-cancer", "breast-cancer-mlp", ("breast-cancer", "breast-cancer-test"), rule="breast-cancer"),
    Allowed("counting", "adding", ("counting",), rule="counting"),
)


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
        write_clinic(folder / site, site, data[site], EXAMPLES, seed=seed, scheduler="local")


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
