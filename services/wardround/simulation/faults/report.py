"""The figures of a campaign, as rows for people and as one object for programs."""

from collections.abc import Sequence
from math import ceil

from wardround.simulation.faults.figures import Figures

Row = tuple[str, str]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by that share of them; nearest rank."""
    ranked = sorted(values)
    return ranked[max(ceil(share * len(ranked)) - 1, 0)]


def bound(clean: int) -> float:
    """With so many clean schedules and no other, a schedule fails less often than this, at 95 %: the rule of three."""
    return min(3 / clean, 1.0) if clean else 1.0


def rows(figures: Figures, failed: int) -> list[Row]:
    """What there is to report, one figure a row."""
    return [
        ("schedules", f"{figures.runs}"),
        ("schedules with a violation", f"{failed}"),
        ("a schedule fails less often than (95 %)", "-" if failed else f"{bound(figures.runs):.2g}"),
        ("calls at ports", f"{figures.calls}"),
        ("faults injected", f"{figures.injected.total()}"),
        *((f"  {kind}", f"{number}") for kind, number in sorted(figures.injected.items())),
        ("site-rounds attempted", f"{figures.attempted}"),
        ("  acknowledged", f"{figures.acknowledged}"),
        ("  counted", f"{figures.counted}"),
        ("  lost", f"{figures.lost}"),
        ("  counted twice", f"{figures.counted_twice}"),
        ("  unexpected", f"{figures.unexpected}"),
        ("trainings", f"{figures.trainings}"),
        ("  wasted", f"{figures.wasted}"),
        ("journal appends refused (412)", f"{figures.refused_appends}"),
        *(
            (f"recovery from '{kind}' (virtual s), p50 / p99", _spread(seconds))
            for kind, seconds in sorted(figures.recoveries.items())
        ),
        *(
            [("noticed with all announcements lost (virtual s), p50 / p99", _spread(figures.delays))]
            if figures.delays
            else []
        ),
    ]


def as_object(figures: Figures, failed: int) -> dict[str, object]:
    """The same for programs; times in virtual seconds."""
    return {
        "schedules": figures.runs,
        "violated": failed,
        "fails_less_often_than": None if failed else bound(figures.runs),
        "calls": figures.calls,
        "injected": dict(sorted(figures.injected.items())),
        "site_rounds": {
            "attempted": figures.attempted,
            "acknowledged": figures.acknowledged,
            "counted": figures.counted,
            "lost": figures.lost,
            "counted_twice": figures.counted_twice,
            "unexpected": figures.unexpected,
        },
        "trainings": {"all": figures.trainings, "wasted": figures.wasted},
        "appends_refused": figures.refused_appends,
        "recovery_seconds": {kind: _quantiles(seconds) for kind, seconds in sorted(figures.recoveries.items())},
        "noticed_seconds_all_announcements_lost": _quantiles(figures.delays) if figures.delays else None,
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": round(quantile(values, 0.5), 3), "p99": round(quantile(values, 0.99), 3)}


def _spread(values: Sequence[float]) -> str:
    return f"{quantile(values, 0.5):.1f} / {quantile(values, 0.99):.1f}  ({len(values)} times)"
