"""A scan and its segmentation read from NIfTI files, checked, and turned to RAS."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from wardround.training.errors import CaseUnreadableError
from wardround.training.imaging.decathlon import CaseFiles, Legend

VALUES_AT_MOST = 2**29
"""Of an image, all channels together: four times 512 x 512 x 512, 2 GiB in float32."""
MILLIMETRES_APART = 1e-3
"""Between two affines of one geometry: that much per voxel is left by rounding in headers."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The axes of space are right, anterior, superior: an index grows towards the patient's right, front and top.

    `image` is float32 [channels, x, y, z], the channels in the order of the experiment's modalities; `label` is uint8
    [x, y, z], places in the experiment's labels counted from 1, else 0; `spacing` is the size of a voxel in mm.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing: tuple[float, float, float]


class UnfitError(Exception):
    """What is wrong with a case: `hint` in words that may leave the clinic, `detail` in its own."""

    def __init__(self, hint: str, detail: object = "") -> None:
        super().__init__(f"{hint}: {detail}")
        self.hint = hint


@contextmanager
def naming(case: str) -> Iterator[None]:
    """Whatever goes wrong inside with the case's files is a `CaseUnreadableError`; its cause names the case."""
    try:
        yield
    except MemoryError:  # no fault of the case's
        raise
    except Exception as error:  # there is no common type for all that a broken file makes nibabel raise
        said = error.hint if isinstance(error, UnfitError) else "a file of a case is no whole NIfTI file"
        named = ValueError(f"{case}: {error}")
        named.__cause__ = error
        raise CaseUnreadableError(f"{said}; the log of the site's task names the case") from named


def read_scan(files: CaseFiles) -> Scan:
    """Read one case; nothing is written.

    Raises:
        UnfitError: the image has no four axes, or three with one modality; it has other channels than `dataset.json`
            has modalities, or absurdly many voxels; it holds NaN or infinity, or nothing but zeros; the segmentation
            lies elsewhere than the image, or holds a value that `dataset.json` does not name. For a broken file,
            nibabel raises whatever it does.
    """
    image, label = nibabel.load(files.image), nibabel.load(files.label)
    _check_headers(image, label, files.legend)
    nearest = nibabel.io_orientation(image.affine)  # as in `as_closest_canonical`, for both alike
    image, label = image.as_reoriented(nearest), label.as_reoriented(nearest)
    return Scan(
        image=_intensities(image, files.legend.channels),
        label=_classes(np.asanyarray(label.dataobj), files.legend.classes),
        spacing=tuple(map(float, voxel_sizes(image.affine))),  # type: ignore[arg-type]
    )


def _check_headers(image: Any, label: Any, legend: Legend) -> None:
    for file in (image, label):
        if not isinstance(file, nibabel.Nifti1Image):
            raise UnfitError("a file of a case is no NIfTI file", type(file).__name__)
        if file.get_data_dtype().kind not in "iuf":
            raise UnfitError("a scan does not hold plain numbers", file.get_data_dtype())
        if not math.prod(file.shape) or math.prod(file.shape) > VALUES_AT_MOST:
            raise UnfitError("a scan has no voxels, or absurdly many", file.shape)
        if not np.isfinite(file.affine).all() or not voxel_sizes(file.affine).all():
            raise UnfitError("a scan does not say where its voxels lie", file.affine)
    if len(image.shape) != 4 and (len(image.shape), legend.channel_count) != (3, 1):
        raise UnfitError("an image has not the four axes x, y, z, channel", image.shape)
    if image.shape[3:] not in ((legend.channel_count,), ()):
        raise UnfitError("an image has other channels than dataset.json has modalities", image.shape)
    if label.shape != image.shape[:3]:
        raise UnfitError("a segmentation has another shape than its image", (label.shape, image.shape))
    if not np.allclose(image.affine, label.affine, rtol=0, atol=MILLIMETRES_APART):
        raise UnfitError("a segmentation lies elsewhere than its image", (image.affine, label.affine))


def _intensities(image: Any, channels: tuple[int, ...]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit into float32 is found as infinity
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
    values = values.reshape(*image.shape[:3], -1)  # with one modality, an image may have three axes
    chosen: NDArray[np.float32] = np.stack([values[..., channel] for channel in channels])
    if not np.isfinite(chosen).all():
        raise UnfitError("an image holds NaN or infinity")
    if not chosen.any():
        raise UnfitError("an image is empty: every value is zero")
    return chosen


def _classes(values: NDArray[Any], classes: Mapping[int, int]) -> NDArray[np.uint8]:
    known = np.isin(values, list(classes))
    if not known.all():
        raise UnfitError("a segmentation holds a value that dataset.json does not name", values[~known].flat[0])
    table = np.zeros(256, np.uint8)
    table[list(classes)] = list(classes.values())
    return table[values.astype(np.uint8)]
