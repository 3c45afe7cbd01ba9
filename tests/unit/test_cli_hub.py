"""The commands to a hub: exit codes, JSON, and one line where something is wrong. A coordinator answers in memory."""

import asyncio
import fcntl
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from metrics_story import SITES, Story, model_ref

from wardround.client import cli
from wardround.client.cli import check, watch
from wardround.client.hub import Hub
from wardround.client.hubs import Connections, Profile
from wardround.coordinator.app import Coordinator
from wardround.runtime.bus.dead_letters import dead_letter
from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import BusUnavailableError, DeadLetterError, Packet
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.download import part_of
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.s3_errors import refusal
from wardround.runtime.toml_file import as_table
from wardround_messages.names import COMMANDS, DEAD_QUEUE, GlobalKey, bucket_of
from wardround_messages.topology import topology

EXPERIMENT = """
schema = 1
id = "brain-tumour"
[cohort]
sites = ["clinic-1", "clinic-2", "clinic-3"]
quorum = 2
[rounds]
count = 10
[training]
trainer = "brain-tumour-unet"
dataset = "brain-mri"
"""
Ran = tuple[int, str, str]


class _WithCoordinator(MemoryBus):
    """A connection to a broker with a coordinator behind it, which ends when the connection does."""

    def __init__(self, broker: MemoryBroker, login: str, coordinator: asyncio.Task[None]) -> None:
        super().__init__(broker, login)
        self._coordinator = coordinator

    async def close(self) -> None:
        await super().close()
        self._coordinator.cancel()
        with suppress(asyncio.CancelledError):
            await self._coordinator
        await self._broker.close()


@dataclass
class World:
    """What the commands meet: the store stays from one to the next, everything else is made anew."""

    store: MemoryStore = field(default_factory=MemoryStore)
    login: str = "researcher-a"
    parked: list[Packet] = field(default_factory=list)
    broker: MemoryBroker | None = None
    broker_away: bool = False
    coordinator: bool = True
    profile: Profile | None = None

    def open(self, name: str | None = None, *, insecure_lab: bool = False) -> Connections:
        return Connections(self.store, self._bus, self.profile)

    async def _bus(self) -> MemoryBus:
        if self.broker_away:
            raise BusUnavailableError("no connection to amqps://hub.example.org")
        self.broker = MemoryBroker(topology(SITES, ("researcher-a",)))
        for packet in self.parked:
            self.broker.route(packet)
        return _WithCoordinator(self.broker, self.login, asyncio.create_task(self._coordinate(self.broker)))

    async def _coordinate(self, broker: MemoryBroker) -> None:
        bus = MemoryBus(broker, "coordinator")
        if self.coordinator:
            await Coordinator(bus, self.store, clock=wall_clock, sites=lambda: frozenset(SITES), interval=0.1).run()

    def has(self, story: Story) -> None:
        asyncio.run(story.lay(self.store))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    monkeypatch.setattr("wardround.client.hubs.open_hub", made.open)
    monkeypatch.setitem(Hub.__init__.__kwdefaults__, "answers_within", 5.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "brain-tumour.toml").write_text(EXPERIMENT)
    return made


@pytest.fixture(autouse=True)
def _sigint() -> Iterator[None]:
    """As in a terminal, whatever runs the tests; a command that was interrupted ignores it from then on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def wardround(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["wardround", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return int(left.value.code or 0), printed.out, printed.err

    return run


def finished() -> Story:
    return Story.whole(1)


# --- start and steer -------------------------------------------------------------------------------------------------


def test_an_experiment_is_started_once(wardround: Callable[..., Ran]) -> None:
    code, out, err = wardround("start", "brain-tumour.toml")
    assert (code, err) == (0, "")
    assert "brain-tumour is accepted" in out
    assert "wardround watch brain-tumour" in out
    code, out, _ = wardround("start", "brain-tumour.toml", "--json")
    assert (code, json.loads(out)) == (0, {"experiment": "brain-tumour", "new": False})
    code, out, err = wardround("start", "brain-tumour.toml", "--set", "seed=8")
    assert (code, out) == (3, "")
    assert "refused (exists): an experiment 'brain-tumour' with other content exists" in err
    code, out, _ = wardround("start", "brain-tumour.toml", "--id", "variant", "--set", "seed=8", "--json")
    assert (code, json.loads(out)["new"]) == (0, True)


def test_what_only_the_hub_knows_is_a_refusal(wardround: Callable[..., Ran]) -> None:
    code, _, err = wardround("start", "brain-tumour.toml", "--set", 'cohort.sites=["clinic-1", "clinic-9"]')
    assert code == 3
    assert "cohort.sites: 'clinic-9' is not a site of this hub" in err
    code, _, err = wardround("start", "brain-tumour.toml", "--set", 'model.initial="experiment:gone@2"')
    assert code == 3
    assert "model.initial: there is no experiment 'gone'" in err


def test_a_fork_and_a_brought_model_are_found(world: World, wardround: Callable[..., Ran], tmp_path: Path) -> None:
    world.has(finished())
    lay_model(world, "brain-tumour", 1)
    code, _, err = wardround(
        "start", "brain-tumour.toml", "--id", "fork", "--set", 'model.initial="experiment:brain-tumour@1"'
    )
    assert code == 3  # the made-up model has other bytes than its journal says, and the coordinator looks
    assert "model_missing" in err
    (tmp_path / "own.safetensors").write_bytes(b"weights")
    code, _, err = wardround(
        "start", "brain-tumour.toml", "--id", "own", "--set", 'model.initial="file:own.safetensors"'
    )
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("gone@2", "--from: there is no experiment 'gone'"),
        ("brain-tumour@9", "--from: there is no model 9 of 'brain-tumour': the latest is"),
        ("brain-tumour@1", "was deleted: model.keep is"),
    ],
)
def test_start_from_a_model_that_is_not_there_is_refused_at_once(
    world: World, wardround: Callable[..., Ran], origin: str, told: str
) -> None:
    world.has(finished())
    code, _, err = wardround("start", "brain-tumour.toml", "--id", "next", "--from", origin)
    assert (code, told in err) == (3, True)


def test_start_from_a_model_whose_bytes_are_others_is_refused_by_the_hub(
    world: World, wardround: Callable[..., Ran]
) -> None:
    world.has(finished())
    lay_model(world, "brain-tumour", 1)
    code, _, err = wardround("start", "brain-tumour.toml", "--id", "next", "--from", "brain-tumour@1")
    assert (code, "model_missing" in err) == (3, True)
    code, _, err = wardround("start", "brain-tumour.toml", "--from", "brain-tumour@1")
    assert (code, "cannot begin with a model of its own" in err) == (2, True)


def test_an_experiment_is_paused_resumed_extended_and_aborted(wardround: Callable[..., Ran]) -> None:
    wardround("start", "brain-tumour.toml")
    code, out, _ = wardround("pause", "brain-tumour", "--reason", "new scanner")
    assert (code, "paused (journal entry 1)" in out) == (0, True)
    code, out, _ = wardround("pause", "brain-tumour", "--json")
    assert (code, json.loads(out)) == (0, {"experiment": "brain-tumour", "changed": False, "entry": None})
    assert wardround("resume", "brain-tumour")[0] == 0
    code, _, err = wardround("resume", "brain-tumour")
    assert (code, "refused (not_paused)" in err) == (3, True)
    code, out, _ = wardround("extend", "brain-tumour", "--to", "12", "--json")
    assert (code, json.loads(out)["changed"]) == (0, True)
    assert wardround("extend", "brain-tumour", "--to", "3")[0] == 3
    assert wardround("readmit", "brain-tumour", "clinic-1")[0] == 0
    assert wardround("readmit", "brain-tumour", "clinic-9")[0] == 3
    assert wardround("abort", "brain-tumour", "--reason", "wrong data")[0] == 0
    assert wardround("pause", "brain-tumour")[0] == 3
    code, out, err = wardround("watch", "brain-tumour")
    assert code == 1
    assert "aborted: wrong data" in out
    assert err == "wardround: brain-tumour was aborted: wrong data\n"


def test_a_hub_that_is_away_or_silent_is_something_to_try_again(
    world: World, wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Hub.__init__.__kwdefaults__, "answers_within", 0.3)
    world.coordinator = False
    code, _, err = wardround("start", "brain-tumour.toml")
    assert (code, "did not answer within" in err, "wardround status brain-tumour" in err) == (75, True, True)
    world.broker_away = True
    code, _, err = wardround("abort", "brain-tumour")
    assert (code, "the broker is away" in err) == (75, True)

    async def away(*_: object, **__: object) -> bytes:
        raise refusal(503, "", "", "experiments", "researcher-a")

    monkeypatch.setattr(world.store, "read", away)
    code, _, err = wardround("start", "brain-tumour.toml")
    assert (code, "the object store is away" in err, err.count("try again")) == (75, True, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["start"], "Missing argument"),
        (["start", "gone.toml"], "cannot be read"),
        (["start", "."], "is a folder"),
        (["start", "broken.toml"], "is not TOML"),
        (["start", "brain-tumour.toml", "--set", "rounds.count=0"], "rounds.count"),
        (["start", "brain-tumour.toml", "--set", "rounds.count=-1"], "rounds.count"),
        (["start", "brain-tumour.toml", "--set", "rounds.count=1000000000"], "rounds.count"),
        (["start", "brain-tumour.toml", "--set", 'rounds.count="ten"'], "rounds.count"),
        (["start", "brain-tumour.toml", "--set", "cohort.sites=[]"], "cohort.sites"),
        (["start", "brain-tumour.toml", "--set", 'cohort.sites=["a", "a"]'], "cohort.sites"),
        (["start", "brain-tumour.toml", "--set", "cohort.quorum=4"], "cohort.quorum"),
        (["start", "brain-tumour.toml", "--set", 'cohort.quorum="0%"'], "cohort.quorum"),
        (["start", "brain-tumour.toml", "--set", "cohort.quorum=1.1"], "cohort.quorum"),
        (["start", "brain-tumour.toml", "--set", 'rounds.deadline="0s"'], "rounds.deadline"),
        (["start", "brain-tumour.toml", "--set", "training.parameters.learning_rate=nan"], "learning_rate"),
        (["start", "brain-tumour.toml", "--set", "strategy.name=median-of-medians"], "strategy.name"),
        (["start", "brain-tumour.toml", "--set", "training.optimizer_state=maybe"], "training.optimizer_state"),
        (["start", "brain-tumour.toml", "--set", 'model.initial="file:gone.safetensors"'], "model.initial"),
        (["start", "brain-tumour.toml", "--id", "Not An Id"], "id: must be lower-case"),
        (["watch", "../etc"], "must be lower-case"),
        (["watch", "x" * 41], "at most 40"),
        (["abort", "brain-tumour", "--reason", "a\x1b[2Jb"], "at most 400 characters in one line"),
        (["extend", "brain-tumour"], "--to"),
        (["extend", "brain-tumour", "--to", "0"], "--to"),
        (["extend", "brain-tumour", "--to", "many"], "--to"),
        (["readmit", "brain-tumour", "Clinic 1"], "must be lower-case"),
        (["fetch", "brain-tumour"], "--out"),
        (["fetch", "brain-tumour", "-o", "."], "is a folder"),
        (["fetch", "brain-tumour", "-o", "no/such/file"], "there is no folder"),
        (["fetch", "brain-tumour", "-o", "x", "--which", "worst"], "--which worst"),
        (["sites"], "no address"),
        (["dead"], ""),
    ],
)
def test_bad_input_exits_2_with_one_line(
    wardround: Callable[..., Ran], arguments: list[str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.toml").write_text("schema = [")
    code, _, err = wardround(*arguments)
    assert code == 2
    assert told in err
    assert len(err.strip().splitlines()) <= 1


def test_a_closed_standard_input_is_bad_input(wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = wardround("start", "-")
    assert (code, "standard input cannot be read" in err) == (2, True)


def test_a_profile_that_does_not_exist_is_bad_input(
    wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("WARDROUND_HUBS", str(tmp_path / "none.toml"))
    monkeypatch.setattr(sys, "argv", ["wardround", "list"])
    with pytest.raises(SystemExit) as left:
        cli.run()
    assert left.value.code == 2


# --- look ------------------------------------------------------------------------------------------------------------


def test_a_finished_experiment_is_watched_shown_and_listed(world: World, wardround: Callable[..., Ran]) -> None:
    world.has(finished())
    code, out, err = wardround("watch", "brain-tumour")
    assert (code, err) == (0, "")
    assert "finished with model 1" in out
    assert "wardround fetch brain-tumour" in out
    code, out, _ = wardround("watch", "brain-tumour", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert set(lines[0]) == {"at", "experiment", "text"}
    assert (code, lines[-1]["state"], lines[-1]["round"], lines[-1]["model"]["sha256"]) == (
        0,
        "finished",
        1,
        model_ref(1).sha256,
    )
    code, out, _ = wardround("status", "brain-tumour")
    assert (code, "brain-tumour · glioma · finished" in out, "clinic-3" in out) == (0, True, True)
    code, out, _ = wardround("status", "brain-tumour", "--json")
    view = json.loads(out)
    assert (view["phase"], view["rounds_done"], [site["site"] for site in view["sites"]]) == ("finished", 1, [*SITES])
    code, out, _ = wardround("list", "--json")
    assert [(each["experiment"], each["state"]) for each in map(json.loads, out.splitlines())] == [
        ("brain-tumour", "finished")
    ]
    code, out, _ = wardround("list")
    assert (code, "1 of 1" in out, "glioma" in out) == (0, True, True)


def test_without_an_experiment_the_list_says_how_to_begin_and_others_that_there_is_none(
    wardround: Callable[..., Ran],
) -> None:
    assert "wardround start" in wardround("list")[1]
    for arguments in (["status", "gone"], ["watch", "gone"], ["fetch", "gone", "-o", "x"], ["abort", "gone"]):
        code, out, err = wardround(*arguments)
        assert (code, out, "there is no experiment 'gone'" in err) == (3, "", True)


def test_a_journal_that_cannot_be_believed_ends_badly(world: World, wardround: Callable[..., Ran]) -> None:
    story = finished()
    world.has(story)
    asyncio.run(world.store.put(bucket_of("brain-tumour"), "journal/00000003.json", b"{}"))
    code, _, err = wardround("fetch", "brain-tumour", "-o", "x")
    assert (code, "journal entry 3" in err) == (1, True)
    asyncio.run(world.store.put(bucket_of("brain-tumour"), "journal/00000000.json", b"{}"))
    code, _, err = wardround("watch", "brain-tumour")
    assert (code, "journal entry 0" in err) == (1, True)


def test_a_model_is_fetched_whole_or_not_at_all(world: World, wardround: Callable[..., Ran], tmp_path: Path) -> None:
    world.has(finished())
    code, _, err = wardround("fetch", "brain-tumour", "-o", "model", "--which", "1")
    assert (code, "was deleted" in err) == (3, True)
    lay_model(world, "brain-tumour", 1)
    code, _, err = wardround("fetch", "brain-tumour", "-o", "model")
    assert (code, "bytes where" in err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brain-tumour.toml"]
    code, _, err = wardround("fetch", "brain-tumour", "-o", "model", "--which", "7")
    assert (code, "the latest is 1" in err) == (3, True)


def test_commands_that_are_shown_go_to_the_same_hub(world: World, wardround: Callable[..., Ran]) -> None:
    _, out, _ = wardround("start", "brain-tumour.toml", "--id", "another", "--hub", "lab")
    assert "wardround watch another --hub lab\n" in out
    world.has(finished())
    _, out, _ = wardround("watch", "brain-tumour", "--hub", "lab")
    assert "wardround fetch brain-tumour -o model.safetensors --hub lab\n" in out


def test_of_two_that_fetch_into_one_file_the_second_may_try_again(
    world: World, wardround: Callable[..., Ran], tmp_path: Path
) -> None:
    world.has(finished())
    lay_model(world, "brain-tumour", 1)
    part = part_of(tmp_path / "model", model_ref(1).sha256)
    with part.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = wardround("fetch", "brain-tumour", "-o", "model")
    assert (code, "another process is fetching it" in err) == (75, True)


def test_events_are_lines_or_json(world: World, wardround: Callable[..., Ran]) -> None:
    world.parked = said_by_coordinator()
    code, out, err = wardround("events")
    assert (code, err) == (0, "")
    assert "experiment.accepted" in out
    code, out, _ = wardround("events", "brain-tumour", "--json")
    first = json.loads(out.splitlines()[0])
    assert (code, first["login"], first["data"]["experiment"]) == (0, "coordinator", "brain-tumour")
    code, out, err = wardround("events", "another")
    assert (code, out, "there is no experiment 'another' at this hub" in err) == (3, "", True)


def test_clinics_are_those_that_the_metrics_service_knows(
    world: World, wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[httpx.Request] = []
    site = {
        "site": "clinic-1",
        "agent_version": "0.2.0",
        "reads": [],
        "trainers": [{"name": "unet", "version": "1.0", "code_sha256": "0" * 64}],
        "datasets": ["brain-mri"],
        "slots": 2,
        "free": 1,
        "tasks": [{"experiment": "x", "round": 3, "task": "train", "attempt": 1, "phase": "training"}],
        "status": "degraded",
        "detail": "the disk is \x1b[31mfull",
        "seen_at": "2026-03-02T07:00:00Z",
        "seen_ago": 12.5,
        "quiet": False,
        "new_in_a_later_version": 1,
    }
    answer = httpx.Response(200, json={"sites": [site]})

    async def handle(_: object, request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    world.profile = profile(tmp_path)
    code, out, err = wardround("sites")
    assert (code, err) == (0, "")
    assert "clinic-1" in out
    assert "x r3 train: training" in out
    assert "\x1b" not in out
    assert (str(asked[0].url), asked[0].headers["authorization"]) == (
        "https://metrics.example.org/sites",
        "Bearer s3cret",
    )
    code, out, _ = wardround("sites", "--json")
    assert (code, json.loads(out)["trainers"][0]["name"]) == (0, "unet")
    for status, ends in ((401, 3), (302, 75), (500, 75)):
        answer = httpx.Response(status, headers={"location": "https://elsewhere.example.org"})
        code, _, err = wardround("sites")
        assert (code, "s3cret" in err, len(err.splitlines())) == (ends, False, 1)
    assert {request.url.host for request in asked} == {"metrics.example.org"}
    answer = httpx.Response(200, json={"experiments": []})
    assert wardround("sites")[0] == 75


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_an_operator_lists_shows_replays_and_drops_dead_letters(world: World, wardround: Callable[..., Ran]) -> None:
    world.login = "operator"
    assert wardround("dead", "list")[:2] == (0, "no dead letters\n")
    said = Packet(
        COMMANDS, "cmd.coordinator.hub.x.pause", b'{"a": "\x1b[31m"}', message_id="m1", user_id="researcher-a"
    )
    why = DeadLetterError("invalid", "a: no such key")
    letter = dead_letter(said, why, queue="wr.coordinator", dead_key="dead.coordinator.hub")
    world.parked = [replace(letter, user_id="coordinator")]
    code, out, _ = wardround("dead", "list")
    assert (code, "invalid" in out, "researcher-a" in out, "a: no such key" in out) == (0, True, True, True)
    listed = json.loads(wardround("dead", "list", "--json")[1])
    assert (listed["queue"], len(listed["id"])) == ("wr.coordinator", 12)
    code, out, _ = wardround("dead", "show", listed["id"])
    assert (code, "\x1b" in out, '{"a": "' in out) == (0, False, True)
    code, out, _ = wardround("dead", "drop", listed["id"])
    assert (code, "dropped" in out) == (0, True)
    assert world.broker is not None
    assert world.broker.depth(DEAD_QUEUE) == 0
    world.coordinator = False
    code, out, _ = wardround("dead", "replay", listed["id"])
    assert (code, "sent again" in out) == (0, True)
    assert world.broker.depth("wr.coordinator") == 1
    for verb in ("show", "replay", "drop"):
        code, _, err = wardround("dead", verb, "0" * 12)
        assert (code, "there is no dead letter 000000000000" in err) == (3, True)


def test_who_is_no_operator_sees_no_dead_letters(wardround: Callable[..., Ran]) -> None:
    code, _, err = wardround("dead", "list")
    assert (code, "--hub" in err) == (3, True)


# --- check -----------------------------------------------------------------------------------------------------------


def test_clinics_that_say_nothing_are_named_and_a_check_is_not_listed(wardround: Callable[..., Ran]) -> None:
    code, out, err = wardround("check", "brain-tumour.toml", "--within", "3s")
    assert code == 1
    assert out.startswith("brain-tumour: asking clinic-1, clinic-2, clinic-3, for at most 3s (brain-tumour-check-")
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [["?", site, "silent"] for site in SITES]
    assert "something is amiss at clinic-1, clinic-2, clinic-3; 0 of 3 clinics could begin, the quorum is 2" in err
    code, out, _ = wardround("list")
    assert (code, out.startswith("no experiment yet")) == (0, True)
    code, out, _ = wardround("list", "--all")
    assert re.search(r"^brain-tumour-check-[0-9a-f]{8}  brain-tumour  failed.*  check ", out, re.MULTILINE)
    code, out, _ = wardround("list", "--all", "--json")
    assert json.loads(out)["mode"] == "check"


def test_a_check_with_an_id_is_asked_once_and_with_another_content_refused(wardround: Callable[..., Ran]) -> None:
    code, first, _ = wardround("check", "brain-tumour.toml", "--within", "3s", "--id", "before", "--json")
    again = wardround("check", "brain-tumour.toml", "--within", "3s", "--id", "before", "--json")
    assert (code, again[:2]) == (1, (1, first))
    told = json.loads(first)
    assert (told["check"], told["outcome"], told["ready"]) == ("before", "failed", 0)
    assert [(site["site"], site["result"], site["who"]) for site in told["sites"]] == [
        (site, "silent", "IT") for site in SITES
    ]
    code, _, err = wardround("check", "brain-tumour.toml", "--within", "3s", "--id", "before", "--set", "seed=8")
    assert (code, "refused (exists)" in err) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.toml"], 2, "nowhere.toml cannot be read"),
        (["brain-tumour.toml", "--set", "rounds.count=0"], 2, "rounds.count"),
        (["brain-tumour.toml", "--within", "soon"], 2, 'must be a duration such as "90s"'),
        (["brain-tumour.toml", "--within", "2s"], 2, 'must be from "3s" to "24h"'),
        (["brain-tumour.toml", "--within", "2d"], 2, 'must be from "3s" to "24h"'),
        (["brain-tumour.toml", "--id", "A b"], 2, "must be lower-case letters and digits"),
        (
            ["brain-tumour.toml", "--set", 'cohort.sites=["clinic-1", "clinic-9"]', "--set", "cohort.quorum=1"],
            3,
            "cohort.sites: 'clinic-9' is not a site of this hub",
        ),
        (
            ["brain-tumour.toml", "--set", 'model.initial="experiment:gone@2"'],
            3,
            "model.initial: there is no experiment 'gone'",
        ),
    ],
)
def test_what_cannot_be_checked_is_said_as_start_says_it(
    wardround: Callable[..., Ran], arguments: list[str], code: int, said: str
) -> None:
    ended, _, err = wardround("check", *arguments)
    assert (ended, said in err) == (code, True), err


def test_a_check_without_a_hub_or_without_an_end_is_something_to_try_again(
    world: World, wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.broker_away = True
    code, _, err = wardround("check", "brain-tumour.toml")
    assert (code, "the broker is away" in err) == (75, True)
    world.broker_away = False
    monkeypatch.setattr("wardround.client.check.OVERDUE_AFTER", -2.5)
    code, _, err = wardround("check", "brain-tumour.toml", "--within", "3s", "--id", "stuck")
    assert (code, "wardround status stuck" in err) == (75, True)


def test_ctrl_c_aborts_the_check_and_says_so(wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def pressing(*, as_json: bool) -> Iterator[Callable[[object], None]]:
        yield lambda _: signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(check, "_seeing", pressing)
    code, _, err = wardround("check", "brain-tumour.toml", "--id", "hasty")
    assert (code, err) == (130, "wardround: interrupted; the check hasty is aborted\n")
    code, out, _ = wardround("status", "hasty", "--json")
    assert (code, json.loads(out)["phase"]) == (0, "aborted")


# --- how commands end ------------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_a_watch_and_says_how_to_come_back(
    wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    wardround("start", "brain-tumour.toml")

    def press(_: object, **__: object) -> Any:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(watch, "_lines", lambda *_, **__: press)
    code, _, err = wardround("watch", "brain-tumour", "--hub", "lab")
    assert code == 130
    assert err == "wardround: left; brain-tumour goes on. Again: wardround watch brain-tumour --hub lab\n"


@pytest.mark.parametrize(
    "arguments", [["watch", "brain-tumour"], ["status", "brain-tumour"], ["list"], ["list", "--json"]], ids=" ".join
)
def test_a_closed_pipe_is_silent(
    world: World, wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    world.has(finished())
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # the command line library wraps it
    with suppress(BrokenPipeError), open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        code, _, err = wardround(*arguments)
    assert (code != 0, err) == (True, "")


def test_wait_is_silent_until_the_end_but_says_where_a_person_is_waited_for(
    wardround: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    wardround("start", "brain-tumour.toml")
    wardround("pause", "brain-tumour")
    see = watch._told_when_paused()
    told: list[object] = []

    def then_leave(view: Any) -> None:
        see(view)
        told.append(view.paused)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(watch, "_told_when_paused", lambda: then_leave)
    code, out, err = wardround("start", "brain-tumour.toml", "--wait")
    assert (code, told) == (130, ["by_command"])
    assert "nothing new" in out
    assert "brain-tumour is paused (by_command); waiting for: wardround resume brain-tumour" in err


# --- the world -------------------------------------------------------------------------------------------------------


def lay_model(world: World, experiment: str, round_: int) -> None:
    key = str(GlobalKey(round_, model_ref(round_).sha256[:16]))
    asyncio.run(world.store.put(bucket_of(experiment), key, b"not those bytes"))


def said_by_coordinator() -> list[Packet]:
    async def packets() -> list[Packet]:
        bus = MemoryBus(MemoryBroker(topology(SITES, ())), "coordinator")
        messenger = Messenger(bus, service="coordinator", origin="hub", clock=wall_clock)
        return [messenger.packet(event) for event in finished().events]

    return asyncio.run(packets())


def profile(folder: Path) -> Profile:
    token = folder / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    secret = {"file": str(token)}
    return as_table(
        folder / "hubs.toml",
        {
            "schema": 1,
            "broker": "amqps://hub.example.org",
            "store": "https://store.example.org",
            "username": "researcher-a",
            "password": secret,
            "store_key": {"id": "a", **secret},
            "metrics": "https://metrics.example.org/",
            "metrics_token": secret,
        },
        Profile,
    )
