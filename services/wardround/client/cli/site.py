"""`wardround site`: what a clinic's IT department and data owner ask before anything runs."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli import site_consent, site_doctor, site_log, site_status
from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_site import SITE_FILE, OnSite, site_settings
from wardround.client.experiment_file import load_experiment
from wardround.site_agent.policy import Decision, Leave, Policy, Request, load_policy, requests_of
from wardround.site_agent.settings import POLICY_FILE, SiteSettings
from wardround.site_agent.trainers import TrainersError, describe_with
from wardround_messages.manifest import Manifest

app = typer.Typer(no_args_is_help=True, help="A clinic's own view: its policy, and what that makes of an experiment.")
policy_app = typer.Typer(no_args_is_help=True, help="The clinic's policy.")
app.add_typer(policy_app, name="policy")
for word in (
    site_consent.pending,
    site_consent.show,
    site_consent.approve,
    site_consent.refuse,
    site_consent.withdraw,
    site_consent.stop,
    site_consent.resume,
):
    app.command(word.__name__)(word)
app.add_typer(site_log.app, name="log")
app.command("doctor")(site_doctor.doctor)
app.command("status")(site_status.status)

VERDICTS = {"allow": "allowed", "ask": "pending", "deny": "refused"}


@policy_app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="The experiment file; - reads standard input.")],
    site: OnSite = None,
    policy: Annotated[Path | None, typer.Option(help="The policy. Without it: policy.toml beside site.toml.")] = None,
    requested_by: Annotated[
        str | None, typer.Option(metavar="LOGIN", help="Who asks. Without it: the first whom the study's rule names.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what the clinic's policy makes of an experiment, and which rule decides. Exits 3 where it is refused."""
    manifest = load_experiment(file)
    settings, folder = _site(site)
    if policy is not None and not policy.is_file():
        raise CommandError(f"--policy: there is no file {policy}")
    explained = _explained(load_policy(policy or folder / POLICY_FILE), manifest, settings, requested_by)
    typer.echo(explained.as_json() if as_json else explained.as_text())
    if explained.decision.verdict == "deny":
        raise typer.Exit(Exit.REFUSED)


@dataclass(frozen=True, slots=True)
class _Explained:
    """The verdict on an experiment: the strictest of those on its requests."""

    manifest: Manifest
    policy: Policy
    requests: tuple[Request, ...]

    @property
    def decision(self) -> Decision:
        return self.policy.judge_all(self.requests)

    @property
    def leave(self) -> Leave:
        return self.policy.leave_of(self.decision.rule)

    def as_json(self) -> str:
        return json.dumps(
            {
                "experiment": self.manifest.id,
                **asdict(self.decision),
                "detail": self.policy.fault.detail if self.policy.fault else "",
                "requests": [
                    asdict(request)
                    | {"rules": [{"id": rule.id, "unmet": unmet} for rule, unmet in self.policy.examine(request)]}
                    for request in self.requests
                ],
                "leave": self.leave.model_dump(mode="json"),
            }
        )

    def as_text(self) -> str:
        lines = [f"{self.manifest.id}: {VERDICTS[self.decision.verdict]}: {self.decision.reason}"]
        if self.policy.fault is not None:
            return "\n".join([*lines, f"  {self.policy.fault.detail}"])
        for request in self.requests:
            lines += [f"  {line}" for line in self._on(request)]
        if self.decision.verdict != "deny":
            lines += [f"  {line}" for line in self._leaving()]
        return "\n".join(lines)

    def _on(self, request: Request) -> list[str]:
        asked = (
            f"{request.requested_by} asks, in study '{request.study}', for trainer '{request.trainer}' on data set "
            f"'{request.dataset}' (rounds: {request.rounds}, epochs: {request.epochs}, sites: {request.sites})"
        )
        rules = [
            f"  rule '{rule.id}' {'does not match: ' + '; '.join(unmet) if unmet else 'matches'}"
            for rule, unmet in self.policy.examine(request)
        ]
        return [asked, *(rules or ["  the policy has no rule"])]

    def _leaving(self) -> list[str]:
        rule = next(rule for rule in self.policy.rules if rule.id == self.decision.rule)
        metrics = ", ".join(self.leave.metrics) or "none"
        cases = rule.at_least.cases
        return [
            f"may leave: an update of at most {self.leave.update_at_most:,} bytes; metrics: {metrics}; "
            f"errors as {self.leave.errors}",
            *([f"cases are counted at each task: at least {cases} needed"] if cases is not None else []),
        ]


def _site(given: Path | None) -> tuple[SiteSettings | None, Path]:
    """The clinic's settings, None where none are here and none were asked for, and its folder."""
    if given is None and not Path(SITE_FILE).exists():
        return None, Path()
    return site_settings(given)


def _explained(policy: Policy, manifest: Manifest, settings: SiteSettings | None, login: str | None) -> _Explained:
    of_the_study = [rule for rule in policy.rules if rule.study == manifest.study]
    trainer = manifest.training.trainer
    pinned = any(rule.trainers.get(trainer) for rule in policy.rules)
    requests = requests_of(
        manifest,
        settings.site if settings else "",
        requested_by=login or (of_the_study[0].requested_by[0] if of_the_study else "somebody"),
        code_sha256=_installed_code(trainer, settings) if pinned else None,
    )
    return _Explained(manifest, policy, requests)


def _installed_code(trainer: str, settings: SiteSettings | None) -> str | None:
    """The digest of the installed trainer's code, which a rule is pinned to; None where it is not installed."""
    python = (settings and settings.scheduler.python) or sys.executable
    try:
        described = asyncio.run(describe_with(python)())
    except TrainersError as error:
        raise CommandError(str(error)) from None
    return next((each.code_sha256 for each in described if each.name == trainer), None)
