"""What a site last said of itself, as it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from wardround.metrics.board import Sighting
from wardround_messages.events import TaskInHand
from wardround_messages.parts import Trainer

QUIET_AFTER = timedelta(minutes=3)  # a site says every minute that it is there


@dataclass(frozen=True, slots=True)
class SiteRow:
    """`reads` are the types of messages that its agent understands. `status` is what the site itself says; `quiet`
    means that nothing was heard of it for three minutes. `seen_ago` is in seconds."""

    site: str
    quiet: bool
    seen_at: datetime
    seen_ago: float
    status: Literal["ok", "degraded"]
    detail: str
    agent_version: str
    reads: tuple[str, ...]
    trainers: tuple[Trainer, ...]
    datasets: tuple[str, ...]
    slots: int
    free: int
    tasks: tuple[TaskInHand, ...]


def site_rows(sites: Mapping[str, Sighting], now: datetime) -> list[SiteRow]:
    """In the order of their names."""
    return [_row(sites[site], now) for site in sorted(sites)]


def _row(sighting: Sighting, now: datetime) -> SiteRow:
    said, ago = sighting.said, now - sighting.at
    return SiteRow(
        site=said.site,
        quiet=ago >= QUIET_AFTER,
        seen_at=sighting.at,
        seen_ago=max(ago.total_seconds(), 0.0),
        status=said.status,
        detail=said.detail,
        agent_version=said.agent_version,
        reads=said.reads,
        trainers=said.trainers,
        datasets=said.datasets,
        slots=said.slots,
        free=said.free,
        tasks=said.tasks,
    )
