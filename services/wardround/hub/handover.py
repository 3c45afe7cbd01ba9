"""The files that are written for a service, a site and a person: pure text."""

import json

from wardround.runtime.roster import Roster


def service_files(service: str, roster: Roster) -> dict[str, str]:
    """The settings of one of the hub's own services, beside the roster."""
    own = {
        "coordinator": 'roster = "hub.toml"\n',
        "aggregator": 'work   = "work/aggregator"\n',
        "metrics": "",
    }
    ca = "" if roster.ca is None else 'ca        = "ca.pem"\n'
    return {
        f"{service}.toml": f"""schema = 1
{own[service]}
[hub]
broker    = {json.dumps(roster.broker)}
store     = {json.dumps(roster.store)}
{ca}username  = "{service}"
password  = {{ file = "secrets/{service}.broker" }}
store_key = {{ id = "{service}", file = "secrets/{service}.store" }}
"""
    }


def site_files(site: str, roster: Roster) -> dict[str, str]:
    """What a clinic is handed: settings that work, and a policy that allows nothing."""
    return {
        "site.toml": f"""schema = 1
site   = "{site}"

{_hub(site, roster)}
[paths]
inbox = "inbox.sqlite"
log   = "audit.jsonl"
spool = "spool"

[scheduler]
kind  = "local"                         # trainings are child processes of the agent
slots = 1                               # at once; the others wait

# A data set: the name that experiments use, and the clinic's own folder, which is read and never sent.
# [datasets.brain-mri]
# path       = "/data/brain-mri"
# split_salt = {{ file = "secrets/split" }}
""",
        "policy.toml": """schema  = 1
default = "deny"                        # what no rule allows is refused

[leave]                                 # bounds for every rule
update_at_most = "200 MB"
metrics        = ["loss"]               # others stay; the researcher is told how many
errors         = "code"                 # code | text

# [[allow]]
# id           = "glioma"               # the rule that refusals and the log name
# study        = "glioma"
# requested_by = ["researcher-a"]
# trainers     = ["brain-tumour-unet"]
# datasets     = ["brain-mri"]
# at_most      = { rounds = 100, epochs = 8 }
# at_least     = { cases = 10, sites = 3 }
# approval     = "manual"
""",
    }


def researcher_files(name: str, roster: Roster) -> dict[str, str]:
    """What a person is handed: a profile for `~/.config/wardround/hubs.toml`, or for WARDROUND_HUBS."""
    metrics = "" if roster.metrics is None else f"metrics   = {json.dumps(roster.metrics)}\n"
    hub = _hub(name, roster).replace("[hub]\n", f"[hubs.hub]\n{metrics}")
    return {"hubs.toml": f'schema  = 1\ndefault = "hub"\n\n{hub}'}


def _hub(login: str, roster: Roster) -> str:
    ca = "" if roster.ca is None else 'ca        = "ca.pem"\n'
    return f"""[hub]
broker    = {json.dumps(roster.broker)}
store     = {json.dumps(roster.store)}
{ca}username  = "{login}"
password  = {{ file = "secrets/broker" }}
store_key = {{ id = "{login}", file = "secrets/store" }}
"""
