"""Figures in words, as a report sets them: with a true minus, and no digit that means nothing."""

from datetime import datetime

from wardround.metrics.wording import duration_text

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}"
FEW = 100  # cases: below, a third digit is less than a tenth of what one case moves


def metric_text(value: float | None, cases: int | None = None) -> str:
    """A metric's value, to a digit less than one case of `cases` can move."""
    if value is None:
        return NOTHING
    places = _places(cases)
    if abs(value) >= 1000:
        return _minus(f"{value:.4g}")
    return _minus(f"{value:.1e}" if 0 < abs(value) < 10**-places else f"{value:.{places}f}")


def difference_text(value: float | None, cases: int | None = None) -> str:
    """The same with its sign; none where nothing is left of it."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        return _minus(f"{value:+.4g}")
    text = f"{value:+.{_places(cases)}f}"
    return _minus(text.lstrip("+-") if float(text) == 0 else text)


def spread_text(mean: str, sd: float | None, cases: int | None = None) -> str:
    """`0.812`, or `0.812 ± 0.010`, both to the same digit."""
    if sd is None:
        return mean
    return f"{mean}{PLUS_MINUS}{sd:.4g}" if sd >= 1000 else f"{mean}{PLUS_MINUS}{sd:.{_places(cases)}f}"


def one_case_text(cases: int) -> str:
    """What one of so many test cases can move, by arithmetic alone: for means over cases of values from 0 to 1."""
    return (
        f"With {count_text(cases, 'test case')}, one alone can move a mean by up to {1 / cases:.2g}, and where a "
        "region is in fewer cases, by more."
    )


def span_text(seconds: float) -> str:
    """`85 ms`, and from a second on as everywhere: `12 s`, `14 m 02 s`."""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.95 else duration_text(seconds)


def amount_text(value: float) -> str:
    """`0.3`, `14.2`, `1,520`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def count_text(number: int, one: str, many: str = "") -> str:
    """`1 round`, `2 rounds`, `12,000 cases`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _places(cases: int | None) -> int:
    return 3 if cases is not None and cases < FEW else 4


def _minus(text: str) -> str:
    return MINUS + text[1:] if text.startswith("-") else text
