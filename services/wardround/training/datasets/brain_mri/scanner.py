"""What makes one site's images look unlike another's: its scanner, its protocol and its patients."""

from dataclasses import dataclass
from typing import Literal, get_args

Shift = Literal["none", "mild", "strong"]
SHIFTS: tuple[Shift, ...] = get_args(Shift)


@dataclass(frozen=True, slots=True)
class CaseMix:
    """Who comes to a site: the radius of whole tumours in mm, and how often they are of low grade or multifocal."""

    radius: tuple[float, float] = (16.0, 32.0)
    low_grade: float = 0.15
    multifocal: float = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """One site's acquisition protocol (field in tesla; repetition, echo and inversion times in ms) and image quality.

    `noise` is the deviation of each of the two channels of a Rician signal, and `bias` the strength of the coil's
    inhomogeneity, both relative; `slice_blur` is that across slices, in mm; `gain` is what bright tissue reads as.
    """

    field: float = 3.0
    flair_repetition: float = 9000.0
    flair_echo: float = 115.0
    flair_inversion: float = 2450.0
    t1_repetition: float = 600.0
    t1_echo: float = 12.0
    t2_repetition: float = 5000.0
    t2_echo: float = 95.0
    noise: float = 0.025
    bias: float = 0.20
    slice_blur: float = 0.0
    gain: float = 900.0
    patients: CaseMix = CaseMix()


_SCANNERS: dict[Shift, tuple[Scanner, ...]] = {
    "none": (Scanner(),),
    "mild": (
        Scanner(),
        Scanner(
            field=1.5,
            flair_echo=130.0,
            flair_inversion=2250.0,
            t1_repetition=550.0,
            t1_echo=14.0,
            t2_echo=105.0,
            noise=0.04,
            bias=0.30,
            gain=420.0,
        ),
        Scanner(
            flair_repetition=8000.0,
            flair_echo=100.0,
            flair_inversion=2300.0,
            t1_repetition=750.0,
            t2_repetition=4000.0,
            t2_echo=85.0,
            noise=0.03,
            bias=0.15,
            slice_blur=2.45,
            gain=2200.0,
        ),
        Scanner(field=1.5, noise=0.05, bias=0.35, slice_blur=1.75, gain=300.0),
    ),
    "strong": (
        Scanner(patients=CaseMix(radius=(20.0, 36.0), low_grade=0.05)),
        Scanner(
            field=1.5,
            flair_echo=150.0,
            flair_inversion=2100.0,
            t1_repetition=450.0,
            t1_echo=17.0,
            t2_echo=125.0,
            noise=0.07,
            bias=0.45,
            gain=300.0,
            patients=CaseMix(radius=(10.0, 20.0), low_grade=0.6),
        ),
        Scanner(
            flair_repetition=7000.0,
            flair_echo=85.0,
            flair_inversion=2100.0,
            t1_repetition=1100.0,
            t2_repetition=3000.0,
            t2_echo=75.0,
            noise=0.04,
            bias=0.10,
            slice_blur=4.55,
            gain=3000.0,
            patients=CaseMix(radius=(13.0, 27.0), multifocal=0.5),
        ),
        Scanner(field=1.5, noise=0.08, bias=0.5, slice_blur=3.5, gain=200.0),
    ),
}


def scanner_of(site: int, shift: Shift) -> Scanner:
    """The scanner of the site at that place, counted from 0; the fifth site has that of the first again."""
    scanners = _SCANNERS[shift]
    return scanners[site % len(scanners)]
