"""Data sets laid out as in the Medical Segmentation Decathlon: `dataset.json`, `imagesTr/`, `labelsTr/`.

Antonelli et al. 2022, https://doi.org/10.1038/s41467-022-30695-9. Channels and labels are told by their names in
`dataset.json` and never by their numbers, which differ: BraTS itself numbers 1 necrosis, 2 oedema, 4 enhancing tumour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from wardround.training.cases import CaseFolders
from wardround.training.errors import CaseUnreadableError, TaskError

DATASET = "dataset.json"
LISTING_AT_MOST = 16 * 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Legend:
    """How the numbers of one data set read in the experiment's terms.

    `channels` are those of the experiment's modalities, in its order, out of `channel_count` that an image has.
    `classes` has every label value that may stand in a segmentation: value -> place in the experiment's labels, counted
    from 1; 0 for what the experiment does not ask for, background first of all.
    """

    channels: tuple[int, ...]
    channel_count: int
    classes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """`name` is what the site knows the case by, and stays there."""

    name: str
    image: Path
    label: Path
    legend: Legend


def find_cases(data: CaseFolders, modalities: Sequence[str], labels: Sequence[str]) -> dict[Path, CaseFiles]:
    """The cases that the `dataset.json` of each data folder lists for training, by image file, in the order of names.

    Raises:
        TaskError: `data_layout`, where a folder has no sound `dataset.json`; `data_names`, where one has no such
            modality or label; `case_unreadable`, where a case that is listed is not there; and what `glob` raises.
    """
    described = {file.parent: file for file in data.glob(DATASET)}
    there = {file for each in ("imagesTr/*", "labelsTr/*") for file in data.glob(each) if file.is_file()}
    found = {}
    for folder in data.folders:
        if folder not in described:
            raise TaskError("data_layout", f"a folder of the data set holds no {DATASET} of the Decathlon's layout")
        listing = _read(described[folder])
        legend = _legend(listing, described[folder], modalities, labels)
        for case in listing.training:
            image, label = folder / case.image, folder / case.label
            if missing := [file for file in (image, label) if file not in there]:
                hint = f"a file that {DATASET} lists is not there; the log of the site's task names it"
                raise CaseUnreadableError(hint) from FileNotFoundError(missing[0])
            if image in found or image == label:
                hint = f"a {DATASET} lists a case twice, or an image as its own segmentation; the task's log names it"
                raise TaskError("data_layout", hint) from ValueError(str(image))
            found[image] = CaseFiles(data.name(image), image, label, legend)
    return dict(sorted(found.items(), key=lambda item: (item[1].name, str(item[0]))))


class _Listed(BaseModel):
    image: str
    label: str


class _Listing(BaseModel):
    """What is read of `dataset.json`."""

    modality: dict[Annotated[int, Field(ge=0)], str]
    labels: dict[Annotated[int, Field(ge=0, le=255)], str]
    training: tuple[_Listed, ...]


def _read(file: Path) -> _Listing:
    try:
        with file.open("rb") as opened:
            content = opened.read(LISTING_AT_MOST + 1)
        if len(content) > LISTING_AT_MOST:
            raise ValueError(f"{file} has more than {LISTING_AT_MOST} bytes")
        listing = _Listing.model_validate_json(content)
    except (OSError, ValueError) as error:  # pydantic's is a ValueError, too
        hint = f"a {DATASET} is not as in the Decathlon; the log of the site's task shows what is wrong in it"
        raise TaskError("data_layout", hint) from error
    if sorted(listing.modality) != list(range(len(listing.modality))):
        raise TaskError("data_layout", f"a {DATASET} does not number its modalities 0, 1, 2, ...")
    return listing


def _legend(listing: _Listing, file: Path, modalities: Sequence[str], labels: Sequence[str]) -> Legend:
    # The experiment's own words may leave the clinic. What stands in its file goes with the cause, to the log alone.
    for wanted, known, kind in ((modalities, listing.modality, "modality"), (labels, listing.labels, "label")):
        if missing := [name for name in wanted if _folded(name) not in map(_folded, known.values())]:
            hint = f"a {DATASET} names no {kind} '{missing[0]}'; the log of the site's task shows what it names"
            raise TaskError("data_names", hint) from LookupError(f"{file} names {', '.join(known.values())}")
        names = [_folded(name) for name in known.values()]
        if kind == "modality" and (twice := [name for name in wanted if names.count(_folded(name)) > 1]):
            raise TaskError("data_names", f"a {DATASET} names the modality '{twice[0]}' twice; give each its own name")
    channel = {_folded(name): number for number, name in listing.modality.items()}
    place = {_folded(name): number for number, name in enumerate(labels, 1)}
    return Legend(
        channels=tuple(channel[_folded(name)] for name in modalities),
        channel_count=len(listing.modality),
        classes={value: place.get(_folded(name), 0) for value, name in listing.labels.items()},
    )


def _folded(name: str) -> str:
    return name.strip().casefold()
