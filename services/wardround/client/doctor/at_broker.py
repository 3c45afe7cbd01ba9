"""The checks at a broker that a hub's and a clinic's doctor share: login, rights, and who reads which queue."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from wardround.client.doctor.broker import Looker
from wardround.client.doctor.findings import Verdict, ok, warning, wrong
from wardround.client.doctor.rights import judge_rights, rights_to_try
from wardround.runtime.bus.port import BusError, ForbiddenError
from wardround.runtime.bus.rabbit_link import Endpoint
from wardround.runtime.hub_settings import Hub
from wardround.runtime.secrets import SecretUnreadableError
from wardround_messages.names import DEAD_QUEUE
from wardround_messages.topology import topology

BACKLOG = 1000  # messages that wait although somebody takes them
LOAD = "the hub's operator must bring the definitions to the broker: rabbitmqctl import_definitions"


class AtBroker:
    """One login at a hub's broker. `look_at_login` comes first; the connection is closed with `closing`."""

    def __init__(self, hub: Hub, closing: AsyncExitStack, *, site: str | None = None) -> None:
        self._hub = hub
        self._closing = closing
        self._site = site
        self._looker: Looker | None = None

    @property
    def endpoint(self) -> Endpoint:
        hub = self._hub
        return Endpoint.parse(
            hub.broker, login=hub.username, password=hub.password.read(), ca=hub.ca, name="wardround-doctor"
        )

    async def look_at_login(self) -> Verdict:
        """Whether the broker lets the login in."""
        try:
            self._looker = await self._closing.enter_async_context(await Looker.open(self.endpoint))
        except ForbiddenError as error:
            return wrong(str(error), "compare the file of password with what the hub's operator handed over")
        except SecretUnreadableError as error:
            return wrong(str(error), "put there what the hub's operator handed over")
        except BusError as error:
            return wrong(str(error), "ask the hub's operator how the broker is doing")
        return ok(f"the broker lets '{self._hub.username}' in")

    async def look_at_rights(self) -> Verdict:
        """Whether the login may do what it should, and no more."""
        name, site = self._hub.username, self._site
        roster = topology((site,), ()) if site else topology((), () if name == "operator" else (name,))
        login = next(login for login in roster.logins if login.name == name)
        try:
            found = await self.looker.rights(login, rights_to_try(site))
        except BusError as error:
            return wrong(str(error), "ask the hub's operator how the broker is doing")
        return judge_rights(name, found)

    async def look_at_readers(self, queue: str, who: str, to_do: str) -> Verdict:
        """Whether somebody reads the queue, and keeps up with it."""
        seen = await self.looker.queue(queue)
        if seen is None:
            return wrong(f"the broker has no queue {queue}", LOAD)
        if not seen.consumers:
            return wrong(f"no {who} is connected; {seen.waiting} messages wait for it", to_do)
        connected = f"{seen.consumers} of them are connected" if seen.consumers > 1 else f"one {who} is at work"
        if seen.waiting > BACKLOG:
            return warning(f"{connected}, and {seen.waiting} messages wait", "look whether it is overloaded")
        return ok(connected)

    async def look_at_dead_letters(self) -> Verdict:
        """Whether messages are parked that nobody could handle."""
        seen = await self.looker.queue(DEAD_QUEUE)
        if seen is None:
            return wrong(f"the broker has no queue {DEAD_QUEUE}", LOAD)
        if seen.waiting:
            messages = "one message" if seen.waiting == 1 else f"{seen.waiting} messages"
            return warning(
                f"{messages} could not be handled",
                "look at them with an operator's profile: wardround dead list --hub NAME-operator",
            )
        return ok("none")

    async def without_readers(self, queues: Sequence[str]) -> list[str]:
        """Those of the queues that are not there, or that nobody reads."""
        seen = [(queue, await self.looker.queue(queue)) for queue in queues]
        return [queue for queue, state in seen if state is None or not state.consumers]

    @property
    def looker(self) -> Looker:
        """Raises `RuntimeError` before the login was looked at."""
        if self._looker is None:
            raise RuntimeError("the broker has not let the login in yet")
        return self._looker
