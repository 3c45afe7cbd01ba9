"""`wardround site pending`, `show`, `approve`, `refuse`, `withdraw`, `stop`, `resume`, with and without an agent."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import pytest
from typer.testing import CliRunner, Result

from simulation.clinic import EXPERIMENT, POLICY, Clinic, eventually
from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.site import app
from wardround.client.clinic import door as agent_door
from wardround.client.clinic import stopping
from wardround.runtime.clock import wall_clock
from wardround.site_agent import duty
from wardround.site_agent.agent_socket import socket_of
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.control import Control
from wardround.site_agent.folder import job_of
from wardround.site_agent.inbox import Inbox
from wardround_messages.base import canonical_json
from wardround_messages.events import TaskStarted
from wardround_messages.task_folder import JobData

MANUAL = POLICY + 'approval = "manual"\n'
Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path / "clinic", policy=MANUAL)
    await clinic.open_experiment()
    return clinic


@pytest.fixture
def cli(clinic: Clinic) -> Cli:
    """`wardround site ... --site` the clinic."""

    async def invoke(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--site", str(clinic.folder)])

    return invoke


@asynccontextmanager
async def at_work(clinic: Clinic) -> AsyncIterator[SiteAgent]:
    path = socket_of(clinic.settings.paths.inbox)

    async def there() -> bool:
        return path.exists()

    async with clinic.running(door=Control(path)) as agent:
        await eventually(there)
        yield agent


async def asked(clinic: Clinic) -> None:
    """The clinic was offered an experiment, a person must decide, and its agent runs no more."""
    async with clinic.running():
        await clinic.enrol()


def ends(result: Result, code: Exit) -> str:
    """What the command printed, or the one line with which it ended."""
    if isinstance(result.exception, CommandError):
        assert result.exception.code == code, result.exception
        return str(result.exception)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


# --- what waits ------------------------------------------------------------------------------------------------------


async def test_what_waits_is_listed_with_and_without_an_agent(clinic: Clinic, cli: Cli) -> None:
    async with at_work(clinic):
        await clinic.enrol()
        running = ends(await cli("pending"), Exit.DONE)
    stopped = ends(await cli("pending"), Exit.DONE)
    assert "wardround site show EXPERIMENT" in stopped
    for said in (running, stopped):
        (row,) = [line for line in said.splitlines() if EXPERIMENT in line]
        assert all(word in row for word in ("researcher-a", "glioma", "waits for a person's word"))
        assert "in 14 d" in row or "in 13 d 23 h" in row


async def test_what_waits_is_told_to_programs_as_json(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    (line,) = ends(await cli("pending", "--json"), Exit.DONE).splitlines()
    waiting = json.loads(line)
    assert (waiting["experiment"], waiting["state"], waiting["rounds"]) == (EXPERIMENT, "pending", 5)
    assert waiting["manifest_sha256"] == clinic.manifest.sha256


async def test_nothing_waits_once_a_person_has_spoken(clinic: Clinic, cli: Cli) -> None:
    async with at_work(clinic):
        await clinic.enrol()
        ends(await cli("approve", EXPERIMENT), Exit.DONE)
        assert "nothing waits" in ends(await cli("pending"), Exit.DONE)


async def test_a_clinic_whose_agent_never_ran_is_told_so(clinic: Clinic, cli: Cli) -> None:
    assert "the agent has not run yet" in ends(await cli("pending"), Exit.BAD_INPUT)
    assert "the agent has not run yet" in ends(await cli("show", EXPERIMENT), Exit.BAD_INPUT)
    assert not clinic.settings.paths.inbox.exists()


# --- an offer in words -----------------------------------------------------------------------------------------------


async def test_an_offer_is_told_in_words(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    said = ends(await cli("show", EXPERIMENT), Exit.DONE)
    for words in (
        f"{EXPERIMENT}: waits for a person's word since 20",
        "researcher-a, as the hub says",
        "study 'glioma'",
        f"'counting': {clinic.folder}/counting",
        f"'counting-test': {clinic.folder}/counting-test",
        "trainer 'adding'",
        "code sha256:",
        "1 epoch a round",
        "5 rounds of training",
        "at most 200,000,000 bytes",
        "metrics that are called loss or dice/*: of the trainer's own",
        "how many cases were trained on",
        "errors as codes",
        "2 clinics: this one, clinic-2",
        "a round counts with 1 of 2 of them",
        "rule 'glioma' leaves it to a person at the clinic",
        f"sha256:{clinic.manifest.sha256}",
        f"wardround site approve {EXPERIMENT} --site {clinic.folder}",
        f"wardround site refuse {EXPERIMENT}",
    ):
        assert words in said, words
    assert "wardround site withdraw" not in said


async def test_what_people_said_is_shown_with_their_names(clinic: Clinic, cli: Cli) -> None:
    async with at_work(clinic):
        await clinic.enrol()
        ends(await cli("refuse", EXPERIMENT, "--reason", "not this year", "--by", "alice"), Exit.DONE)
        ends(await cli("approve", EXPERIMENT, "--reason", "the board met", "--by", "bob"), Exit.DONE)
        said = ends(await cli("show", EXPERIMENT), Exit.DONE)
        as_json = json.loads(ends(await cli("show", EXPERIMENT, "--json"), Exit.DONE))
    assert "declined by alice: not this year" in said
    assert "granted for 5 rounds by bob: the board met" in said
    assert "wardround site withdraw" in said
    assert "wardround site approve" not in said
    assert [(word["action"], word["by"]) for word in as_json["said"]] == [("refuse", "alice"), ("approve", "bob")]
    assert (as_json["granted_rounds"], as_json["policy"]["verdict"]) == (5, "ask")


async def test_an_offer_of_more_rounds_tells_how_many_stand(clinic: Clinic, cli: Cli) -> None:
    async with at_work(clinic) as agent:
        await clinic.enrol()
        await agent.approve(EXPERIMENT)
        await clinic.hub.send(clinic.offer(offer=9, rounds=8))
        await clinic.consent(3)
    said = ends(await cli("show", EXPERIMENT), Exit.DONE)
    assert "8 rounds of training, 5 of them granted already" in said
    assert all(f"wardround site {word}" in said for word in ("approve", "refuse", "withdraw"))


async def test_what_the_policy_denies_and_what_is_missing_here_is_told(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    clinic.policy.write_text("schema = 1\n")
    (clinic.folder / "site.toml").write_text(
        (clinic.folder / "site.toml").read_text().replace("[datasets.counting]", "[datasets.other]")
    )
    said = ends(await cli("show", EXPERIMENT), Exit.DONE)
    assert "'counting': this clinic has no such data set" in said
    assert "no rule allows anything for study 'glioma'" in said


async def test_what_was_never_offered_is_told(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    assert "was never asked about 'other'" in ends(await cli("show", "other"), Exit.REFUSED)


# --- a person's word -------------------------------------------------------------------------------------------------


async def test_a_word_is_said_to_the_agent_and_reaches_the_hub(clinic: Clinic, cli: Cli) -> None:
    async with at_work(clinic):
        await clinic.enrol()
        approved = ends(await cli("approve", EXPERIMENT), Exit.DONE)
        assert (await clinic.consent(2)).verdict == "granted"
        again = ends(await cli("approve", EXPERIMENT), Exit.DONE)
        withdrawn = ends(await cli("withdraw", EXPERIMENT, "--reason", "for good"), Exit.DONE)
        assert (await clinic.consent(3)).reason == "for good"
        refused = ends(await cli("refuse", EXPERIMENT), Exit.REFUSED)
    assert "granted for 5 rounds; this clinic takes part from the next step on" in approved
    assert "granted already; nothing new" in again
    assert "withdrawn; its tasks in hand end" in withdrawn
    assert "refused (nothing_pending)" in refused


async def test_a_word_needs_the_agent(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    with socket.socket(socket.AF_UNIX) as left:  # by an agent that was killed
        left.bind(str(socket_of(clinic.settings.paths.inbox)))
    for action in ("approve", "refuse", "withdraw"):
        said = ends(await cli(action, EXPERIMENT), Exit.TRY_AGAIN)
        assert "no agent runs" in said
        assert "start wardround-site-agent" in said


@pytest.mark.parametrize("by", ["", "x" * 401, "line\nbreak"])
async def test_a_name_that_is_none_is_refused_before_anything_is_done(clinic: Clinic, cli: Cli, by: str) -> None:
    async with at_work(clinic):
        await clinic.enrol()
        result = await cli("approve", EXPERIMENT, "--by", by)
        if by:
            assert result.exit_code == Exit.BAD_INPUT
            assert await clinic.objects("consent/clinic-1/") == await clinic.objects("consent/")
            assert len(await clinic.objects("consent/")) == 1
        else:  # as if it had not been given
            assert result.exit_code == Exit.DONE


async def test_a_person_behind_sudo_is_the_one_who_says_so(
    clinic: Clinic, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "alice")
    async with at_work(clinic):
        await clinic.enrol()
        ends(await cli("approve", EXPERIMENT), Exit.DONE)
    assert [line["by"] for line in clinic.audit if line["what"] == "person"] == ["alice"]


@pytest.mark.parametrize(("answer", "granted"), [("y\n", True), ("n\n", False)])
async def test_at_a_terminal_a_person_is_asked_first(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, answer: str, granted: bool
) -> None:
    monkeypatch.setattr("wardround.client.cli.on_site._at_a_terminal", lambda: True)
    arguments = ["approve", EXPERIMENT, "--site", str(clinic.folder)]
    async with at_work(clinic):
        await clinic.enrol()
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, input=answer)
        if granted:
            assert (await clinic.consent(2)).verdict == "granted"
        else:
            assert ends(result, Exit.INTERRUPTED) == "nothing was done"
            ends(await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--yes"]), Exit.DONE)


async def test_settings_in_the_services_environment_hold_here_as_well(
    clinic: Clinic, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await asked(clinic)
    moved = tmp_path / "elsewhere.sqlite"
    clinic.settings.paths.inbox.rename(moved)
    monkeypatch.setenv("WARDROUND_SITE_AGENT__PATHS__INBOX", f"'{moved}'")
    assert EXPERIMENT in ends(await cli("pending"), Exit.DONE)


# --- everything stops ------------------------------------------------------------------------------------------------


async def test_stop_and_resume_with_an_agent(tmp_path: Path, clinic: Clinic, cli: Cli) -> None:
    async with at_work(clinic):
        await clinic.enrol()
        stopped = ends(await cli("stop", "--reason", "fire drill", "--by", "alice"), Exit.DONE)
        refused = ends(await cli("approve", EXPERIMENT), Exit.REFUSED)
        listed = ends(await cli("pending"), Exit.DONE)
        shown = ends(await cli("show", EXPERIMENT), Exit.DONE)
        again = ends(await cli("stop"), Exit.DONE)
        resumed = ends(await cli("resume"), Exit.DONE)
        nothing = ends(await cli("resume"), Exit.DONE)
        ends(await cli("approve", EXPERIMENT), Exit.DONE)
    assert "clinic-1 is stopped" in stopped
    assert "stopped.json is written" in stopped
    assert "the agent has stopped" in stopped
    assert "refused (site_stopped)" in refused
    assert "the clinic is stopped since" in listed
    assert "by alice (fire drill): wardround site resume" in listed
    assert "by alice (fire drill): wardround site resume" in shown
    assert "was there already" in again
    assert "clinic-1 may work again" in resumed
    assert "not stopped; nothing new" in nothing
    assert [(line["action"], line["reason"]) for line in clinic.audit if line["what"] == "person"] == [
        ("stop", "fire drill"),
        ("stop", ""),
        ("resume", ""),
        ("approve", ""),
    ]


async def test_stop_ends_a_training_and_names_it(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled
    async with at_work(clinic):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        result = await asyncio.to_thread(CliRunner().invoke, app, ["stop", "--site", str(clinic.folder)])
        assert f"{clinic.start().task_id}: ended" in ends(result, Exit.DONE)
        assert (await clinic.answer(clinic.start())).failure.code == "site_stopped"


def until_cancelled(folder: Path, cancelled: Event) -> None:
    assert cancelled.wait(30)
    raise SystemExit


async def test_stop_and_resume_without_an_agent(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    stopped = ends(await cli("stop", "--by", "alice"), Exit.DONE)
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        refused = await clinic.answer(clinic.start())
    resumed = ends(await cli("resume", "--by", "bob"), Exit.DONE)
    assert "no agent runs here" in stopped
    assert refused.failure.code == "site_stopped"
    assert "no agent runs here" in resumed
    assert [(line["action"], line["by"]) for line in clinic.audit if line["what"] == "person"] == [
        ("stop", "alice"),
        ("resume", "bob"),
    ]


async def test_stop_before_the_agent_ever_ran(clinic: Clinic, cli: Cli) -> None:
    ends(await cli("stop"), Exit.DONE)
    assert (clinic.folder / "stopped.json").exists()


async def test_an_agent_that_hangs_is_stopped_as_far_as_can_be(
    clinic: Clinic, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "ALIVE_WITHIN", 0.2)
    monkeypatch.setattr(stopping, "AGENT_WITHIN", 0.2)
    await asked(clinic)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(socket_of(clinic.settings.paths.inbox)))
        hanging.listen()
        stopped = ends(await cli("stop"), Exit.ENDED_BADLY)
        monkeypatch.setattr(agent_door, "ANSWERS_WITHIN", 0.2)
        approving = ends(await cli("approve", EXPERIMENT), Exit.TRY_AGAIN)
        resumed = ends(await cli("resume"), Exit.ENDED_BADLY)
    assert "stopped.json is written" in stopped
    assert f"the agent (process {os.getpid()}) does not answer" in stopped
    assert f"kill {os.getpid()} ends them all" in stopped
    assert "no answer within 0.2 s" in approving
    assert "notices within a second of working again" in resumed
    assert not (clinic.folder / "stopped.json").exists()


async def test_an_agent_that_hangs_in_another_container_is_not_named_by_a_number(
    clinic: Clinic, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives 0 for a process that cannot be seen from here."""
    monkeypatch.setattr(stopping, "ALIVE_WITHIN", 0.2)
    monkeypatch.setattr(socket.socket, "getsockopt", lambda *_: struct.pack("3i", 0, 0, 0))
    await asked(clinic)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(socket_of(clinic.settings.paths.inbox)))
        hanging.listen()
        stopped = ends(await cli("stop"), Exit.ENDED_BADLY)
    assert "the agent does not answer" in stopped
    assert "end the agent, and they end too" in stopped
    assert "kill" not in stopped
    assert "process 0" not in stopped


async def test_stop_says_what_is_still_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duty, "STOPS_WITHIN", 0.05)
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    go_on = Event()
    clinic.training.before = lambda folder, cancelled: no_matter_what(go_on)
    async with at_work(clinic):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        result = await asyncio.to_thread(CliRunner().invoke, app, ["stop", "--site", str(clinic.folder)])
        go_on.set()
        await clinic.answer(clinic.start())
    assert f"{clinic.start().task_id}: still being stopped" in ends(result, Exit.TRY_AGAIN)


def no_matter_what(event: Event) -> None:
    assert event.wait(5)
    raise SystemExit


async def test_stop_finds_tasks_in_hand_of_an_agent_that_does_not_run(clinic: Clinic, cli: Cli, tmp_path: Path) -> None:
    clinic.policy.write_text(POLICY)
    await asked(clinic)
    with Inbox.open(clinic.settings.paths.inbox, durable=False) as inbox:
        inbox.take(clinic.start(), at=wall_clock())
    folder = clinic.settings.paths.spool / str(clinic.start().task_id)
    folder.mkdir(parents=True)
    job = job_of(clinic.start(), clinic.manifest, JobData(name="counting", folders=("counting",)), "carry/x")
    (folder / "job.json").write_bytes(canonical_json(job))
    trained_by_airflow(clinic, "http://127.0.0.1:9")
    stopped = ends(await cli("stop"), Exit.ENDED_BADLY)
    assert f"{clinic.start().task_id}: Airflow did not stop it" in stopped


def trained_by_airflow(clinic: Clinic, url: str) -> None:
    secret = clinic.folder / "airflow"
    secret.write_text("not used")
    secret.chmod(0o600)
    file = clinic.folder / "site.toml"
    airflow = f'kind = "airflow"\nurl = "{url}"\nusername = "a"\npassword = {{ file = "airflow" }}'
    file.write_text(file.read_text().replace('kind = "inline"', airflow))


async def test_no_password_goes_in_the_clear_to_another_machine(clinic: Clinic, cli: Cli) -> None:
    await asked(clinic)
    trained_by_airflow(clinic, "http://10.0.0.1")
    stopped = ends(await cli("stop"), Exit.ENDED_BADLY)
    assert "runs in Airflow were not stopped" in stopped


async def test_a_door_that_another_user_owns_is_told(clinic: Clinic, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_yours(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    await asked(clinic)
    monkeypatch.setattr(socket.socket, "connect", not_yours)
    assert "as the user that the agent runs as" in ends(await cli("approve", EXPERIMENT), Exit.REFUSED)
