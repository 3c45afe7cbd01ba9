"""What the folder of a run has besides its hub, and what is installed here: data, models, the trainer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.client.report.material import Goal, RunRead
from wardround.client.report.reading import HUB
from wardround.runtime.toml_file import SettingsError
from wardround.site_agent.settings import Dataset, load_site
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


def dataset_at(site: Path, name: str) -> Dataset | None:
    """A data set by the site's own settings; None where these cannot be read or do not have it."""
    try:
        return load_site(site / SITE_FILE).datasets.get(name)
    except SettingsError:
        return None


def synthetic_in(sites: Path, manifest: Manifest) -> str | None:
    """What a data set of the experiment says of itself where it says that it is synthetic; None where none does."""
    test = manifest.evaluation.test
    names = {manifest.training.dataset, *(() if test is None else (test.dataset,))}
    for site in manifest.cohort.sites:
        for name in sorted(names):
            data = dataset_at(sites / site, name)
            for folder in () if data is None else data.folders:
                if (said := _said_to_be_synthetic(Path(folder))) is not None:
                    return said
    return None


def _said_to_be_synthetic(folder: Path) -> str | None:
    """By its `dataset.json`, in the folder or one below: a flag, or a word in what it says of itself."""
    for file in (folder / DATASET_FILE, *sorted(folder.glob(f"*/{DATASET_FILE}"))):
        told = _json(file)
        texts = [text for key in ("description", "name", "reference") if isinstance(text := told.get(key), str)]
        named = [text for text in texts if SYNTHETIC in text.casefold()]
        if named or told.get(SYNTHETIC) is True:
            return next(iter((*named, *texts)), "")
    return None


def _json(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            told = json.loads(opened.read(DATASET_AT_MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
