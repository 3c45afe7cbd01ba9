"""What one seed stands for: it draws what a run is about, and all that befalls it. Pure."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from wardround.simulation.faults.plan import DAY, HOUR, TWIN, Calls, Incident, Kind, Mail, Plan, Schedule


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
