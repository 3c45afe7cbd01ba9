"""The runner of the doctor's checks: side by side, each within its time, none that keeps another from being told."""

import asyncio
import threading
import time
from threading import Event

import pytest

from wardround.client.doctor.findings import (
    TEXT_AT_MOST,
    Check,
    Finding,
    Verdict,
    examine,
    in_thread,
    ok,
    skipped,
    warning,
    worst_of,
    wrong,
)


def check(name: str, verdict: Verdict | Exception, *after: str, takes: float = 0.0, within: float = 5.0) -> Check:
    async def look() -> Verdict:
        await asyncio.sleep(takes)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    return Check(name, look, after, within)


async def test_findings_come_in_the_order_of_the_checks_whichever_is_ready_first() -> None:
    told: list[str] = []

    found = await examine(
        (check("slow", ok("well"), takes=0.05), check("quick", warning("so so", "look"))),
        told=lambda finding: told.append(finding.name),
    )

    assert found == (Finding("slow", "ok", "well"), Finding("quick", "warning", "so so", "look"))
    assert told == ["quick", "slow"]


async def test_independent_checks_run_side_by_side() -> None:
    begun = time.monotonic()
    await examine([check(f"check {number}", ok("well"), takes=0.2) for number in range(20)])
    assert time.monotonic() - begun < 3.0  # one after the other they take 4


async def test_what_stands_on_a_failed_check_is_skipped_and_says_on_which() -> None:
    found = await examine(
        (
            check("address", wrong("nobody there", "look")),
            check("clock", ok("well")),
            check("login", ok("well"), "address", "clock"),
            check("rights", ok("well"), "login"),
        )
    )
    assert [(each.state, each.what) for each in found[2:]] == [
        ("skipped", "needs: address"),
        ("skipped", "needs: login"),
    ]


async def test_a_warning_does_not_keep_others_from_being_looked_at() -> None:
    found = await examine((check("address", warning("not encrypted", "use TLS")), check("login", ok("in"), "address")))
    assert found[1].state == "ok"


async def test_a_check_that_takes_too_long_is_wrong_and_the_others_are_told() -> None:
    found = await examine((check("hangs", ok("never"), takes=60, within=0.05), check("other", ok("well"))))
    assert (found[0].state, found[0].what) == ("wrong", "no answer within 0 s")
    assert found[1].state == "ok"


async def test_a_check_that_fails_itself_is_wrong_by_the_kind_of_its_error_without_the_words() -> None:
    (found,) = await examine((check("odd", KeyError("hunter2")),))
    assert found.state == "wrong"
    assert found.what == "the check itself failed: KeyError"
    assert "hunter2" not in found.what + found.to_do


async def test_what_came_from_elsewhere_is_one_line_of_bounded_length_that_steers_no_terminal() -> None:
    (found,) = await examine((check("long", wrong("\x1b[2J" + "long\n" * 1000, "a\nb")),))
    assert "\x1b" not in found.what
    assert len(found.what) <= TEXT_AT_MOST + 3
    assert found.to_do == "a b"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([ok("a"), ok("b")], ok("all is well")),
        ([ok("a"), warning("b", "do b"), warning("c", "do b")], warning("b; c", "do b")),
        ([warning("b", "do b"), wrong("c", "do c"), wrong("d", "do d")], wrong("c; d", "do c; do d")),
        ([], ok("all is well")),
        ([skipped("x")], ok("all is well")),
    ],
)
def test_of_several_verdicts_the_worst_are_told(verdicts: list[Verdict], expected: Verdict) -> None:
    assert worst_of(verdicts, "all is well") == expected


async def test_a_thread_that_hangs_keeps_nobody_from_going_on() -> None:
    hangs = Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_thread(hangs.wait)
    hangs.set()
    await asyncio.sleep(0.05)  # what it came to in the end is heard by nobody


async def test_what_a_thread_raises_is_raised() -> None:
    def broken() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        await in_thread(broken)


def test_a_thread_that_outlives_the_doctor_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    hangs = Event()

    async def look() -> None:
        async with asyncio.timeout(0.05):
            await in_thread(hangs.wait)

    before = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        asyncio.run(look())
    (left,) = set(threading.enumerate()) - before
    hangs.set()
    left.join(10)
    assert not left.is_alive()
    assert told == []
