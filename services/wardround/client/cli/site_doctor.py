"""`wardround site doctor`: whether a clinic is fit for work, beside its `site.toml`."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from wardround.client.cli.doctor import end, examined
from wardround.client.cli.errors import Exit
from wardround.client.cli.on_hub import AsJson, InsecureLab
from wardround.client.cli.on_site import SITE_FILE, OnSite, site_file
from wardround.runtime.encryption import UnencryptedError, refuse_unencrypted
from wardround.runtime.http_settings import ExposedError, refuse_exposed
from wardround.runtime.toml_file import SettingsError

if TYPE_CHECKING:
    from wardround.site_agent.main import AgentSettings

ELSEWHERE = "run this in a clinic's folder, or name it: wardround site doctor --site FOLDER"


def doctor(
    site: OnSite = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Look whether a clinic is fit for work: its files, the hub, the scheduler with a run to try it, the agent.

    It may run beside the agent, and disturbs nothing. Exits 1 where something is wrong, 2 where site.toml cannot be
    used.
    """
    from wardround.client.doctor.findings import Finding
    from wardround.client.doctor.site import SiteDoctor
    from wardround.metrics.wording import size_text

    path = site or Path()
    try:
        settings = _settings(path, insecure_lab=insecure_lab)
    except (SettingsError, UnencryptedError, ExposedError) as error:
        known = (str(error), "mend it, then run this again")
        told = known if site_file(site).exists() else (f"there is none at {path}", ELSEWHERE)
        findings = (Finding(SITE_FILE, "wrong", *told), Finding("everything else", "skipped", f"needs: {SITE_FILE}"))
        end(findings, as_json=as_json, badly=lambda _: Exit.BAD_INPUT)
        return

    async def look() -> tuple[Finding, ...]:
        doctor = SiteDoctor(settings)
        try:
            return await examined(doctor.checks(), as_json=as_json)
        finally:
            await doctor.close()

    at_most = settings.site.transfers.at_most
    limit = "" if at_most is None else f"; models and updates move at {size_text(at_most)}/s at most"
    first = Finding(SITE_FILE, "ok", f"the settings of '{settings.site.site}'{limit}")
    end((first, *asyncio.run(look())), as_json=as_json)


def _settings(path: Path, *, insecure_lab: bool) -> "AgentSettings":
    """As the agent itself reads them; raises as it does."""
    from wardround.site_agent.main import AgentShell

    shell = AgentShell()
    settings = shell.load(str(path), os.environ)
    hub = settings.site.hub
    of_hub = () if hub is None else (hub.broker, hub.store)
    refuse_unencrypted((*of_hub, *shell.addresses(settings)), insecure_lab=insecure_lab)
    refuse_exposed(settings.http, insecure_lab=insecure_lab)
    return settings
