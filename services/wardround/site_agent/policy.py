"""A clinic's policy: `policy.toml`, which the data owner signs off. What no rule allows is denied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from wardround.runtime.regular_file import open_regular
from wardround.runtime.sizes import Size
from wardround.runtime.toml_file import LARGEST, SettingsError, Table, as_table, parse_toml
from wardround_messages.manifest import Manifest
from wardround_messages.names import Slug, Task


def _pinned(value: object) -> object:
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value)
    raise ValueError('must be a list of names, or a table { name = "sha256:..." }')


Names = Annotated[tuple[Slug, ...], Field(strict=False, min_length=1, max_length=1000)]
Pin = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Glob = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._/*?-]+$")]


class Leave(Table):
    """What may leave the clinic: the size of an update in bytes, metrics by name, errors as codes or in words."""

    update_at_most: Size = 200 * 10**6
    metrics: Annotated[tuple[Glob, ...], Field(strict=False, max_length=100)] = ()
    errors: Literal["code", "text"] = "code"

    def metrics_allowed(self, values: Mapping[str, float | None]) -> tuple[dict[str, float | None], int]:
        """The metrics that may leave, and the number of those kept back."""
        kept = {
            name: value for name, value in values.items() if any(fnmatchcase(name, allowed) for allowed in self.metrics)
        }
        return kept, len(values) - len(kept)


class AtMost(Table):
    rounds: Annotated[int, Field(ge=1)] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None


class AtLeast(Table):
    cases: Annotated[int, Field(ge=1)] | None = None
    sites: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a clinic is asked for. `sites` is the size of the cohort.

    `code_sha256` is that of the installed trainer, None where it is not known. `cases` is None until they are counted.
    """

    kind: Literal["offer", "task"]
    study: str
    requested_by: str
    trainer: str
    code_sha256: str | None = None
    dataset: str
    rounds: int
    epochs: int
    sites: int
    cases: int | None = None
    task: Task | None = None


def requests_of(
    manifest: Manifest, site: str, *, requested_by: str, code_sha256: str | None, rounds: int | None = None
) -> tuple[Request, ...]:
    """All that an offer of the manifest asks of the site: its training, and the common test where that is held."""
    test = manifest.evaluation.test
    datasets = [manifest.training.dataset, *([test.dataset] if test is not None and test.site == site else [])]
    return tuple(
        Request(
            kind="offer",
            study=manifest.study,
            requested_by=requested_by,
            trainer=manifest.training.trainer,
            code_sha256=code_sha256,
            dataset=dataset,
            rounds=manifest.rounds.count if rounds is None else rounds,
            epochs=manifest.training.epochs,
            sites=len(manifest.cohort.sites),
        )
        for dataset in dict.fromkeys(datasets)
    )


class Rule(Table):
    """One `[[allow]]`: it matches a request that meets every condition."""

    id: Slug
    study: Slug
    requested_by: Names
    trainers: Annotated[dict[Slug, Pin | None], Field(min_length=1, max_length=1000), BeforeValidator(_pinned)]
    datasets: Names
    at_most: AtMost = AtMost()
    at_least: AtLeast = AtLeast()
    approval: Literal["automatic", "manual"] = "automatic"
    leave: Leave | None = None

    def unmet(self, request: Request) -> tuple[str, ...]:
        """The conditions that the request does not meet, in words; none: the rule matches."""
        return tuple(problem for problem in self._conditions(request) if problem is not None)

    def _conditions(self, request: Request) -> tuple[str | None, ...]:
        # Nothing of the patients goes into a first model, and a check leaves codes only.
        cases = None if request.task in (Task.INITIALISE, Task.CHECK) else request.cases
        return (
            None if request.study == self.study else f"study is '{request.study}', not '{self.study}'",
            _named("requested_by", request.requested_by, self.requested_by),
            _named("trainer", request.trainer, self.trainers) or self._other_code(request),
            _named("dataset", request.dataset, self.datasets),
            _above("rounds", request.rounds, self.at_most.rounds),
            _above("epochs", request.epochs, self.at_most.epochs),
            _below("cases", cases, self.at_least.cases),
            _below("sites", request.sites, self.at_least.sites),
        )

    def _other_code(self, request: Request) -> str | None:
        pin = self.trainers[request.trainer]
        if pin is None or pin == f"sha256:{request.code_sha256}":
            return None
        found = "is not known here" if request.code_sha256 is None else f"is sha256:{request.code_sha256[:12]}..."
        return f"the code of trainer '{request.trainer}' {found}, {pin[:19]}... is allowed"


def _named(what: str, value: str, allowed: tuple[str, ...] | dict[str, str | None]) -> str | None:
    return None if value in allowed else f"{what} '{value}' is not among those allowed"


def _above(what: str, value: int, limit: int | None) -> str | None:
    return None if limit is None or value <= limit else f"{what} is {value}, at most {limit} allowed"


def _below(what: str, value: int | None, limit: int | None) -> str | None:
    return None if limit is None or value is None or value >= limit else f"{what} is {value}, at least {limit} needed"


@dataclass(frozen=True, slots=True)
class Decision:
    """`allow`, `deny`, or `ask` a person. `rule` decided, or came closest; `code` and `reason` may leave the clinic."""

    verdict: Literal["allow", "deny", "ask"]
    rule: str | None
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there are no rules. `detail` is for the clinic's own eyes."""

    code: Literal["policy_missing", "policy_unreadable", "site_stopped"]
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force; without rules, which is how it begins, everything is denied."""

    rules: tuple[Rule, ...] = ()
    leave: Leave = field(default_factory=Leave)
    fault: Fault | None = None

    def judge(self, request: Request) -> Decision:
        """The first rule that matches decides; where none does, the closest rule of that study says what was amiss."""
        if self.fault is not None:
            return Decision("deny", None, self.fault.code, self.fault.reason)
        examined = self.examine(request)
        for rule, unmet in examined:
            if not unmet:
                return _matched(rule)
        of_the_study = [(rule, unmet) for rule, unmet in examined if rule.study == request.study]
        if not of_the_study:
            return Decision("deny", None, "policy", f"no rule allows anything for study '{request.study}'")
        closest, unmet = min(of_the_study, key=lambda each: len(each[1]))
        return Decision(
            "deny", closest.id, "policy", f"rule '{closest.id}' does not allow it: {'; '.join(unmet)}"[:400]
        )

    def judge_all(self, requests: Sequence[Request]) -> Decision:
        """The strictest verdict on what belongs together."""
        decisions = [self.judge(request) for request in requests]
        return max(decisions, key=lambda decision: ("allow", "ask", "deny").index(decision.verdict))

    def examine(self, request: Request) -> tuple[tuple[Rule, tuple[str, ...]], ...]:
        """Each rule in the file's order, with the conditions that the request does not meet."""
        return tuple((rule, rule.unmet(request)) for rule in self.rules)

    def leave_of(self, rule: str | None) -> Leave:
        """What may leave under the rule: the bounds of all, with what the rule itself says in their place."""
        own = next((each.leave for each in self.rules if each.id == rule), None)
        return self.leave if own is None else own.over(self.leave)


def _matched(rule: Rule) -> Decision:
    if rule.approval == "manual":
        return Decision("ask", rule.id, "approval", f"rule '{rule.id}' leaves it to a person at the clinic")
    return Decision("allow", rule.id, "allowed", f"rule '{rule.id}' allows it")


class PolicyFile(Table):
    """`policy.toml`."""

    default: Literal["deny"] = "deny"
    leave: Leave = Leave()
    allow: Annotated[tuple[Rule, ...], Field(strict=False, max_length=1000)] = ()

    @model_validator(mode="after")
    def _each_rule_has_its_own_id(self) -> Self:
        ids = [rule.id for rule in self.allow]
        for id_ in ids:
            if ids.count(id_) > 1:
                raise ValueError(f"two rules have the id '{id_}'; refusals and the log name a rule by it")
        return self


def load_policy(path: Path) -> Policy:
    """The policy in the file. It never raises: a missing, empty or broken file is a policy that denies everything."""
    try:
        with open_regular(path, follow=True) as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        return _missing("the clinic has no policy, so nothing is allowed", str(error))
    except OSError as error:
        return _unreadable(f"{path}: cannot be read: {error.strerror}")
    return _policy(path, data)


@lru_cache(maxsize=64)
def _policy(path: Path, data: bytes) -> Policy:
    """The file is read at every decision, but what it says is worked out once for the same bytes."""
    try:
        content = parse_toml(path, data)
        if not content:
            return _missing("the clinic's policy is empty, so nothing is allowed", str(path))
        file = as_table(path, content, PolicyFile)
    except SettingsError as error:
        return _unreadable(str(error))
    return Policy(file.allow, file.leave)


def _missing(reason: str, detail: str) -> Policy:
    return Policy(fault=Fault("policy_missing", reason, detail))


def _unreadable(detail: str) -> Policy:
    return Policy(fault=Fault("policy_unreadable", "the clinic's policy cannot be read", detail))
