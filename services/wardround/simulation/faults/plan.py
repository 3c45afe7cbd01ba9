"""What one seed stands for: the experiment, the services, and how badly everything around them behaves. Pure."""

import random
from collections.abc import Callable, Mapping
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


def schedule_of(seed: int) -> Schedule:
    """The schedule that the seed stands for."""
    dice = random.Random(f"schedule {seed}")  # noqa: S311 - nothing here is secret
    profile = dice.choices(list(PROFILES), [weight for weight, _ in PROFILES.values()])[0]
    sites = dice.choice((2, 2, 3))
    asked = sites - 1 if dice.random() < 0.2 else sites
    plan = Plan(
        sites=sites,
        rounds=dice.choice((2, 2, 3, 4)),
        quorum=dice.choice((asked, max(asked - 1, 1))),
        sample="all" if asked == sites else asked,
        weighted=dice.random() < 0.7,
        evaluates=dice.random() < 0.3,
        keeps=dice.choice((None, None, 1)),
        deadline=dice.choice((120, 300, 600)),
        grace=dice.choice((5, 30)),
        pauses=dice.random() < 0.8,
        coordinators=dice.choice((1, 2, 2)),
        aggregators=dice.choice((1, 2)),
    )
    schedule = Schedule(seed=seed, profile=profile, plan=plan, lasts=dice.uniform(40, 160))
    return PROFILES[profile][1](schedule, dice)


# --- profiles: what a schedule is about --------------------------------------------------------------------------


def _everything(schedule: Schedule, dice: random.Random) -> Schedule:
    """Some of all of it, each now and then."""

    def some(most: float) -> float:
        return most * dice.random() if dice.random() < 0.5 else 0.0

    plan = schedule.plan
    everyone = (*plan.hub, *plan.clinics)
    return replace(
        schedule,
        calls=Calls(killed=some(0.03), failed=some(0.15), timed_out=some(0.15), slow=some(0.05), stale=some(0.3)),
        announcements=Mail(lost=some(1.0), doubled=some(0.5), late=some(0.5), very_late=some(0.05)),
        messages=Mail(lost=some(0.3), doubled=some(0.3), late=some(0.3), very_late=some(0.05)),
        forged=some(0.2),
        incidents=tuple(_incident(schedule, dice, everyone) for _ in range(dice.randrange(5))),
        clocks=_clocks(dice, plan.clinics) if dice.random() < 0.3 else {},
        rot={"updates": some(0.4)} if dice.random() < 0.15 else {},
        crashes=some(0.2),
    )


def _kills(schedule: Schedule, dice: random.Random) -> Schedule:
    return replace(schedule, calls=Calls(killed=dice.choice((0.005, 0.02, 0.05))))


def _calls_fail(schedule: Schedule, dice: random.Random) -> Schedule:
    rate = dice.choice((0.05, 0.2, 0.4))
    return replace(
        schedule, calls=Calls(failed=rate * dice.random(), timed_out=rate * dice.random(), slow=0.05, stale=0.2)
    )


def _mail(schedule: Schedule, dice: random.Random) -> Schedule:
    rate = dice.choice((0.1, 0.3, 0.5))
    mail = Mail(lost=rate * dice.random(), doubled=rate, late=rate, very_late=0.1 * dice.random())
    return replace(schedule, announcements=mail, messages=mail, forged=0.2)


def _silence(schedule: Schedule, dice: random.Random) -> Schedule:
    """Every announcement is lost, for good, and nothing else happens."""
    return replace(schedule, announcements=Mail(lost=1.0), lasts=10 * HOUR)


def _cuts(schedule: Schedule, dice: random.Random) -> Schedule:
    kinds: tuple[Kind, ...] = ("cut off", "mute", "deaf", "rebooted", "frozen", "killed", "disk full")
    clinics = schedule.plan.clinics
    return replace(
        schedule,
        incidents=tuple(
            Incident(dice.uniform(0, 60), dice.choice(kinds), dice.choice(clinics), dice.choice((5, 60, 400)))
            for _ in range(dice.randrange(1, 5))
        ),
    )


def _takeover(schedule: Schedule, dice: random.Random) -> Schedule:
    """Services of the hub stand still while their twins go on, and thaw again."""
    plan = replace(schedule.plan, coordinators=2, aggregators=2)
    return replace(
        schedule,
        plan=plan,
        calls=Calls(killed=dice.choice((0.0, 0.005)), slow=0.1),
        incidents=tuple(
            Incident(dice.uniform(0, 50), "frozen", dice.choice(plan.hub), dice.uniform(1, 60))
            for _ in range(dice.randrange(2, 8))
        ),
    )


def _outages(schedule: Schedule, dice: random.Random) -> Schedule:
    kinds: tuple[Kind, ...] = ("store away", "broker away", "broker wiped")
    return replace(
        schedule,
        incidents=tuple(
            Incident(dice.uniform(0, 60), dice.choice(kinds), "all", dice.uniform(2, 90))
            for _ in range(dice.randrange(1, 4))
        ),
    )


def _site_clocks(schedule: Schedule, dice: random.Random) -> Schedule:
    return replace(schedule, clocks=_clocks(dice, schedule.plan.clinics))


def _hub_clocks(schedule: Schedule, dice: random.Random) -> Schedule:
    """Two hours are more than a deadline, and short enough to wait for."""
    plan = replace(schedule.plan, interval=60.0)
    return replace(
        schedule,
        plan=plan,
        incidents=tuple(
            Incident(dice.uniform(0, 60), "clock", dice.choice(plan.hub), dice.choice((-2 * HOUR, 2 * HOUR)))
            for _ in range(dice.randrange(1, 3))
        ),
    )


def _twins(schedule: Schedule, dice: random.Random) -> Schedule:
    """A clinic's agent was set up twice, with the same login: whichever hears of a task does it."""
    site = dice.choice(schedule.plan.clinics)
    kinds: tuple[Kind, ...] = ("frozen", "cut off", "deaf", "killed")
    return replace(
        schedule,
        plan=replace(schedule.plan, twins=(site,)),
        calls=Calls(killed=0.01),
        incidents=tuple(
            Incident(dice.uniform(0, 60), dice.choice(kinds), dice.choice((site, site + TWIN)), dice.uniform(1, 30))
            for _ in range(dice.randrange(2, 8))
        ),
    )


def _rot(schedule: Schedule, dice: random.Random) -> Schedule:
    kind = dice.choice(("updates", "global", "journal"))
    return replace(schedule, rot={kind: dice.choice((0.1, 0.4))}, calls=Calls(killed=0.01))


PROFILES: Mapping[str, tuple[float, Callable[[Schedule, random.Random], Schedule]]] = {
    "everything": (50, _everything),
    "kills": (10, _kills),
    "failing calls": (10, _calls_fail),
    "mail": (8, _mail),
    "silence": (3, _silence),
    "cut off": (6, _cuts),
    "takeover": (6, _takeover),
    "outages": (5, _outages),
    "clocks of sites": (3, _site_clocks),
    "clocks of the hub": (3, _hub_clocks),
    "flipped bits": (6, _rot),
    "two agents": (4, _twins),
}


def _incident(schedule: Schedule, dice: random.Random, everyone: tuple[str, ...]) -> Incident:
    clinics = schedule.plan.clinics
    kind: Kind = dice.choice(
        (
            *("killed", "frozen", "cut off", "mute", "deaf", "rebooted"),
            *("disk full", "store away", "broker away", "broker wiped"),
        )
    )
    if kind in ("store away", "broker away", "broker wiped"):
        target = "all"
    else:
        target = dice.choice(clinics if kind in ("rebooted", "disk full") else everyone)
    return Incident(dice.uniform(0, 60), kind, target, dice.choice((3.0, 20.0, 100.0)) * dice.random())


def _clocks(dice: random.Random, names: tuple[str, ...]) -> dict[str, float]:
    return {name: dice.choice((-DAY, DAY)) for name in names if dice.random() < 0.7}
