"""The four contrasts of a subject, from the relaxation times of its tissues by the signal equations of MRI.

Spin echo and inversion recovery: Bernstein, King, Zhou, "Handbook of MRI Pulse Sequences", 2004. Rician noise:
Gudbjartsson, Patz, "The Rician distribution of noisy MRI data", Magnetic Resonance in Medicine 34, 1995.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wardround.training.datasets.brain_mri.fields import Grid, Volume
from wardround.training.datasets.brain_mri.scanner import Scanner

CONTRASTS = ("FLAIR", "T1w", "t1gd", "T2w")
FLAIR, T1, T1_GADOLINIUM, T2 = range(len(CONTRASTS))


@dataclass(frozen=True, slots=True)
class Relaxation:
    """T1 and T2 in ms at 3 T, and proton density, that of water being 1."""

    t1: float
    t2: float
    density: float


RELAXATION = {
    "csf": Relaxation(4000.0, 1800.0, 1.00),
    "grey": Relaxation(1450.0, 105.0, 0.82),
    "white": Relaxation(850.0, 75.0, 0.71),
    "oedema": Relaxation(1550.0, 165.0, 0.86),
    "core": Relaxation(2300.0, 300.0, 0.93),
    "rim": Relaxation(1500.0, 140.0, 0.85),
}
T1_AFTER_GADOLINIUM = {"rim": 430.0, "core": 2100.0}
T1_AT_LOW_FIELD = 0.78  # below 3 T, of all that is not water
Signal = Callable[[Relaxation], float]


def spin_echo(repetition: float, echo: float) -> Signal:
    return lambda tissue: tissue.density * (1 - exp(-repetition / tissue.t1)) * exp(-echo / tissue.t2)


def inversion_recovery(repetition: float, echo: float, inversion: float) -> Signal:
    def signal(tissue: Relaxation) -> float:
        recovered = abs(1 - 2 * exp(-inversion / tissue.t1) + exp(-repetition / tissue.t1))
        return tissue.density * recovered * exp(-echo / tissue.t2)

    return signal


def acquired(
    rng: np.random.Generator, scanner: Scanner, grid: Grid, amounts: Mapping[str, Volume], brain: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """The image that the scanner makes of these amounts of tissue.

    Returns:
        int16 [X, Y, Z, 4] in the order of `CONTRASTS`, 0 outside the brain as after skull stripping
    """
    image = np.zeros((*grid.shape, len(CONTRASTS)), np.int16)
    for channel, signal in enumerate(_signals(rng, scanner, grid, amounts, brain)):
        image[..., channel] = _received(rng, scanner, grid, signal, brain, slices=channel != T1)
    return image


def _signals(
    rng: np.random.Generator, scanner: Scanner, grid: Grid, amounts: Mapping[str, Volume], brain: NDArray[np.bool_]
) -> Iterator[Volume]:
    """Each contrast before coil and noise, in the order of `CONTRASTS`."""
    differences = {name: rng.normal(1, 0.05, 3).tolist() for name in RELAXATION}  # between persons
    jitter = rng.normal(1, 0.03, 7).tolist()  # a protocol is adapted to the patient
    lit = _lit_vessels(rng, grid, brain)
    flair = inversion_recovery(
        scanner.flair_repetition * jitter[0], scanner.flair_echo * jitter[1], scanner.flair_inversion * jitter[2]
    )
    t1 = spin_echo(scanner.t1_repetition * jitter[3], scanner.t1_echo * jitter[6])
    t2 = spin_echo(scanner.t2_repetition * jitter[4], scanner.t2_echo * jitter[5])
    plain = _tissues(differences, scanner, {})
    yield _summed(amounts, plain, flair)
    yield _summed(amounts, plain, t1)
    yield _summed(amounts, _tissues(differences, scanner, T1_AFTER_GADOLINIUM), t1) * lit
    yield _summed(amounts, plain, t2)


def _tissues(
    differences: Mapping[str, list[float]], scanner: Scanner, shortened: Mapping[str, float]
) -> dict[str, Relaxation]:
    """The tissues of one person in this field; `shortened` replaces T1."""
    tissues = {}
    for name, usual in RELAXATION.items():
        t1, t2, density = differences[name]
        at_field = 1.0 if scanner.field >= 3 or name == "csf" else T1_AT_LOW_FIELD
        tissues[name] = Relaxation(
            shortened.get(name, usual.t1) * t1 * at_field, usual.t2 * t2, usual.density * density
        )
    return tissues


def _summed(amounts: Mapping[str, Volume], tissues: Mapping[str, Relaxation], signal: Signal) -> Volume:
    summed = np.zeros_like(amounts["csf"])
    for name, amount in amounts.items():
        summed += amount * np.float32(signal(tissues[name]))
    return summed


def _lit_vessels(rng: np.random.Generator, grid: Grid, brain: NDArray[np.bool_]) -> Volume:
    """Gadolinium brightens vessels and sinuses near the surface as well: a factor."""
    near_surface = brain & (ndimage.distance_transform_edt(brain) * grid.spacing < 5)
    lit: Volume = 1 + 0.5 * np.clip(grid.noise(rng, 4) - 1.4, 0, 1) * near_surface
    return lit


def _received(
    rng: np.random.Generator, scanner: Scanner, grid: Grid, signal: Volume, brain: NDArray[np.bool_], *, slices: bool
) -> NDArray[np.int16]:
    """What the coil receives and the scanner stores; through-plane resolution is lower where there are slices."""
    sensitivity = _sensitivity(rng, scanner, grid)
    if slices and scanner.slice_blur:
        signal = ndimage.gaussian_filter1d(signal, scanner.slice_blur / grid.spacing, axis=2)
    received = signal * sensitivity
    bright = np.percentile(received[brain], 99)
    real, imaginary = (rng.normal(0, scanner.noise * bright, grid.shape).astype(np.float32) for _ in range(2))
    noisy = np.hypot(received + real, imaginary)
    gain = scanner.gain * rng.uniform(0.8, 1.2) / float(bright)
    return np.where(brain, np.round(noisy * np.float32(gain)), 0).astype(np.int16)


def _sensitivity(rng: np.random.Generator, scanner: Scanner, grid: Grid) -> Volume:
    x, y, z = np.meshgrid(
        *(np.linspace(-1, 1, side, dtype=np.float32) for side in grid.shape), sparse=True, indexing="ij"
    )
    slope = (rng.normal(0, 1, 6) * scanner.bias * 0.5).astype(np.float32)
    sensitivity: Volume = np.exp(
        slope[0] * x + slope[1] * y + slope[2] * z + slope[3] * x * y + slope[4] * y * z + slope[5] * (z**2 - 0.3)
    )
    return sensitivity
