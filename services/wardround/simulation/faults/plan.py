"""What is decided before a run: the experiment, the services, and how badly everything around them behaves. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from wardround_messages.manifest import Cohort, Evaluation, Manifest, ModelPlan, Rounds, Strategy, Training

EXPERIMENT = "sim"
TWIN = "-twin"  # the name of a site's second agent ends so
DAY = 86_400.0
HOUR = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The experiment and the services that carry it out; times are seconds."""

    sites: int = 2
    rounds: int = 2
    quorum: int | str = 2
    sample: int | str = "all"
    weighted: bool = True
    evaluates: bool = False
    keeps: int | None = None
    deadline: int = 300
    grace: int = 30
    pauses: bool = True
    coordinators: int = 1
    aggregators: int = 1
    interval: float = 15.0
    slots: int = 1  # of each clinic, as its settings say
    twins: tuple[str, ...] = ()  # sites that have a second agent, with an inbox of its own

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            id=EXPERIMENT,
            study="counting",
            purpose="",
            seed=7,
            cohort=Cohort(sites=self.clinics, quorum=self.quorum, sample=self.sample),
            rounds=Rounds(
                count=self.rounds,
                deadline=self.deadline,
                grace=self.grace,
                on_missed="pause" if self.pauses else "fail",
            ),
            model=ModelPlan(keep="all" if self.keeps is None else self.keeps),
            strategy=Strategy(weight="cases" if self.weighted else "equal"),
            training=Training(trainer="adding", dataset="counting", parameters={"size_mb": 0.0001}),
            evaluation=Evaluation(final=self.evaluates),
        )

    @property
    def clinics(self) -> tuple[str, ...]:
        return tuple(f"clinic-{number}" for number in range(1, self.sites + 1))

    @property
    def hub(self) -> tuple[str, ...]:
        return (
            *(f"coordinator-{number}" for number in range(1, self.coordinators + 1)),
            *(f"aggregator-{number}" for number in range(1, self.aggregators + 1)),
            "metrics",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How likely something befalls one call at a port."""

    killed: float = 0.0
    failed: float = 0.0
    timed_out: float = 0.0  # carried out, and the reply lost
    slow: float = 0.0
    stale: float = 0.0  # a listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """How likely something befalls one message; `late` by seconds, so that others overtake it, `very_late` up to an
    hour."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    very_late: float = 0.0


Kind = Literal[
    "killed",
    "frozen",
    "cut off",
    "mute",
    "deaf",
    "rebooted",
    "disk full",
    "store away",
    "broker away",
    "broker wiped",
    "clock",
]


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that befalls a service, or all of them; `lasts` is seconds, and for a clock how far it is off."""

    at: float
    kind: Kind
    target: str
    lasts: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All that is decided before a run begins. Faults are injected for the first `lasts` seconds; `rot` gives the
    likelihood of a flipped bit by the first word of an object's key, `forged` is announcements per second."""

    seed: int
    profile: str
    plan: Plan
    lasts: float
    calls: Calls = Calls()
    announcements: Mail = Mail()
    messages: Mail = Mail()
    forged: float = 0.0
    incidents: tuple[Incident, ...] = ()
    clocks: Mapping[str, float] = field(default_factory=dict)
    rot: Mapping[str, float] = field(default_factory=dict)
    crashes: float = 0.0
    training: tuple[float, float] = (1.0, 20.0)

    @property
    def heals(self) -> bool:
        """Whether the faults end before the run does."""
        return self.profile != "silence"

    @property
    def disturbs_hub(self) -> bool:
        """Whether anything but sites, their lines and messages is disturbed."""
        return self.calls != Calls() or any(incident.target not in self.plan.clinics for incident in self.incidents)

    @property
    def disturbs_site_clocks_alone(self) -> bool:
        return self == replace(
            self, calls=Calls(), announcements=Mail(), messages=Mail(), forged=0.0, incidents=(), rot={}, crashes=0.0
        )
