"""What of a clinic lies in files: its policy, its secrets, its data sets, and whom they belong to."""

import os
import pwd
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wardround.client.doctor.findings import Verdict, in_thread, ok, skipped, warning, worst_of, wrong
from wardround.runtime.secrets import Secret, SecretUnreadableError
from wardround.site_agent.audit.chain import opened
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.inbox_file import InboxError
from wardround.site_agent.policy import Policy
from wardround.site_agent.settings import Airflow, Dataset, Paths, SiteSettings

LOOKED_AT_MOST = 100_000  # files and folders of a data set
LOOKS_FOR = 10.0  # seconds
NAMED_AT_MOST = 3
EXPLAIN = "wardround site policy explain FILE shows what it makes of an experiment"


def judge_policy(policy: Policy, datasets: Mapping[str, Dataset]) -> Verdict:
    """Whether the policy allows anything, and whether what it allows is here."""
    if policy.fault is not None:
        return wrong(
            f"{policy.fault.reason}: {policy.fault.detail}",
            "write or mend policy.toml beside site.toml; it is read at every task",
        )
    if not policy.rules:
        return warning("it has no rule, so everything is refused", f"add an [[allow]]; {EXPLAIN}")
    absent = [
        f"rule '{rule.id}' allows data set '{name}', which site.toml does not have"
        for rule in policy.rules
        for name in rule.datasets
        if name not in datasets
    ]
    if absent:
        return warning("; ".join(absent), "add [datasets.NAME] to site.toml, or take it out of the rule")
    studies = ", ".join(dict.fromkeys(rule.study for rule in policy.rules))
    return ok(f"{len(policy.rules)} rule{'s' if len(policy.rules) > 1 else ''}, for: {studies}")


# --- what the agent writes -------------------------------------------------------------------------------------------


async def look_at_records(paths: Paths) -> Verdict:
    """Whether inbox and log, where they are there already, are what an agent can go on in."""
    return await in_thread(partial(_records, paths))


def _records(paths: Paths) -> Verdict:
    try:
        if paths.inbox.exists():
            with Inbox.read(paths.inbox):
                pass
    except InboxError as error:
        return wrong(str(error), "move it elsewhere; the agent makes another, and finds at the hub what it must know")
    try:
        with opened(paths.log) as lines:
            next(lines, None)
    except FileNotFoundError:
        if paths.log.is_symlink():
            return wrong(f"{paths.log} is a link to what is not there", "mend or remove the link")
    except OSError as error:
        return wrong(
            f"{paths.log} cannot be used as a log: {error.strerror}", "move it elsewhere; nothing leaves without it"
        )
    return ok("they can be used, as far as they are there")


# --- whose files, and secrets ----------------------------------------------------------------------------------------


async def look_at_user(inbox: Path) -> Verdict:
    """Whether the doctor runs as the user that the agent runs as, whose inbox it is."""
    me = os.geteuid()
    try:
        agent = inbox.stat().st_uid
    except OSError:
        return skipped("the agent has not run here yet, so nobody knows as which user it does")
    if agent != me:
        return warning(
            f"the agent runs as '{_user(agent)}', and this as '{_user(me)}': what the agent may not read is not seen",
            f"run this as '{_user(agent)}'",
        )
    return ok(f"'{_user(me)}', as the agent")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


async def look_at_secrets(settings: SiteSettings) -> Verdict:
    """Whether each can be read, by its owner alone; none is shown."""
    verdicts, count = [], 0
    for secret in _secrets(settings):
        try:
            secret.read()
            count += 1
        except SecretUnreadableError as error:
            verdicts.append(wrong(str(error), "put there what was handed over, readable by the agent's user alone"))
    return worst_of(verdicts, f"{count} files, each its owner's alone")


def _secrets(settings: SiteSettings) -> Iterator[Secret]:
    if settings.hub is not None:
        yield from (settings.hub.password, settings.hub.store_key)
    if isinstance(settings.scheduler, Airflow):
        yield settings.scheduler.password
    if settings.http.token is not None:
        yield settings.http.token
    yield from (dataset.split_salt for dataset in settings.datasets.values() if dataset.split_salt is not None)


# --- data sets -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Walk:
    """What was seen of a data set. Names are for the clinic's own eyes."""

    until: float
    files: int = 0
    seen: int = 0
    cut: bool = False
    unreadable: list[str] = field(default_factory=list)
    leading_out: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        self.cut = self.cut or self.seen >= LOOKED_AT_MOST or time.monotonic() > self.until
        return self.cut

    def through(self, folder: Path, root: Path) -> None:
        pending = [folder]
        while pending and not self.enough:
            current = pending.pop()
            try:
                entries = list(os.scandir(current))
            except OSError:
                self.unreadable.append(str(current))
                continue
            for entry in entries:
                self.seen += 1
                if entry.is_symlink() and not _inside(Path(entry.path), root):
                    self.leading_out.append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif os.access(entry.path, os.R_OK):
                    self.files += 1
                else:
                    self.unreadable.append(entry.path)


def _inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # RuntimeError: links that lead round in a circle
        return False


async def look_at_dataset(dataset: Dataset) -> Verdict:
    """Whether the folders are there, hold readable files, and no link leads out of them."""
    return await in_thread(lambda: _look_at_dataset(dataset))


def _look_at_dataset(dataset: Dataset) -> Verdict:
    walk = _Walk(until=time.monotonic() + LOOKS_FOR)
    for folder in dataset.path:
        try:
            root = folder.resolve(strict=True)
        except (OSError, RuntimeError):
            return wrong(f"there is no folder {folder}", "correct path in site.toml, or mount it")
        if not root.is_dir():
            return wrong(f"{folder} is not a folder", "correct path in site.toml")
        walk.through(folder, root)
    to_do = "let the agent's user read it"
    if walk.unreadable:
        return wrong(f"cannot be read: {_named(walk.unreadable)}", to_do)
    if walk.leading_out:
        return wrong(f"links lead out of the folder: {_named(walk.leading_out)}", "put the files themselves there")
    if not walk.files:
        return wrong("there is no file in it", "correct path in site.toml, or mount it")
    try:
        salted = "" if dataset.salt() else ", no split_salt"
    except SecretUnreadableError as error:
        return wrong(str(error), to_do)
    files = f"{walk.files} file{'' if walk.files == 1 else 's'}"
    return ok(f"{'the first ' if walk.cut else ''}{files} can be read{salted}")


def _named(paths: list[str]) -> str:
    more = len(paths) - NAMED_AT_MOST
    return ", ".join(paths[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
