"""`wardround site log`: whether a clinic's own log is whole, the log as a table, and what left the clinic, in words."""

import csv
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, TextIO

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_site import OnSite, site_settings
from wardround.client.cli.output import show_json
from wardround.runtime.logging import printable
from wardround.site_agent.audit.chain import ChainBrokenError, Line, opened
from wardround.site_agent.audit.check import Anchor, Verified, anchor_of, verify
from wardround.site_agent.audit.views import COLUMNS, Span, Totals, as_object, in_words, row, what_left
from wardround_messages.codec import MalformedError, parse
from wardround_messages.objects import ANSWER_AT_MOST, Answer

app = typer.Typer(no_args_is_help=True, help="The clinic's own log: check it, export it, see what left the clinic.")

STDOUT = Path("-")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
NOBODY_VOUCHES = "  that it was not written anew as a whole, only --answers or a digest noted before (--head) can show"

Log = Annotated[Path | None, typer.Option(help="The log itself, in place of the one that the settings name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("verify")
def verify_log(
    site: OnSite = None,
    log: Log = None,
    head: Annotated[
        str | None, typer.Option(metavar="SHA256", help="The digest of a line that the log must hold, as noted before.")
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="An answer fetched from the hub, or a folder of them; may be given again and again."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that no line was changed, cut off, taken out, put in or moved. Exits 1 and names the line where one was.

    Whoever can write to the log can write it anew as a whole; only what others hold shows that: the answers at the hub
    each name a line of it, and so does the digest that this command printed the last time.
    """
    path, name = _log_of(site, log)
    if head is not None and not DIGEST.fullmatch(head):
        raise CommandError(f"--head: '{head}' is no SHA-256, which has 64 digits from 0 to f")
    anchors = [*([Anchor("--head", sha256=head.lower())] if head else []), *_anchors(answers or [], name)]
    with _lines_of(path) as lines:
        try:
            found = verify(lines, anchors)
        except ChainBrokenError as broken:
            if as_json:
                show_json({"whole": False, "line": broken.line, "reason": broken.reason})
                raise typer.Exit(Exit.ENDED_BADLY) from None
            raise CommandError(f"{path}: {broken}", Exit.ENDED_BADLY) from None
    if as_json:
        show_json(_as_object(found))
    else:
        typer.echo(_as_text(path, found))


@app.command()
def export(
    site: OnSite = None,
    log: Log = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values, the only form there is.")] = True,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; - is standard output.")] = STDOUT,
) -> None:
    """Write the log as a table: one row a line, always the same columns. Text that a spreadsheet would take for a
    formula begins with an apostrophe."""
    path, _ = _log_of(site, log)
    with _lines_of(path) as lines, _written(output) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(map(row, lines))


@app.command()
def left(
    since: Annotated[str, typer.Option(metavar="DATE", help="The first day, or a time: 2026-03-01T08:00:00Z.")],
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="The last day, or a time it must be before.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Only this experiment.")] = None,
    site: OnSite = None,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Say what left the clinic: when, what, how large, with which digest, for whom, and which rule allowed it.

    Told are objects and figures. A line is written before what it tells of leaves, so something told here may have
    been held up on its way; no object and no figure left without one. Without a line leaves that the clinic is there,
    with what it offers, and that a task was accepted, how far it is, and that it was answered. Days and times are in
    UTC.
    """
    path, _ = _log_of(site, log)
    span = Span(_time(since, "--since"), _time(until, "--until", ends=True) if until else None, experiment)
    totals = Totals()
    with _lines_of(path) as lines:
        faults = _Faults(lines)
        departed = what_left(faults, span)
        if as_json:
            for line in departed:
                totals.count(line)
                show_json(as_object(line))
            show_json({"totals": totals.as_object(), "unreadable": faults.count})
            return
        for paragraph in in_words(departed, totals):
            typer.echo("\n".join(map(printable, paragraph.split("\n"))) + "\n")
    typer.echo(f"In all: {totals.as_text()}")
    if faults.count:
        typer.echo(f"Lines that cannot be read: {faults.count} ('wardround site log verify' says why)", err=True)


class _Faults:
    """The lines that can be read, with those counted that cannot."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[Line]:
        for line in self._lines:
            if line.fault:
                self.count += 1
            else:
                yield line


def _log_of(site: Path | None, log: Path | None) -> tuple[Path, str | None]:
    """The log, and the name of the site where its settings are at hand."""
    if log is not None and site is None:
        return log, None
    try:
        settings, _ = site_settings(site)
    except CommandError as error:
        raise CommandError(f"{error} (--log FILE names the log itself)", error.code) from None
    return log or settings.paths.log, settings.site


@contextmanager
def _lines_of(path: Path) -> Iterator[Iterator[Line]]:
    if not path.is_file():
        raise CommandError(f"{path}: there is no log; it is made with the first thing that is decided")
    with opened(path) as lines:
        yield lines


def _anchors(given: Sequence[Path], name: str | None) -> list[Anchor]:
    """What the answers say of the log. In a folder, files that are no answer of this site are passed over."""
    found: dict[Path, Answer] = {}
    for path in given:
        if path.is_dir():
            read = {file: _answer(file) for file in sorted(path.rglob("*.json"))}
            found |= {file: answer for file, answer in read.items() if answer and name in (None, answer.site)}
        elif (answer := _answer(path)) is None:
            raise CommandError(f"{path} is no answer as it lies in the store under answers/")
        else:
            found[path] = answer
    sites = sorted({answer.site for answer in found.values()} | ({name} if name else set()))
    if len(sites) > 1:
        raise CommandError(
            f"--answers: these are of {', '.join(sites)}; a log is checked against those of its own site"
        )
    if given and not found:
        raise CommandError("--answers: there is no answer of this site among these files")
    return [anchor_of(answer, str(path)) for path, answer in found.items()]


def _answer(path: Path) -> Answer | None:
    with path.open("rb") as file:
        data = file.read(ANSWER_AT_MOST + 1)
    try:
        return parse(Answer, data, at_most=ANSWER_AT_MOST)
    except MalformedError:
        return None


@contextmanager
def _written(output: Path) -> Iterator[TextIO]:
    """The file, which is there only when it is whole; or standard output."""
    if output == STDOUT:
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            yield file
        os.replace(part, output)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _time(text: str, option: str, *, ends: bool = False) -> datetime:
    """The beginning of a day, or its end; or the very time, in UTC unless it says otherwise."""
    try:
        found = datetime.fromisoformat(text)
        if len(text) <= len("2026-03-01"):
            found = datetime.combine(found, time.min) + timedelta(days=ends)
    except (ValueError, OverflowError):
        raise CommandError(f"{option}: '{text}' is no date: 2026-03-01, or 2026-03-01T08:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _as_object(found: Verified) -> dict[str, object]:
    return {
        "whole": True,
        "lines": found.lines,
        "head": None if found.head is None else found.head.model_dump(),
        "first": None if found.first is None else found.first.isoformat(),
        "last": None if found.last is None else found.last.isoformat(),
        "anchors": found.anchors,
    }


def _as_text(path: Path, found: Verified) -> str:
    if found.head is None:
        return f"{path}: no line yet"
    return "\n".join(
        [
            f"{path}: {found.lines:,} lines, each following the one before",
            f"  first {found.first:%Y-%m-%d %H:%M:%S}, last {found.last:%Y-%m-%d %H:%M:%S} UTC",
            f"  head: line {found.head.number}, sha256 {found.head.sha256}",
            f"  vouched for by {found.anchors} answers and digests" if found.anchors else NOBODY_VOUCHES,
        ]
    )
