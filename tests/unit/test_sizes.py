"""Sizes and speeds as people write them."""

import pytest

from wardround.runtime.sizes import bytes_of, bytes_per_second_of


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [("0 B", 0), ("17 B", 17), ("1 kB", 1000), ("200 MB", 200_000_000), ("1.5GB", 1_500_000_000), ("2 GiB", 2**31)],
)
def test_sizes_are_decimal_or_binary_as_they_say(size: str, bytes_: int) -> None:
    assert bytes_of(size) == bytes_


@pytest.mark.parametrize("size", ["", "MB", "-1 MB", "1e3 MB", "1 Mb", "1 KB", "NaN MB", "1 MB ", "٣ MB", 200, True])
def test_what_is_not_a_size_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as '200 MB'"):
        bytes_of(size)


@pytest.mark.parametrize(
    ("speed", "bytes_"),
    [
        ("10 kB/s", 10_000),
        ("2 MB/s", 2_000_000),
        ("1.5MB/s", 1_500_000),
        ("16 Mbit/s", 2_000_000),
        ("100 GB/s", 10**11),
    ],
)
def test_speeds_are_in_bytes_or_bits_as_they_say(speed: str, bytes_: int) -> None:
    assert bytes_per_second_of(speed) == bytes_


@pytest.mark.parametrize("speed", ["2 MB", "2", "2 Mb/s", "2 MBit/s", "2 MiB/s", "-2 MB/s", "2 MB / s", "2 MB/min", 2])
def test_what_is_not_a_speed_is_refused(speed: object) -> None:
    with pytest.raises(ValueError, match="must be a speed such as '2 MB/s' or '16 Mbit/s', in one of kB/s, MB/s"):
        bytes_per_second_of(speed)


@pytest.mark.parametrize("speed", ["0 kB/s", "9.999 kB/s", "79 kbit/s", "101 GB/s"])
def test_a_speed_that_no_line_is_held_to_is_refused(speed: str) -> None:
    with pytest.raises(ValueError, match="10 kB/s to 100 GB/s"):
        bytes_per_second_of(speed)
