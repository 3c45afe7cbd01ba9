"""What is looked at, and what is found: checks that run side by side, each within its time, each with a word on it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Literal, TypeVar

from wardround.runtime.logging import printable

State = Literal["ok", "warning", "wrong", "skipped"]
WITHIN = 20.0  # seconds
TEXT_AT_MOST = 600

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check comes to: what is the case, and what a person can do about it."""

    state: State
    what: str
    to_do: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's name and its verdict, fit to be printed."""

    name: str
    state: State
    what: str
    to_do: str = ""


def ok(what: str) -> Verdict:
    return Verdict("ok", what)


def warning(what: str, to_do: str) -> Verdict:
    """It works, and may not for long, or not for everything."""
    return Verdict("warning", what, to_do)


def wrong(what: str, to_do: str) -> Verdict:
    return Verdict("wrong", what, to_do)


def skipped(why: str) -> Verdict:
    return Verdict("skipped", why)


def worst_of(verdicts: Sequence[Verdict], well: str) -> Verdict:
    """One verdict for several: the wrong ones where there are any, else the warnings, else that all is `well`."""
    for state in ("wrong", "warning"):
        found = [verdict for verdict in verdicts if verdict.state == state]
        if found:
            to_do = "; ".join(dict.fromkeys(verdict.to_do for verdict in found if verdict.to_do))
            return Verdict(found[0].state, "; ".join(verdict.what for verdict in found), to_do)
    return ok(well)


@dataclass(frozen=True, slots=True)
class Check:
    """`after` names checks that must not have failed; they stand before this one. `within` is in seconds."""

    name: str
    look: Callable[[], Awaitable[Verdict]]
    after: tuple[str, ...] = ()
    within: float = WITHIN


async def examine(checks: Sequence[Check], *, told: Callable[[Finding], None] = lambda _: None) -> tuple[Finding, ...]:
    """All findings, in the order of the checks.

    Checks run side by side. One that stands on another that failed, or was skipped, is skipped; one that takes too
    long, or raises what it should not, is wrong.

    Args:
        told: called with each finding as soon as there is one.
    """
    looking: dict[str, asyncio.Task[Finding]] = {}
    async with asyncio.TaskGroup() as group:
        for check in checks:
            earlier = [looking[name] for name in check.after]
            looking[check.name] = group.create_task(_examined(check, earlier, told), name=f"check {check.name}")
    return tuple(task.result() for task in looking.values())


async def _examined(check: Check, earlier: Sequence[asyncio.Task[Finding]], told: Callable[[Finding], None]) -> Finding:
    missing = [found.name for found in [await task for task in earlier] if found.state in ("wrong", "skipped")]
    if missing:
        verdict = skipped(f"needs: {', '.join(missing)}")
    else:
        verdict = await _verdict(check)
    finding = Finding(check.name, verdict.state, _one_line(verdict.what), _one_line(verdict.to_do))
    told(finding)
    return finding


async def _verdict(check: Check) -> Verdict:
    try:
        async with asyncio.timeout(check.within):
            return await check.look()
    except TimeoutError:
        return wrong(
            f"no answer within {check.within:.0f} s", "try again; if it stays so, look what is overloaded or hangs"
        )
    except Exception as error:  # one check's fault must not keep the others from being told
        # Not its text: nobody knows what that holds.
        return wrong(
            f"the check itself failed: {type(error).__name__}", "please report this, with the version of wardround"
        )


def _one_line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= TEXT_AT_MOST else f"{line[:TEXT_AT_MOST]}..."


async def in_thread(function: Callable[[], T]) -> T:
    """The function's result, worked out in a thread that nobody waits for at the end: a file system that hangs must
    not keep the doctor from leaving."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def work() -> None:
        result, fault = None, None
        try:
            result = function()
        except Exception as error:
            fault = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
            loop.call_soon_threadsafe(settle, result, fault)

    Thread(target=work, name="doctor", daemon=True).start()
    return await done
