"""What the folder of a run has besides its hub, and what is installed here: data, models, the trainer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.client.report.material import Goal, RunRead, Synthetic
from wardround.client.report.reading import HUB
from wardround.runtime.toml_file import SettingsError
from wardround.site_agent.settings import Dataset, SiteSettings, load_site
from wardround_messages.manifest import Manifest
from wardround_messages.names import bucket_of

SITES = "sites"
SITE_FILE = "site.toml"
DATASET_FILE = "dataset.json"
DATASET_AT_MOST = 2**20
SYNTHETIC = "synthetic"


def declared_metrics(trainer: str) -> Mapping[str, Goal]:
    """The metrics that the trainer declares, in its order; none where it is not installed."""
    try:
        from wardround.training.errors import TaskError
        from wardround.training.registry import installed_trainer
    except ModuleNotFoundError:  # a researcher's machine need not be one that trains
        return {}
    try:
        return installed_trainer(trainer).description.metrics
    except TaskError:
        return {}


def model_file(folder: Path, run: RunRead) -> Path | None:
    """The last global model as the folder's hub holds it; None where there is none."""
    latest = run.history.latest_model
    adopted = run.history.rounds[latest].model if latest >= 0 else None
    if adopted is None:
        return None
    file = folder / HUB / bucket_of(run.history.manifest.id) / adopted.fact.model.key
    return file if file.is_file() else None


@dataclass(frozen=True, slots=True)
class SitesAtHand:
    """The settings of the sites whose `site.toml` lies here, and by site what is wrong with one that cannot be used."""

    settings: Mapping[str, SiteSettings]
    faults: Mapping[str, SettingsError]

    def dataset(self, site: str, name: str) -> Dataset | None:
        return self.settings[site].datasets.get(name) if site in self.settings else None


def sites_in(folder: Path, manifest: Manifest) -> SitesAtHand:
    """Those of the experiment's sites that have a `site.toml` in `folder/<site>/`."""
    settings, faults = {}, {}
    for site in manifest.cohort.sites:
        file = folder / site / SITE_FILE
        if not file.exists():
            continue
        try:
            settings[site] = load_site(file)
        except SettingsError as error:
            faults[site] = error
    return SitesAtHand(settings, faults)


def synthetic_data(sites: SitesAtHand, manifest: Manifest) -> Synthetic | None:
    """Which sites' data say of themselves that they are synthetic, those of the common test among them."""
    test = manifest.evaluation.test
    words: dict[str, str] = {}
    for site in manifest.cohort.sites:
        names = {manifest.training.dataset, *((test.dataset,) if test is not None and test.site == site else ())}
        held = [sites.dataset(site, name) for name in sorted(names)]
        said = [None if data is None else synthetic_words(data) for data in held]
        if None not in said:
            words[site] = next(filter(None, said), "")
    if not words:
        return None
    everywhere = len(words) == len(manifest.cohort.sites)
    return Synthetic(tuple(sorted(words)), everywhere, next(filter(None, words.values()), ""))


def synthetic_words(data: Dataset) -> str | None:
    """What a data set says of itself, where all that is in it says that it is synthetic; else None."""
    said: list[str] = []
    for folder in map(Path, data.folders):
        indices = list(_indices(folder))
        told = [words for index in indices if (words := _said_to_be_synthetic(index)) is not None]
        if not indices or len(told) < len(indices):
            return None
        said += told
    return next(filter(None, said), "")


def _indices(folder: Path) -> Iterator[dict[str, Any]]:
    """What stands in each `dataset.json`, in the folder or one below."""
    for file in (folder / DATASET_FILE, *sorted(folder.glob(f"*/{DATASET_FILE}"))):
        if file.exists():
            yield _json(file)


def _said_to_be_synthetic(index: Mapping[str, Any]) -> str | None:
    """A flag, or a text about the data that begins with the word."""
    texts = [text for key in ("description", "name", "reference") if isinstance(text := index.get(key), str)]
    named = [text for text in texts if text.strip().casefold().startswith(SYNTHETIC)]
    return next(iter((*named, *texts)), "") if named or index.get(SYNTHETIC) is True else None


def _json(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            told = json.loads(opened.read(DATASET_AT_MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
