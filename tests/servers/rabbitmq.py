"""A real RabbitMQ for tests: one for all of them, with a virtual host for each that asks for it.

Where none is installed the tests are skipped; where `CI` is set they fail.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme

from wardround.hub.definitions import definitions
from wardround.hub.rabbitmq_conf import Tls
from wardround.runtime.bus.rabbit import STREAMS, RabbitBus
from wardround.stack.ports import LOOPBACK, free_ports
from wardround.stack.program import Child
from wardround.stack.rabbitmq import NODE, find_rabbitmq, rabbitmq
from wardround_messages.topology import Topology

# Reads Erlang, a line each, lets the broker evaluate it, and writes a line with what comes of it.
PROBE = """
Loop = fun Loop() ->
  case io:get_line("") of
    eof -> halt();
    Line ->
      {ok, Tokens, _} = erl_scan:string(Line),
      {ok, Parsed} = erl_parse:parse_exprs(Tokens),
      Answer = case rpc:call(list_to_atom(os:getenv("NODE")), erl_eval, exprs, [Parsed, []]) of
        {value, Value, _} -> {ok, Value};
        Other -> {error, Other}
      end,
      io:format("~0p~n", [Answer]),
      Loop()
  end
end,
Loop().
"""


def _certify(folder: Path, ca: Path, port: int) -> Tls:
    """A certificate for `localhost`, and not for the address of it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca)
    issued = authority.issue_cert("localhost")
    tls = Tls(port, certificate=folder / "broker.pem", key=folder / "broker.key")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(tls.certificate, append=True)
    issued.private_key_pem.write_to_path(tls.key)
    return tls


def password(login: str) -> str:
    return f"the password of {login}"


class RabbitServer:
    """A broker that is stopped, killed and started again on what it kept, always at the same port."""

    def __init__(self, folder: Path) -> None:
        self.port, self.tls_port = free_ports(2)
        self.ca = folder / "ca.pem"
        tls = _certify(folder, self.ca, self.tls_port)
        self._mapper, self._broker = map(Child, rabbitmq(folder, definitions={}, port=self.port, tls=tls))
        self._probe: subprocess.Popen[str] | None = None
        self._numbers = count(1)

    async def start(self) -> None:
        if not self._mapper.running:
            await self._mapper.start()
        await self._broker.start()

    async def stop(self) -> None:
        await self._broker.stop()

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        self._broker.kill()

    async def close(self) -> None:
        if self._probe is not None:
            assert self._probe.stdin is not None
            assert self._probe.stdout is not None
            self._probe.stdin.close()
            self._probe.wait(10)
            self._probe.stdout.close()
        await self._broker.stop()
        await self._mapper.stop()

    def ask(self, expression: str) -> str:
        """Evaluate Erlang in the broker, in a millisecond where `rabbitmqctl` takes a second. The value, printed."""
        if self._probe is None:
            erl = shutil.which("erl")
            assert erl is not None
            self._probe = subprocess.Popen(
                [erl, "-noshell", "-sname", f"probe{os.getpid()}@localhost", "-eval", PROBE],
                env=dict(self._broker.program.environment) | {"NODE": NODE},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._probe.stdin is not None
        assert self._probe.stdout is not None
        self._probe.stdin.write(" ".join(expression.split()) + "\n")
        self._probe.stdin.flush()
        answer = self._probe.stdout.readline().strip()
        if not answer.startswith("{ok,"):
            raise AssertionError(f"the broker answers {answer or 'nothing'} to {expression[:200]}")
        return answer.removeprefix("{ok,").removesuffix("}")

    def load(self, held: Mapping[str, Any]) -> None:
        """As it loads its definitions when it starts."""
        # RabbitMQ 3.10 loses this supervisor when many queues are deleted within seconds, as tests do.
        self.ask(
            "case whereis(rabbit_fifo_dlx_sup) of "
            "undefined -> supervisor:restart_child(rabbit_sup, rabbit_fifo_dlx_sup); _ -> ok end."
        )
        text = base64.b64encode(json.dumps(held).encode()).decode()
        assert self.ask(f'rabbit_definitions:import_raw(base64:decode("{text}")).') == "ok"
        # What it has held for three seconds outlives SIGKILL; a first stream killed earlier would stay down for good.
        self.ask("mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()].")

    def depth(self, vhost: str, queue: str) -> int:
        """Messages in a quorum queue, those delivered and not acknowledged included, as the queue itself counts."""
        answer = self.ask(
            f"element(2, element(2, ra:local_query({{'{vhost}_{queue}', node()}}, "
            "fun rabbit_fifo:query_messages_total/1)))."
        )
        return int(answer)

    @asynccontextmanager
    async def broker(self, topology: Topology, *, streams: Mapping[str, int] = STREAMS) -> AsyncIterator["Broker"]:
        """A virtual host of its own that holds the topology, and no message yet."""
        broker = Broker(self, f"test-{next(self._numbers)}", topology, streams)
        broker.load()
        try:
            yield broker
        finally:
            await broker.close()
            broker.wipe()


class Broker:
    """One test's broker. What `connect` opened is closed at the end."""

    def __init__(self, server: RabbitServer, vhost: str, topology: Topology, streams: Mapping[str, int]) -> None:
        self.server = server
        self.vhost = vhost
        self.topology = topology
        self._streams = streams
        self._buses: list[RabbitBus] = []

    def load(self) -> None:
        passwords = {login.name: password(login.name) for login in self.topology.logins}
        self.server.load(definitions(self.topology, passwords, vhost=self.vhost))

    async def connect(
        self, login: str, *, port: int | None = None, secret: str | None = None, **options: Any
    ) -> RabbitBus:
        """To the broker itself, or to a proxy's port. Raises `ForbiddenError`, `BusUnavailableError`."""
        bus = await RabbitBus.connect(
            f"amqp://{LOOPBACK}:{port or self.server.port}/{self.vhost}",
            login=login,
            password=password(login) if secret is None else secret,
            streams=self._streams,
            **options,
        )
        self._buses.append(bus)
        return bus

    def depth(self, queue: str) -> int:
        return self.server.depth(self.vhost, queue)

    def delete_queue(self, queue: str) -> None:
        self.server.ask(
            f'{{ok, Found}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{self.vhost}">>, queue, <<"{queue}">>)), '
            "rabbit_amqqueue:delete(Found, false, false, <<>>)."
        )

    def bound_queue(self, queue: str, messages: int) -> None:
        """From here on the queue takes no more than so many messages."""
        self.server.ask(
            f'rabbit_policy:set(<<"{self.vhost}">>, <<"small">>, <<"^{queue}$">>, '
            f'[{{<<"max-length">>, {messages}}}, {{<<"overflow">>, <<"reject-publish">>}}], '
            '9, <<"queues">>, <<"test">>).'
        )

    def close_connections(self, name: str) -> None:
        """Those that a client gave this name."""
        self.server.ask(
            '[rabbit_networking:close_connection(Pid, "test") || [{pid, Pid}, {client_properties, Said}] <- '
            "rabbit_networking:connection_info_all([pid, client_properties]), "
            f'lists:keyfind(<<"connection_name">>, 1, Said) == {{<<"connection_name">>, longstr, <<"{name}">>}}].'
        )

    def wipe(self) -> None:
        """All of it is gone, as if a new broker stood in its place: connections too."""
        self.server.ask(f'rabbit_vhost:delete(<<"{self.vhost}">>, <<"test">>).')

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """It has no memory left, and takes no messages."""
        alarm = "{resource_limit, memory, node()}"
        self.server.ask(f"rabbit_alarm:set_alarm({{{alarm}, []}}).")
        try:
            yield
        finally:
            self.server.ask(f"rabbit_alarm:clear_alarm({alarm}).")

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    if find_rabbitmq() is None:
        reason = "RabbitMQ is not installed here: `make servers` sets it up"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())
