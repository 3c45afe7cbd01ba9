"""The environment that trains: which trainers are installed there, and whether the policy allows others."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from wardround.client.doctor.findings import Verdict, ok, warning, wrong
from wardround.site_agent.policy import Policy
from wardround.site_agent.trainers import TrainersError, describe_with
from wardround_messages.parts import TrainerDescription

DESCRIBES_WITHIN = 90.0  # seconds; an environment with PyTorch takes some to start
TRAINER_OF_PROBE = "adding"  # comes with Wardround


class Trainers:
    """What is installed, once it was looked at."""

    def __init__(self, python: str | Path) -> None:
        self._python = python
        self.installed: tuple[TrainerDescription, ...] = ()

    async def look(self) -> Verdict:
        """Whether the interpreter lists trainers."""
        to_do = (
            f"install wardround[training] and the clinic's trainers where {self._python} is, or set scheduler.python"
        )
        try:
            self.installed = await describe_with(self._python, timeout=DESCRIBES_WITHIN)()
        except TrainersError as error:
            return wrong(str(error), to_do)
        if not self.installed:
            return wrong(f"{self._python} has no trainer", to_do)
        return ok(", ".join(f"{trainer.name} {trainer.version}" for trainer in self.installed))

    async def look_at_policy(self, policy: Policy) -> Verdict:
        """Whether each trainer that the policy allows is installed, with the code that a rule pins."""
        return judge_trainers(policy, self.installed)

    def code_of(self, name: str) -> str | None:
        return next((trainer.code_sha256 for trainer in self.installed if trainer.name == name), None)


def judge_trainers(policy: Policy, installed: Sequence[TrainerDescription]) -> Verdict:
    """Whether each trainer that a rule allows is installed as the rule says."""
    amiss = list(_amiss(policy, {trainer.name: trainer.code_sha256 for trainer in installed}))
    if amiss:
        return warning("; ".join(amiss), "install it, or have the data owner change the rule: it is refused as it is")
    allowed = dict.fromkeys(name for rule in policy.rules for name in rule.trainers)
    return ok(f"all allowed ones are installed: {', '.join(allowed)}" if allowed else "the policy allows none")


def _amiss(policy: Policy, code: dict[str, str]) -> Iterator[str]:
    for rule in policy.rules:
        for name, pin in rule.trainers.items():
            if name not in code:
                yield f"rule '{rule.id}' allows trainer '{name}', which is not installed"
            elif pin is not None and pin != f"sha256:{code[name]}":
                yield (
                    f"rule '{rule.id}' allows trainer '{name}' as {pin[:19]}..., installed is "
                    f"sha256:{code[name][:12]}..."
                )
