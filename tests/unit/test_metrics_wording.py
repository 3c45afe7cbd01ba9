"""Sizes and durations as a person reads them."""

import pytest

from wardround.metrics.wording import done_text, duration_text, size_short, size_text, span_text, transfer_text


@pytest.mark.parametrize(
    ("size", "text", "narrow"),
    [
        (0, "0 B", "0"),
        (999, "999 B", "999"),
        (1000, "1.0 kB", "1.0k"),
        (4_800_000, "4.8 MB", "4.8M"),
        (99_949_000, "99.9 MB", "99.9M"),
        (999_600_000, "1.0 GB", "1.0G"),
        (7 * 10**12, "7.0 TB", "7.0T"),
    ],
)
def test_a_size_has_three_digits_at_most(size: int, text: str, narrow: str) -> None:
    assert (size_text(size), size_short(size)) == (text, narrow)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.2, "0.2 s"),
        (9.96, "10 s"),
        (59.6, "1 m"),
        (842, "14 m 02 s"),
        (600, "10 m"),
        (6720, "1 h 52 m"),
        (273_600, "3 d 04 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (2.9, "2s"), (1860, "31m"), (7200, "2h"), (300_000, "3d")])
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


@pytest.mark.parametrize(
    ("done", "of", "per_second", "text"),
    [
        (504_000_000, 1_200_000_000, 2_000_000, "42 % of 1.2 GB, 2.0 MB/s, about 5 m 48 s left"),
        (0, 1_200_000_000, None, "0 % of 1.2 GB"),
        (10, 1_200_000_000, 0, "0 % of 1.2 GB"),
        (10, 1_200_000_000, 0.01, "0 % of 1.2 GB"),
        (1000, 1000, 250.0, "100 % of 1.0 kB, 250 B/s"),
    ],
)
def test_a_transfer_tells_how_far_it_is_and_how_long_it_takes_where_that_is_known(
    done: int, of: int, per_second: float | None, text: str
) -> None:
    assert transfer_text(done, of, per_second) == text


@pytest.mark.parametrize(("done", "of", "text"), [(0, 0, "100 %"), (999, 1000, "99 %"), (1001, 1000, "100 %")])
def test_what_is_not_through_is_not_at_a_hundred_per_cent(done: int, of: int, text: str) -> None:
    assert done_text(done, of) == text
