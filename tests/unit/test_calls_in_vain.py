"""What a service's own figures say of the calls that it made in vain."""

from servers.programs import calls_a_second


def test_calls_are_counted_from_one_look_to_the_next() -> None:
    assert calls_a_second(failed=130, failed_before=100, looked_before=7.0, now=8.0) == 30


def test_calls_of_seconds_in_which_nobody_looked_were_not_made_in_one() -> None:
    assert calls_a_second(failed=192, failed_before=100, looked_before=7.0, now=11.0) == 23


def test_a_service_that_was_started_anew_counts_from_zero() -> None:
    assert calls_a_second(failed=40, failed_before=100, looked_before=7.0, now=8.0) == 40


def test_two_looks_in_short_succession_make_no_rate_of_a_handful() -> None:
    assert calls_a_second(failed=105, failed_before=100, looked_before=7.0, now=7.1) == 5
