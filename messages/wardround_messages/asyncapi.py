"""The AsyncAPI 3.0 document of the bus, made from the models and the topology.

`python -m wardround_messages.asyncapi` prints it; with `--write DIR` it goes to `DIR/asyncapi.json`, and the JSON
Schema of each message and object to `DIR/schemas/`. Specification: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import argparse
import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wardround_messages import names
from wardround_messages.codec import CONTENT_TYPE
from wardround_messages.commands import COMMAND_TYPES, ToSite
from wardround_messages.envelope import PREFIX, Envelope
from wardround_messages.events import EVENT_TYPES, EntryRecorded, FromSite
from wardround_messages.journal import FACT_TYPES
from wardround_messages.messages import Message, type_name
from wardround_messages.schemas import BODIES, schemas, shared_schemas
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY, Login, Topology, topology

Json = dict[str, Any]

VERSION = "1.0.0"
PARAMETERS = {
    "experiment": "Id of the experiment",
    "site": "Id of the site",
    "service": "The service that could not handle the message",
    "origin": "Its site, or `hub`",
}
HEADERS = "CloudEventHeaders"
ANNOUNCEMENT = "StoreNotification"
DEAD_LETTER = "DeadLetter"
ANYTHING: Json = {"description": "The body as it came, whatever it is."}
NOTIFICATION: Json = {
    "description": "What S3-compatible stores say; other fields vary from store to store.",
    "type": "object",
    "required": ["Records"],
    "properties": {
        "Records": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["s3"],
                "properties": {
                    "s3": {
                        "type": "object",
                        "properties": {
                            "bucket": {"type": "object", "properties": {"name": {"type": "string"}}},
                            "object": {
                                "type": "object",
                                "properties": {
                                    "key": {"type": "string", "description": "URL-encoded"},
                                    "size": {"type": "integer"},
                                    "eTag": {"type": "string"},
                                },
                            },
                        },
                    }
                },
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class Channel:
    """What is said at one address. `type` is null for what bears no CloudEvents headers of its own."""

    name: str
    exchange: str
    address: str
    summary: str
    payload: Json
    type: str | None = None


def channels() -> tuple[Channel, ...]:
    """All that is said on the bus, sorted by exchange and address."""
    found = [
        *(_of_message(model, names.COMMANDS, _command_address(model)) for model in COMMAND_TYPES),
        *(_of_message(model, names.EVENTS, _event_address(model)) for model in EVENT_TYPES),
        *(_of_fact(fact.__name__, fact.noun, fact.verb, _first_sentence(fact)) for fact in FACT_TYPES),
        Channel(
            ANNOUNCEMENT,
            names.OBJECTSTORE,
            ANNOUNCED_ROUTING_KEY,
            "The object store announces an object.",
            _ref(ANNOUNCEMENT),
        ),
        Channel(
            DEAD_LETTER,
            names.DEAD,
            names.dead_routing_key("{service}", "{origin}"),
            "A copy of what a consumer could not handle, with the reason in its headers.",
            _ref(DEAD_LETTER),
        ),
    ]
    return tuple(sorted(found, key=lambda channel: (channel.exchange, channel.address)))


def document() -> Json:
    """The whole document."""
    spoken = channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Wardround",
            "version": VERSION,
            "description": "Federated learning for hospitals, driven by events. Prose: docs/wire-format.md.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {channel.name: _channel(channel) for channel in spoken},
        "operations": _operations(spoken),
        "components": {
            "messages": {channel.name: _message(channel) for channel in spoken},
            "schemas": {
                **shared_schemas(BODIES, "#/components/schemas/{model}"),
                HEADERS: _headers(),
                ANNOUNCEMENT: NOTIFICATION,
                DEAD_LETTER: ANYTHING,
            },
        },
    }


def write(folder: Path) -> None:
    """Write the document and the schemas below `folder`."""
    (folder / "schemas").mkdir(parents=True, exist_ok=True)
    (folder / "asyncapi.json").write_text(text(document()))
    for name, schema in schemas().items():
        (folder / "schemas" / f"{name}.json").write_text(text(schema))


def text(value: Json) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# --- addresses ---------------------------------------------------------------------------------------------------


def _command_address(model: type[Any]) -> str:
    target = "{site}" if issubclass(model, ToSite) else names.HUB
    return names.command_routing_key(model.service, target, "{experiment}", model.verb)


def _event_address(model: type[Any]) -> str:
    origin = "{site}" if issubclass(model, FromSite) else names.HUB
    experiment = "{experiment}" if "experiment" in model.model_fields else names.NO_EXPERIMENT
    return names.event_routing_key(model.service, origin, experiment, model.noun, model.verb)


def _of_message(model: type[Message], exchange: str, address: str) -> Channel:
    type_ = type_name(model.noun, model.verb, model.version)
    return Channel(model.__name__, exchange, address, _first_sentence(model), _ref(model.__name__), type_)


def _of_fact(name: str, noun: str, verb: str, summary: str) -> Channel:
    address = names.event_routing_key(EntryRecorded.service, names.HUB, "{experiment}", noun, verb)
    payload: Json = {
        "allOf": [
            _ref(EntryRecorded.__name__),
            {
                "properties": {
                    "fact": {"const": f"{noun}.{verb}"},
                    "body": {"anyOf": [_ref(name), {"type": "null"}]},
                }
            },
        ]
    }
    return Channel(name, names.EVENTS, address, summary, payload, type_name(noun, verb, EntryRecorded.version))


def _first_sentence(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or model.__name__).split("\n\n")[0].split())


# --- parts of the document ---------------------------------------------------------------------------------------


def _ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _channel(channel: Channel) -> Json:
    parameters = re.findall(r"\{(\w+)\}", channel.address)
    return {
        "address": channel.address,
        "messages": {channel.name: {"$ref": f"#/components/messages/{channel.name}"}},
        **({"parameters": {name: {"description": PARAMETERS[name]} for name in parameters}} if parameters else {}),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": channel.exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _message(channel: Channel) -> Json:
    of_its_type = {"properties": {f"{PREFIX}type": {"const": channel.type}}}
    return {
        "title": channel.name,
        "summary": channel.summary,
        "contentType": CONTENT_TYPE,
        "payload": channel.payload,
        **(
            {"name": channel.type, "headers": {"type": "object", "allOf": [_ref(HEADERS), of_its_type]}}
            if channel.type is not None
            else {"name": channel.name}
        ),
    }


def _headers() -> Json:
    envelope = shared_schemas([Envelope], "#/components/schemas/{model}")[Envelope.__name__]
    return {
        "description": "CloudEvents 1.0 in binary mode. Other headers are ignored.",
        "type": "object",
        "properties": {f"{PREFIX}{name}": schema for name, schema in envelope["properties"].items()},
        "required": [f"{PREFIX}{name}" for name in ("specversion", *envelope["required"])],
    }


# --- who says it, who hears it -----------------------------------------------------------------------------------

_SITE, _RESEARCHER = "a-site", "a-researcher"
_ROLES = {_SITE: "site-agent", _RESEARCHER: "researcher"}
_FILLED = {"{site}": _SITE, "{experiment}": "an-experiment", "{service}": "site-agent", "{origin}": _SITE}


def _operations(spoken: Iterable[Channel]) -> Json:
    broker = topology((_SITE,), (_RESEARCHER,))
    operations: Json = {}
    for channel in spoken:
        what = {
            "channel": {"$ref": f"#/channels/{channel.name}"},
            "messages": [{"$ref": f"#/channels/{channel.name}/messages/{channel.name}"}],
        }
        for login in broker.logins:
            role = _ROLES.get(login.name, login.name)
            if _may_say(login, channel):
                sent = {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}}
                operations[f"{role}.send.{channel.name}"] = {"action": "send", **what, "bindings": sent}
            for queue in _hears_from(broker, login, channel):
                received = {"amqp": {"ack": True, "bindingVersion": "0.3.0"}}
                operations[f"{role}.receive.{channel.name}"] = {
                    "action": "receive",
                    **what,
                    "bindings": received,
                    "x-queue": queue.replace(_SITE, "{site}"),
                }
    return operations


def _may_say(login: Login, channel: Channel) -> bool:
    if login.impersonates:  # it repeats what others said, and says nothing of its own
        return False
    if channel.name == DEAD_LETTER:
        return channel.exchange in login.writes
    pattern = login.writes.get(channel.exchange)
    return pattern is not None and re.search(pattern, _filled(channel.address)) is not None


def _hears_from(broker: Topology, login: Login, channel: Channel) -> list[str]:
    return [
        binding.queue
        for binding in broker.bindings
        if binding.queue in login.reads
        and binding.exchange == channel.exchange
        and re.fullmatch(_as_regex(binding.pattern), _filled(channel.address))
    ]


def _filled(address: str) -> str:
    for parameter, value in _FILLED.items():
        address = address.replace(parameter, value)
    return address


def _as_regex(pattern: str) -> str:
    """For the patterns of the topology, where `#` stands alone or last."""
    return pattern.replace(".", r"\.").replace("*", r"[^.]+").replace("#", ".+")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wardround_messages.asyncapi", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the document and the JSON Schemas below DIR")
    folder: Path | None = parser.parse_args().write
    if folder is None:
        print(text(document()), end="")
    else:
        write(folder)


if __name__ == "__main__":
    main()
