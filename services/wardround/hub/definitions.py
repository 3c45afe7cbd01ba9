"""The broker's definitions: everything in a topology, as the file that RabbitMQ loads when it starts.

A load adds and overwrites; it removes nothing and changes no argument of a queue that exists. What somebody may want to
tune later therefore stands in policies.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wardround_messages.names import DEAD, DEAD_QUEUE
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY, LOOK_PREFIX, Login, Queue, Topology

VHOST = "/"
NOTHING = "^$"  # no exchange and no queue has an empty name
NO_KEY = "(?!)"  # matches no routing key, not even the empty one
SALT = 4  # bytes

MIB = 2**20
QUEUE_BYTES = 256 * MIB
DEAD_BYTES = 1024 * MIB
STREAM_BYTES = 4096 * MIB
STREAM_SEGMENT_BYTES = 64 * MIB  # a stream is cut by whole segments
STREAM_AGE = "90D"


def definitions(topology: Topology, passwords: Mapping[str, str], *, vhost: str = VHOST) -> dict[str, Any]:
    """The content of `definitions.json`, for RabbitMQ from 3.10 on.

    Args:
        passwords: one for each login of the topology; what is written are their hashes, with a new salt each time.

    Raises:
        ValueError: a login has no password.
    """
    for login in topology.logins:
        if not passwords.get(login.name):
            raise ValueError(f"the login {login.name!r} has no password")
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(login, passwords[login.name]) for login in topology.logins],
        "permissions": [_permission(login, vhost) for login in topology.logins],
        "topic_permissions": [
            _topic_permission(login, exchange, vhost) for login in topology.logins for exchange in topology.exchanges
        ],
        "policies": list(_policies(topology, vhost)),
        "exchanges": [_exchange(name, vhost) for name in topology.exchanges],
        "queues": [_queue(queue, vhost) for queue in topology.queues],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.pattern,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }


def password_hash(password: str, salt: bytes | None = None) -> str:
    """A random salt, then the SHA-256 of salt and password, in base 64: https://www.rabbitmq.com/docs/passwords"""
    salt = secrets.token_bytes(SALT) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _user(login: Login, password: str) -> dict[str, Any]:
    return {
        "name": login.name,
        "password_hash": password_hash(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["impersonator"] if login.impersonates else [],
        "limits": {},
    }


def _permission(login: Login, vhost: str) -> dict[str, str]:
    """Who looks declares a queue, binds it, which is to write the queue and to read the exchange, and reads it."""
    look = (f"{re.escape(LOOK_PREFIX)}[0-9a-f-]+",) if login.looks else ()
    return {
        "user": login.name,
        "vhost": vhost,
        "configure": _any_of(login.declares, *look),
        "write": _any_of(login.writes, *look),
        "read": _any_of((*login.reads, *login.looks), *look),
    }


def _topic_permission(login: Login, exchange: str, vhost: str) -> dict[str, str]:
    """Where a login has none for an exchange, RabbitMQ allows it every key: so there is one for each.

    `read` is about binding a queue, which nobody does who does not look.
    """
    return {
        "user": login.name,
        "vhost": vhost,
        "exchange": exchange,
        "write": login.writes.get(exchange, NO_KEY),
        "read": f"^{ANNOUNCED_ROUTING_KEY}$" if exchange in login.looks else NO_KEY,
    }


def _exchange(name: str, vhost: str) -> dict[str, Any]:
    """As MinIO declares one: with any difference its announcements would be refused."""
    return {
        "name": name,
        "vhost": vhost,
        "type": "topic",
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _queue(queue: Queue, vhost: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {"x-queue-type": queue.kind}
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    return {"name": queue.name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}


def _policies(topology: Topology, vhost: str) -> Iterator[dict[str, Any]]:
    """One for all queues that are alike: of several that match a queue only one would count."""
    alike: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for queue in topology.queues:
        name, definition = _tunables(queue)
        alike.setdefault(name, (definition, []))[1].append(queue.name)
    for name, (definition, queues) in alike.items():
        yield {
            "vhost": vhost,
            "name": name,
            "pattern": _any_of(queues),
            "apply-to": "queues",
            "priority": 0,
            "definition": definition,
        }


def _tunables(queue: Queue) -> tuple[str, dict[str, Any]]:
    """The name of its policy, and what that says."""
    if queue.kind == "stream":
        return "wr-stream", {
            "max-age": STREAM_AGE,
            "max-length-bytes": STREAM_BYTES,
            "stream-max-segment-size-bytes": STREAM_SEGMENT_BYTES,
        }
    if queue.name == DEAD_QUEUE:
        # Full of dead letters, it forgets the oldest: refusing new ones would hold up whoever has one to park.
        return "wr-dead", {
            "delivery-limit": queue.delivery_limit,
            "max-length-bytes": DEAD_BYTES,
            "overflow": "drop-head",
        }
    return f"wr-work-{queue.delivery_limit}", {
        "delivery-limit": queue.delivery_limit,
        "dead-letter-exchange": DEAD,
        "dead-letter-strategy": "at-least-once",
        "max-length-bytes": QUEUE_BYTES,
        "overflow": "reject-publish",  # at-least-once asks for it; and who publishes learns that it is not stored
    }


def _any_of(names: Iterable[str], *patterns: str) -> str:
    alternatives = (*map(re.escape, names), *patterns)
    return f"^({'|'.join(alternatives)})$" if alternatives else NOTHING
