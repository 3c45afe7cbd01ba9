"""The broker's definitions: what is in the file, without a broker."""

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from wardround.hub.definitions import definitions, password_hash
from wardround_messages import names
from wardround_messages.topology import topology

TOPOLOGY = topology(("clinic-1", "clinic-2"), ("researcher-a",))
PASSWORDS = {login.name: f"the password of {login.name}" for login in TOPOLOGY.logins}
HELD = definitions(TOPOLOGY, PASSWORDS)
LOGINS = [login.name for login in TOPOLOGY.logins]


def of(kind: str, **fields: object) -> dict[str, Any]:
    (found,) = [each for each in HELD[kind] if fields.items() <= each.items()]
    return found


def names_in(kind: str) -> list[str]:
    return [each["name"] for each in HELD[kind]]


def allowed(pattern: str, candidates: list[str]) -> list[str]:
    return [each for each in candidates if re.search(pattern, each)]


def test_password_is_hashed_as_rabbitmq_documents_it() -> None:
    # https://www.rabbitmq.com/docs/passwords#computing-password-hash
    assert password_hash("test12", bytes.fromhex("908dc60a")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


@pytest.mark.parametrize("login", LOGINS)
def test_login_has_the_hash_of_its_password_under_a_salt_of_its_own(login: str) -> None:
    user = of("users", name=login)
    raw = base64.b64decode(user["password_hash"])
    assert user["hashing_algorithm"] == "rabbit_password_hashing_sha256"
    assert raw[4:] == hashlib.sha256(raw[:4] + PASSWORDS[login].encode()).digest()
    assert definitions(TOPOLOGY, PASSWORDS)["users"] != HELD["users"]


def test_no_password_is_written_down() -> None:
    text = json.dumps(HELD)
    assert not any(password in text for password in PASSWORDS.values())


@pytest.mark.parametrize("password", ["", None])
def test_login_without_a_password_is_refused(password: str | None) -> None:
    passwords = {login: text for login, text in PASSWORDS.items() if login != "clinic-2" or password is not None}
    passwords |= {} if password is None else {"clinic-2": password}
    with pytest.raises(ValueError, match="'clinic-2' has no password"):
        definitions(TOPOLOGY, passwords)


def test_only_the_operator_has_a_tag_and_it_is_that_of_an_impersonator() -> None:
    assert {user["name"]: user["tags"] for user in HELD["users"] if user["tags"]} == {"operator": ["impersonator"]}


@pytest.mark.parametrize("login", LOGINS)
def test_nobody_may_declare_anything_but_the_store_its_exchange_and_who_looks_a_queue_to_do_so(login: str) -> None:
    everything = [
        "",
        "wr.look.7d1e-4a",
        *names_in("exchanges"),
        *names_in("queues"),
        "wr.objectstore.x",
        "xwr.objectstore",
        "wr-objectstore",
    ]
    expected = {"store": ["wr.objectstore"], "coordinator": ["wr.look.7d1e-4a"]}.get(login, [""])
    assert allowed(of("permissions", user=login)["configure"], everything) == expected


@pytest.mark.parametrize(
    ("login", "writes", "reads"),
    [
        ("coordinator", ["wr.commands", "wr.events", "wr.dead"], ["wr.coordinator"]),
        ("aggregator", ["wr.dead"], ["wr.aggregator"]),
        ("metrics", ["wr.dead"], ["wr.metrics"]),
        ("store", ["wr.objectstore"], []),
        ("operator", ["wr.commands", "wr.events", "wr.objectstore", "wr.dead"], ["wr.dead"]),
        ("clinic-1", ["wr.events", "wr.dead"], ["wr.site.clinic-1"]),
        ("researcher-a", ["wr.commands"], ["wr.metrics"]),
    ],
)
def test_login_reaches_its_exchanges_and_queues_alone(login: str, writes: list[str], reads: list[str]) -> None:
    permission = of("permissions", user=login)
    assert allowed(permission["write"], [*names_in("exchanges"), "amq.default", "amq.topic"]) == writes
    assert allowed(permission["read"], [*names_in("queues"), "wr.site.clinic-11", "wr_site_clinic-1"]) == reads


def test_every_login_has_a_rule_for_every_topic_exchange() -> None:
    rules = {(rule["user"], rule["exchange"]) for rule in HELD["topic_permissions"]}
    assert rules == {(login, exchange) for login in LOGINS for exchange in names_in("exchanges")}


def test_exchange_that_a_login_does_not_write_takes_no_key_of_it() -> None:
    for login in TOPOLOGY.logins:
        for exchange in TOPOLOGY.exchanges:
            rule = of("topic_permissions", user=login.name, exchange=exchange)
            assert rule["write"] == login.writes.get(exchange, rule["write"])
            if exchange not in login.writes:
                assert allowed(rule["write"], ["", "x", "cmd.coordinator.hub.exp.start"]) == []
            looks = exchange in login.looks
            assert allowed(rule["read"], ["", "x", "#", "announced"]) == (["announced"] if looks else [])


def test_exchange_of_the_store_is_what_minio_declares() -> None:
    exchange = of("exchanges", name=names.OBJECTSTORE)
    assert (exchange["type"], exchange["durable"], exchange["auto_delete"]) == ("topic", True, False)
    assert (exchange["internal"], exchange["arguments"]) == (False, {})


@pytest.mark.parametrize(
    ("queue", "arguments"),
    [
        ("wr.coordinator", {"x-queue-type": "quorum", "x-single-active-consumer": True}),
        ("wr.site.clinic-1", {"x-queue-type": "quorum", "x-single-active-consumer": True}),
        ("wr.aggregator", {"x-queue-type": "quorum"}),
        ("wr.dead", {"x-queue-type": "quorum"}),
        ("wr.metrics", {"x-queue-type": "stream"}),
    ],
)
def test_queue_has_no_arguments_but_those_that_cannot_be_policies(queue: str, arguments: dict[str, object]) -> None:
    assert of("queues", name=queue)["arguments"] == arguments


def policy_of(queue: str) -> dict[str, Any]:
    (policy,) = [each for each in HELD["policies"] if re.search(each["pattern"], queue)]
    definition: dict[str, Any] = policy["definition"]
    return definition


@pytest.mark.parametrize("queue", ["wr.coordinator", "wr.aggregator", "wr.site.clinic-1", "wr.site.clinic-2"])
def test_work_queue_gives_up_after_twenty_deliveries_and_loses_nothing_on_the_way(queue: str) -> None:
    policy = policy_of(queue)
    assert (policy["delivery-limit"], policy["dead-letter-exchange"]) == (20, "wr.dead")
    assert (policy["dead-letter-strategy"], policy["overflow"]) == ("at-least-once", "reject-publish")


def test_dead_letters_are_given_up_by_nobody_and_go_nowhere() -> None:
    policy = policy_of("wr.dead")
    assert policy["delivery-limit"] > 10**9
    assert "dead-letter-exchange" not in policy
    assert policy["overflow"] == "drop-head"


def test_stream_is_bounded_by_age_and_size() -> None:
    policy = policy_of("wr.metrics")
    assert policy["max-age"].endswith("D")
    assert policy["max-length-bytes"] > 10 * policy["stream-max-segment-size-bytes"]


def test_a_thousand_sites_need_no_more_policies_than_two() -> None:
    many = topology(tuple(f"clinic-{number}" for number in range(1000)), ())
    held = definitions(many, {login.name: "a password" for login in many.logins})
    assert len(held["policies"]) == len(HELD["policies"])
    assert len(held["queues"]) == 1004


def test_bindings_are_those_of_the_topology() -> None:
    bound = {(each["source"], each["destination"], each["routing_key"]) for each in HELD["bindings"]}
    assert bound == {(each.exchange, each.queue, each.pattern) for each in TOPOLOGY.bindings}


def test_everything_is_in_the_virtual_host_that_was_asked_for() -> None:
    held = definitions(TOPOLOGY, PASSWORDS, vhost="ward")
    assert held["vhosts"] == [{"name": "ward"}]
    for kind in ("permissions", "topic_permissions", "policies", "exchanges", "queues", "bindings"):
        assert {each["vhost"] for each in held[kind]} == {"ward"}
