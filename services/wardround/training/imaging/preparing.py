"""Scans made alike: cropped to what is not empty, at one spacing, each channel of zero mean and unit variance."""

import numpy as np
from numpy.typing import NDArray

from wardround.training.imaging.nifti import VALUES_AT_MOST, Scan, UnfitError


def prepared(scan: Scan, spacing: float) -> Scan:
    """The scan cropped, resampled to cubes of `spacing` mm (0: as it was scanned), and normalised, in C order.

    Raises:
        UnfitError: the scan would have absurdly many voxels at that spacing.
    """
    scan = cropped(scan)
    if spacing:
        scan = resampled(scan, spacing)
    return Scan(normalised(scan.image), np.ascontiguousarray(scan.label), scan.spacing)


def cropped(scan: Scan) -> Scan:
    """The smallest box that holds every voxel of the image or the segmentation that is not zero.

    Scans are stripped of the skull, so this is the brain's box, half of the volume or less.
    """
    full = scan.label > 0
    for channel in scan.image:
        full |= channel != 0
    box = []
    for axis in range(full.ndim):
        places = np.flatnonzero(full.any(axis=tuple(other for other in range(full.ndim) if other != axis)))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return Scan(scan.image[:, *box], scan.label[tuple(box)], scan.spacing)


def resampled(scan: Scan, spacing: float) -> Scan:
    """Cubes of `spacing` mm over the same box: the image trilinear, the segmentation by the nearest voxel."""
    lengths = [max(1, round(n * mm / spacing)) for n, mm in zip(scan.label.shape, scan.spacing, strict=True)]
    if np.prod([len(scan.image), *lengths], dtype=float) > VALUES_AT_MOST:
        raise UnfitError("a scan would have absurdly many voxels at this spacing", (scan.spacing, lengths))
    image, label = scan.image, scan.label
    for axis, (length, mm) in enumerate(zip(lengths, scan.spacing, strict=True)):
        places = (np.arange(length) + 0.5) * (spacing / mm) - 0.5  # centres of the new voxels, counted in old ones
        image = _linear(image, places, axis + 1)
        label = label.take(np.clip(np.floor(places + 0.5), 0, label.shape[axis] - 1).astype(np.intp), axis)
    return Scan(image, label, (spacing, spacing, spacing))


def _linear(values: NDArray[np.float32], places: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    last = values.shape[axis] - 1
    below = np.clip(np.floor(places), 0, last).astype(np.intp)
    above = np.minimum(below + 1, last)
    share = np.clip(places - below, 0, 1).astype(np.float32)
    share = share.reshape(-1, *(1,) * (values.ndim - axis - 1))
    lower: NDArray[np.float32] = values.take(below, axis)
    lower += (values.take(above, axis) - lower) * share
    return lower


def normalised(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each channel [x, y, z] with mean 0 and variance 1 over its voxels that are not zero; zeros stay zero.

    As Isensee et al. do for scans without a skull: https://doi.org/10.1038/s41592-020-01008-z
    """
    result = np.zeros(image.shape, np.float32)
    for channel, given in zip(result, image, strict=True):
        brain = given != 0
        values = given[brain]
        if values.size:
            deviation = values.std(dtype=np.float64) or 1.0  # exactly 0 where all are the same
            channel[brain] = (values - values.mean(dtype=np.float64)) / deviation
    return result
