"""What nobody asks for any more does not pile up at a clinic. The log alone, `audit.jsonl`, is never cut."""

import asyncio
import shutil

import structlog

from wardround.site_agent.site import Site

log = structlog.get_logger()

LOOKED_EVERY = 3600.0  # seconds


async def forget(site: Site) -> None:
    """Now, and every hour from then on, drop what was last asked for 30 days ago."""
    while True:
        try:
            await site.write(_forget_what_is_over, site)
        except Exception:
            log.exception("not_forgotten")
        await asyncio.sleep(LOOKED_EVERY)


def _forget_what_is_over(site: Site) -> None:
    now = site.clock()
    site.inbox.forget_messages(now=now)
    for experiment in site.inbox.silent_experiments(now=now):
        # The folder first: killed in between, the inbox still knows of it.
        shutil.rmtree(site.settings.paths.spool / site.carry(experiment), ignore_errors=True)
        site.inbox.forget_experiment(experiment)
