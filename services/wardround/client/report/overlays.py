"""Scans of the common test with what is true and what the models say, made where the data lie: in a run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wardround.client.report.at_hand import SitesAtHand, model_file, synthetic_words
from wardround.client.report.material import Compared, RunRead
from wardround.client.report.reading import POOLED
from wardround.site_agent.settings import Dataset
from wardround_messages.manifest import Manifest

if TYPE_CHECKING:
    from wardround.training.pictures import Picture

CASES_DRAWN = 4


@dataclass(frozen=True, slots=True)
class Overlays:
    """The same cases by each model, named by how it was trained.

    `note` is why there are none, where that is odd; `cause` says more of it, for whoever holds the data alone.
    `confidential` unless the data drawn say of themselves that they are synthetic.
    """

    by_model: Mapping[str, Sequence["Picture"]]
    note: str = ""
    cause: str = ""
    confidential: bool = False


NONE = Overlays({})


class _NoPicturesError(Exception):
    """Why there are none, for whoever reads the report. It may be handed on, so no path is in it, but in its cause."""


def draw_overlays(folder: Path, sites: SitesAtHand, compared: Compared) -> Overlays:
    """Pictures of a few common test cases; none, and no note, where the trainer draws none or nothing was tested.

    Args:
        folder: of the run.
        sites: that of the common test says where the data are.
    """
    manifest = compared.run.history.manifest
    test = manifest.evaluation.test
    if test is None or compared.run.history.latest_model < 0:
        return NONE
    models = {"federated": (folder, compared.run)}
    if compared.pooled is not None:
        models["pooled data"] = (folder / POOLED, compared.pooled)
    try:
        if not _draws_pictures(manifest.training.trainer):
            return NONE
        if test.site in sites.faults:
            raise _NoPicturesError("the test's site.toml cannot be used where this report was made") from sites.faults[
                test.site
            ]
        data = sites.dataset(test.site, test.dataset)
        if data is None:
            raise _NoPicturesError("the test's data are not where this report was made")
        by_model = {name: _drawn(manifest, data, *model) for name, model in models.items()}
        return Overlays(by_model, confidential=synthetic_words(data) is None)
    except ModuleNotFoundError as error:
        return Overlays({}, f"No pictures: {error.name} is not installed here.")
    except _NoPicturesError as error:
        return Overlays({}, f"No pictures: {error}.", cause=_told(error.__cause__))


def _draws_pictures(trainer: str) -> bool:
    from wardround.training.errors import TaskError
    from wardround.training.registry import installed_trainer
    from wardround.training.trainer import Trainer

    try:
        return installed_trainer(trainer).type.pictures is not Trainer.pictures
    except TaskError as error:
        raise _NoPicturesError(f"the trainer cannot be used where this report was made ({error.code})") from error


def _drawn(manifest: Manifest, data: Dataset, folder: Path, run: RunRead) -> Sequence["Picture"]:
    from wardround.training.errors import TaskError
    from wardround.training.pictures import draw

    model = model_file(folder, run)
    if model is None:
        raise _NoPicturesError("the last model is not where this report was made")
    try:
        pictures = draw(
            manifest.training.trainer,
            manifest.training.parameters,
            model,
            [Path(each) for each in data.folders],
            layout=data.layout,
            count=CASES_DRAWN,
            seed=manifest.seed,
        )
    except TaskError as error:
        raise _NoPicturesError(f"drawing them failed where this report was made ({error.code})") from error
    except OSError as error:
        raise _NoPicturesError(f"a file cannot be read where this report was made ({error.strerror})") from error
    if not pictures:
        raise _NoPicturesError("the trainer drew none")
    return pictures


def _told(error: BaseException | None) -> str:
    """The error and what brought it about, the outermost first."""
    told = []
    while error is not None:
        told.append(f"{error}" or type(error).__name__)
        error = error.__cause__
    return "; ".join(told)
