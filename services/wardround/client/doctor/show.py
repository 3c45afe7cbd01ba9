"""Findings as a person reads them: a line each, and below it what to do."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from wardround.client.doctor.findings import Finding, State

STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "wrong": "bold red", "skipped": "dim"}
WORDS: dict[State, str] = {"ok": "ok", "warning": "warning", "wrong": "WRONG", "skipped": "skipped"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """The findings in their order."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.what, style="dim" if finding.state == "skipped" else "")
        table.add_row(Text(WORDS[finding.state], STYLES[finding.state]), Text(finding.name), said)
        if finding.to_do:
            table.add_row("", "", Text(f"→ {finding.to_do}", STYLES[finding.state]))
    return table


def summary(findings: Sequence[Finding]) -> str:
    """How many of each kind, such as `12 ok, 1 warning, 2 wrong`."""
    counted = Counter(finding.state for finding in findings)
    words = {"ok": "ok", "warning": "warning" if counted["warning"] == 1 else "warnings"}
    return ", ".join(f"{counted[state]} {words.get(state, state)}" for state in WORDS if counted[state])
