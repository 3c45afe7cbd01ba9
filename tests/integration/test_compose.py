"""A hub put together as the compose files do it, of the same servers without containers: the README's certificates, the
broker's settings file, the store's start script, TLS between all of them, and the services' own settings."""

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from servers.stack import require_servers
from wardround.hub.folder import CA_FILE, HubFolder
from wardround.hub.logins import apply_store_logins
from wardround.runtime.bus.port import Delivery
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.runtime.roster import Roster
from wardround.runtime.store.announcements import translate
from wardround.runtime.store.s3 import S3Store
from wardround.stack.minio import find_minio
from wardround.stack.ports import LOOPBACK, free_ports
from wardround.stack.program import Child, Program
from wardround.stack.rabbitmq import find_rabbitmq, rabbitmq, speaks_amqp
from wardround_messages.names import ANNOUNCED, COORDINATOR_QUEUE, ConsentKey, bucket_of, site_queue

pytestmark = pytest.mark.slow

COMPOSE = Path(__file__).parents[2] / "compose"
COMPOSED: dict[str, Any] = yaml.safe_load((COMPOSE / "hub.yaml").read_text())
BUCKET = bucket_of("breast-cancer")
WITHIN = 60.0


def commands_of_the_readme(word: str) -> str:
    """The one block of commands in the README that has the word."""
    found = re.findall(r"^ *```bash\n(.*?)^ *```", (COMPOSE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in found if word in block]
    return textwrap.dedent(block)


class ComposedHub:
    """What `hub.yaml` describes, on loopback: broker and store speak TLS and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = dict(zip(("broker", "store"), free_ports(2), strict=True))
        subprocess.run(
            ["bash", "-eu", "-c", commands_of_the_readme("openssl req")], cwd=root, capture_output=True, check=True
        )
        self.folder = HubFolder.init(
            root / "hub",
            Roster(
                broker=f"amqps://localhost:{self.ports['broker']}",
                store=f"https://localhost:{self.ports['store']}",
                ca=str(root / "hub" / CA_FILE),  # type: ignore[arg-type]
                sites=("clinic-1",),
            ),
        )
        self._programs = [*map(Child, self._rabbitmq()), Child(self._minio())]

    @property
    def ca(self) -> Path:
        return self.folder.path / CA_FILE

    async def start(self) -> None:
        for program in self._programs:
            await program.start()
        await apply_store_logins(self.folder)
        coordinator = self.store("coordinator")
        await coordinator.make_bucket(BUCKET)
        await coordinator.close()

    async def stop(self) -> None:
        for program in reversed(self._programs):
            await program.stop()

    def mounted(self, service: str) -> Path:
        """The folder in the place of /run/secrets, with what is mounted for the service."""
        folder = self.root / service / "secrets"
        folder.mkdir(parents=True)
        for name in COMPOSED["services"][service]["secrets"]:
            if isinstance(name, str):
                source = COMPOSED["secrets"][name]["file"].rpartition("}/")[2]
                (folder / name).write_bytes((self.folder.path / source).read_bytes())
        return folder

    def _rabbitmq(self) -> tuple[Program, Program]:
        """With the settings file and the environment of the container."""
        secrets = self.mounted("broker")
        mapper, broker = rabbitmq(self.root / "broker", definitions={}, port=self.ports["broker"])
        settings = (COMPOSE / "rabbitmq.conf").read_text()
        settings = settings.replace("/run/secrets", str(secrets))
        settings = settings.replace("0.0.0.0:5671", f"{LOOPBACK}:{self.ports['broker']}")
        (self.root / "broker/conf/rabbitmq.conf").write_text(settings)
        environment = {**broker.environment, **COMPOSED["services"]["broker"]["environment"]}
        del environment["RABBITMQ_NODE_IP_ADDRESS"]
        return mapper, replace(broker, environment=environment, ready=self._broker_is_ready)

    async def _broker_is_ready(self) -> bool:
        try:
            await (await self.connect("operator")).close()
        except Exception:
            return False
        return True

    def _minio(self) -> Program:
        """With the start script and the command line of the image."""
        folder = self.root / "store"
        secrets = self.mounted("store")
        certificates = folder / "certs"
        (certificates / "CAs").mkdir(parents=True)
        (folder / "data").mkdir()
        for source, name in (("ca.pem", "CAs/ca.crt"), ("tls/hub.crt", "public.crt"), ("tls/hub.key", "private.key")):
            (certificates / name).write_bytes((self.folder.path / source).read_bytes())
        written = re.search(r"^CMD (\[.*\])$", (COMPOSE / "images/minio/Dockerfile").read_text(), re.MULTILINE)
        assert written is not None
        here = {
            "minio": str(find_minio()),
            ":9000": f"{LOOPBACK}:{self.ports['store']}",
            "/certs": str(certificates),
            "/data": str(folder / "data"),
        }
        return Program(
            name="minio",
            command=(
                str(COMPOSE / "images/minio/start.sh"),
                *(here.get(word, word) for word in json.loads(written[1])),
            ),
            environment={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "MINIO_BROWSER": "off",
                "BROKER": self.folder.roster.broker,
                "SSL_CERT_FILE": str(certificates / "CAs/ca.crt"),
                "SECRETS": str(secrets),
                "RUN_FOLDER": str(folder),
            },
            folder=folder,
            log=folder / "minio.log",
            ready=self._store_is_ready,
        )

    async def _store_is_ready(self) -> bool:
        trusted = ssl.create_default_context(cafile=str(self.ca))
        async with httpx.AsyncClient(verify=trusted, trust_env=False, timeout=2) as client:
            try:
                answer = await client.get(f"{self.folder.roster.store}/minio/health/cluster")
            except httpx.HTTPError:
                return False
            return answer.is_success

    async def connect(self, login: str) -> RabbitBus:
        password = self.folder.broker_secret(login).read_text()
        return await RabbitBus.connect(self.folder.roster.broker, login=login, password=password, ca=self.ca)

    def store(self, login: str) -> S3Store:
        secret = self.folder.store_secret(login).read_text()
        return S3Store(self.folder.roster.store, access_key=login, secret_key=secret, ca=self.ca)

    def rabbitmqctl(self, *arguments: str, given: Path) -> str:
        program = self._programs[1].program
        folder = find_rabbitmq()
        assert folder is not None
        with given.open() as definitions:
            asked = subprocess.run(
                [str(folder / "rabbitmqctl"), *arguments],
                env=dict(program.environment),
                stdin=definitions,
                capture_output=True,
                text=True,
                timeout=WITHIN,
                check=False,
            )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        return asked.stdout


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedHub]:
    require_servers()
    composed = ComposedHub(tmp_path_factory.mktemp("composed"))
    try:
        asyncio.run(composed.start())
        yield composed
    finally:
        asyncio.run(composed.stop())


async def heard(bus: RabbitBus, queue: str) -> Delivery:
    """The next message in the queue."""
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    async with asyncio.timeout(WITHIN):
        await bus.subscribe(queue, deliveries.put, dead_key="dead.coordinator.hub")
        return await deliveries.get()


async def test_what_a_clinic_stores_is_announced_to_the_coordinator(hub: ComposedHub) -> None:
    key = str(ConsentKey("clinic-1", "0123456789abcdef", 1))
    coordinator, clinic = hub.store("coordinator"), hub.store("clinic-1")
    bus = await hub.connect("coordinator")
    try:
        await coordinator.announce(BUCKET, ANNOUNCED)
        await clinic.create(BUCKET, key, b"{}")
        announced = translate((await heard(bus, COORDINATOR_QUEUE)).packet.body)
    finally:
        await bus.close()
        await coordinator.close()
        await clinic.close()
    assert [(one.bucket, one.key) for one in announced] == [(BUCKET, key)]


async def test_the_broker_hears_nobody_who_does_not_speak_tls(hub: ComposedHub) -> None:
    assert not await speaks_amqp(hub.ports["broker"])


@pytest.mark.parametrize("service", ["coordinator", "aggregator", "metrics", "site-agent"])
def test_a_service_can_work_with_what_the_hubs_folder_holds(hub: ComposedHub, service: str) -> None:
    settings = "sites/clinic-1/site.toml" if service == "site-agent" else f"{service}.toml"
    asked = subprocess.run(
        [
            sys.executable,
            "-m",
            f"wardround.{service.replace('-', '_')}.main",
            str(hub.folder.path / settings),
            "--check",
        ],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert [line.split()[:2] for line in asked.stdout.splitlines()] == [
        ["ok", "settings"],
        ["ok", "broker"],
        ["ok", "store"],
    ]


async def test_a_clinic_that_is_added_while_the_hub_runs_can_speak_to_it(hub: ComposedHub) -> None:
    """As the README says it: the definitions over standard input, and the store's logins once more."""
    words = "rabbitmqctl import_definitions <hub/definitions.json"
    assert words in commands_of_the_readme("add-site clinic-2")
    hub.folder = hub.folder.with_site("clinic-2")
    await asyncio.to_thread(hub.rabbitmqctl, "import_definitions", given=hub.folder.path / "definitions.json")
    await apply_store_logins(hub.folder)
    bus, clinic = await hub.connect("clinic-2"), hub.store("clinic-2")
    try:
        async with asyncio.timeout(WITHIN):
            subscription = await bus.subscribe(site_queue("clinic-2"), _nothing, dead_key="dead.site-agent.clinic-2")
            await subscription.close()
        await clinic.create(BUCKET, str(ConsentKey("clinic-2", "0123456789abcdef", 1)), b"{}")
    finally:
        await bus.close()
        await clinic.close()


async def _nothing(_: Delivery) -> None:
    """Takes what comes."""


def test_secrets_stand_neither_in_the_environment_nor_in_the_command_of_a_server(hub: ComposedHub) -> None:
    secrets = {file.read_text().encode() for file in (hub.folder.path / "secrets").iterdir()}
    for program in hub._programs:
        shown = Path(f"/proc/{program.pid}")
        told = (shown / "environ").read_bytes() + (shown / "cmdline").read_bytes()
        assert told
        assert not [secret for secret in secrets if secret.strip() in told]
