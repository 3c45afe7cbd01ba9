"""A check of a whole federation: what each clinic says, what the researcher sees, what remains."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from test_client import hub_of, until, whole
from whole import clinics_for, counting, journal_of

from wardround.client import cli
from wardround.client.check import Check, check_id, check_of
from wardround.client.checked import Checked, SiteChecked
from wardround.client.hub import Hub
from wardround.client.hubs import Connections
from wardround.metrics.view import ExperimentView
from wardround.runtime.bus.memory import MemoryBus
from wardround.simulation.federation import Federation
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround.site_agent.app import SiteAgent
from wardround_messages.manifest import Manifest
from wardround_messages.names import bucket_of
from wardround_messages.objects import Answer
from wardround_messages.parts import TrainerDescription

pytestmark = pytest.mark.timeout(60)


# All that an answer to a check holds: who, what, when, and by which code.
SAID = {
    "experiment",
    "round",
    "task",
    "site",
    "attempt",
    "manifest_sha256",
    "outcome",
    "trainer",
    "log",
    "at",
}


class Uneven(Federation):
    """At clinic-3 no trainer is installed."""

    def _agent(self, clinic: Clinic, bus: MemoryBus) -> SiteAgent:
        agent = super()._agent(clinic, bus)
        assert isinstance(agent, SiteAgent)
        if clinic.name == "clinic-3":
            agent._catalogue = nothing_installed
        return agent


async def nothing_installed() -> tuple[TrainerDescription, ...]:
    return ()


@asynccontextmanager
async def uneven(folder: Path, manifest: Manifest) -> AsyncIterator[tuple[Federation, Hub]]:
    """Clinic 1 is fine, 2 declines, 3 lacks the trainer, 4 its data, 5 is silent, 6 leaves it to a person."""
    clinics = clinics_for(folder, manifest)
    amend(clinics[1], 'approval     = "automatic"', "at_most      = { rounds = 2 }")
    (data,) = clinics[3].settings.datasets["counting"].path
    shutil.rmtree(data)
    amend(clinics[5], '"automatic"', '"manual"')
    federation = Uneven(folder, clinics, interval=0.1)
    async with federation.running(), hub_of(federation) as hub:
        await federation.kill("clinic-5")
        yield federation, hub


def amend(clinic: Clinic, old: str, new: str) -> None:
    policy = clinic.policy.read_text()
    assert old in policy
    clinic.policy.write_text(policy.replace(old, new))


async def checked(
    hub: Hub, manifest: Manifest, *, within: int = 18, see: Callable[[ExperimentView], None] = lambda view: None
) -> Checked:
    asked = check_of(manifest, id=check_id(manifest.id), within=within)
    return await Check(hub, manifest, asked).carry_out(see)


async def test_each_clinic_answers_by_itself(tmp_path: Path) -> None:
    manifest = counting(sites=6, count=3, quorum=2)
    async with uneven(tmp_path, manifest) as (federation, hub):
        said = await checked(hub, manifest)
        assert [(site.result, site.phase, site.code) for site in said.sites] == [
            ("ready", "", ""),
            ("declined", "", "policy"),
            ("declined", "", "trainer_missing"),
            ("refused", "data", "data_missing"),
            ("silent", "", ""),
            ("pending", "", "approval"),
        ]
        assert said.sites[1].rule == "simulated"
        assert said.sites[1].reason == "rule 'simulated' does not allow it: rounds is 3, at most 2 allowed"
        assert said.sites[0].ran is not None
        assert said.sites[0].ran == said.sites[0].listed == said.sites[5].listed
        assert (said.outcome, said.quorum, said.warnings) == ("failed", 2, ())
        assert str(tmp_path) not in repr(said)
        kinds = [stored.entry.body.kind for stored in await journal_of(federation, said.check)]  # type: ignore[attr-defined]
        assert kinds.count("StepOpened") == 1


async def test_nothing_but_codes_leaves_and_nothing_stays_at_a_clinic(tmp_path: Path) -> None:
    manifest = counting(sites=2)
    clinics = clinics_for(tmp_path, manifest)
    federation = Federation(tmp_path, clinics, interval=0.1)
    async with federation.running(), hub_of(federation) as hub:
        said = await checked(hub, manifest)
        assert said.outcome == "ready"
        bucket = bucket_of(said.check)
        for site in ("clinic-1", "clinic-2"):
            answer = Answer.model_validate_json(
                await federation.store.read(bucket, f"answers/r000000/check/{site}/a01.json")
            )
            assert answer.model_dump(exclude_defaults=True).keys() <= SAID
        assert await federation.store.list(bucket, "updates/") == ()
        assert await federation.store.list(bucket, "global/") == ()
        async with aclosing(hub.events(experiment=said.check)) as events:
            told = [type(received.message).__name__ async for received in events]
        assert "TaskAnswered" in told
        assert "MetricsReported" not in told
        for clinic in clinics:
            assert [path for path in clinic.settings.paths.spool.rglob("*") if path.is_file()] == []
            assert said.check not in {path.name for path in clinic.settings.paths.spool.rglob("*")}
            lines = [json.loads(line) for line in clinic.settings.paths.log.read_text().splitlines()]
            assert any(said.check in json.dumps(line) and "check" in json.dumps(line) for line in lines)
        assert [summary.mode for summary in await hub.experiments()] == ["check"]


async def test_what_is_wrong_with_data_has_a_code_for_each(tmp_path: Path) -> None:
    manifest = counting(sites=4)
    clinics = clinics_for(tmp_path, manifest)
    folders = [clinic.settings.datasets["counting"].path[0] for clinic in clinics]
    shutil.rmtree(folders[0])
    for case in folders[1].iterdir():
        case.unlink()
    (folders[2] / "amount.txt").write_text("no number")
    (folders[3] / "case-0001.txt").unlink()
    (folders[3] / "case-0001.txt").symlink_to("/etc/hostname")
    async with Federation(tmp_path, clinics, interval=0.1).running() as federation, hub_of(federation) as hub:
        said = await checked(hub, manifest)
    assert [site.code for site in said.sites] == ["data_missing", "data_empty", "case_unreadable", "link_out_of_folder"]
    assert said.outcome == "refused"
    assert str(tmp_path) not in repr(said)
    # Though the policy has `errors = "text"`, nothing but codes leaves of what was tried.
    assert all('errors         = "text"' in clinic.policy.read_text() for clinic in clinics)
    assert [site.reason for site in said.sites] == [""] * 4


async def test_wrong_parameters_are_named_by_every_clinic_and_refuse_the_quorum(tmp_path: Path) -> None:
    good = counting(sites=2)
    async with whole(tmp_path, good) as (_, hub):
        said = await checked(hub, counting(sites=2, parameters={"tensors": 0}))
    assert said.outcome == "refused"
    assert {site.code for site in said.sites} == {"parameters"}
    assert all(site.reason.startswith("tensors: 0 is less than the minimum of 1") for site in said.sites)


async def test_a_clinic_whose_scheduler_is_busy_is_told_from_one_that_is_silent(tmp_path: Path) -> None:
    manifest = counting(sites=1)
    async with whole(tmp_path, manifest) as (_, hub):
        await hub.start(counting(sites=1, id="long", parameters={"seconds": 60.0}))
        await until(hub, "long", lambda view: view.step is not None and training(view) and view.step.round == 1)
        asked = check_of(manifest, id=check_id(manifest.id), within=60)  # time to agree, and little to try
        asked = asked.model_copy(update={"rounds": asked.rounds.model_copy(update={"deadline": 2, "grace": 2})})
        said = await Check(hub, manifest, asked).carry_out()
        assert said.sites == (
            SiteChecked("clinic-1", "unanswered", "received", rule="simulated", listed=said.sites[0].listed),
        )
        await hub.abort("long")


def training(view: ExperimentView) -> bool:
    return any(site.state == "training" for site in view.sites)


async def test_an_aborted_check_ends_at_the_clinics(tmp_path: Path) -> None:
    manifest = counting(sites=1, parameters={"seconds": 60.0})
    clinics = clinics_for(tmp_path, manifest)
    async with Federation(tmp_path, clinics, interval=0.1).running() as federation, hub_of(federation) as hub:
        asked = check_of(manifest, id="count-check", within=60)
        check = Check(hub, manifest, asked)
        begun = asyncio.Event()

        def see(view: ExperimentView) -> None:
            if training(view):
                begun.set()

        carried = asyncio.create_task(check.carry_out(see))
        async with asyncio.timeout(20):
            await begun.wait()
        carried.cancel()
        await asyncio.wait({carried})
        assert await check.abort()
        assert await check.abort()  # it is over: nothing is left to do
        spool = clinics[0].settings.paths.spool
        async with asyncio.timeout(10):
            while any("check" in path.name for path in spool.iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def test_a_person_sees_a_table_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = counting(sites=6, count=3, quorum=2)
    (tmp_path / "count.toml").write_text(
        """
schema = 1
id = "count"
study = "counting"
[cohort]
sites = ["clinic-1", "clinic-2", "clinic-3", "clinic-4", "clinic-5", "clinic-6"]
quorum = 2
[rounds]
count = 3
[training]
trainer = "adding"
dataset = "counting"
[evaluation]
final = false
"""
    )

    @asynccontextmanager
    async def connect(name: str | None = None, *, insecure_lab: bool = False) -> AsyncIterator[Hub]:
        async with uneven(tmp_path, manifest) as (federation, _):

            async def open_bus() -> MemoryBus:
                return MemoryBus(federation.broker, RESEARCHER)

            async with Hub(Connections(federation.store, open_bus)) as hub:
                yield hub

    monkeypatch.setattr("wardround.client.hub.connect", connect)
    monkeypatch.setattr(sys, "argv", ["wardround", "check", str(tmp_path / "count.toml"), "--within", "18s"])
    with pytest.raises(SystemExit) as left:
        cli.run()
    shown = capsys.readouterr()
    assert left.value.code == 1
    first, *rows = [" ".join(row.split()) for row in shown.out.splitlines()[2:]]
    assert first.startswith("✔ clinic-1 ready adding ")
    assert rows == [
        "✘ clinic-2 declined rule 'simulated' does not allow it: rounds is 3, at most 2 allowed data owner "
        "policy.toml would have to allow it; wardround site policy explain shows the rule",
        "✘ clinic-3 declined no trainer 'adding' is installed at this clinic IT "
        "install the trainer for the clinic's trainings",
        "✘ clinic-4 refused data: data missing IT a folder that site.toml names for the data set is not there",
        "? clinic-5 silent it said nothing IT "
        "is the clinic's agent running? wardround sites shows when it was last heard of",
        "? clinic-6 a person must agree rule 'simulated' leaves it to a person at the clinic data owner "
        "nothing now: a person there agrees once the experiment is started",
    ]
    assert shown.err == (
        "wardround: count: something is amiss at clinic-2, clinic-3, clinic-4, clinic-5; "
        "1 of 6 clinics could begin, the quorum is 2\n"
    )
