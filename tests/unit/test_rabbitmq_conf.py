"""The broker's settings as text."""

from pathlib import Path

from wardround.hub.rabbitmq_conf import Tls, rabbitmq_conf


def settings(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(line.split(" = ", 1) for line in lines)


def test_broker_listens_on_the_loopback_interface_unless_told_otherwise() -> None:
    found = settings(rabbitmq_conf(definitions=Path("/hub/definitions.json"), port=5672))
    assert {name: value for name, value in found.items() if name.startswith("listeners")} == {
        "listeners.tcp.default": "127.0.0.1:5672"
    }
    assert found["load_definitions"] == "/hub/definitions.json"


def test_aggregator_may_hold_a_message_for_three_hours() -> None:
    assert settings(rabbitmq_conf(definitions=Path("d"), port=1))["consumer_timeout"] == "10800000"


def test_memory_and_disk_are_bounded_as_asked() -> None:
    found = settings(rabbitmq_conf(definitions=Path("d"), port=1, memory="2GB", disk_free="5GB"))
    assert (found["vm_memory_high_watermark.absolute"], found["disk_free_limit.absolute"]) == ("2GB", "5GB")


def test_hub_open_to_the_world_speaks_tls_alone() -> None:
    tls = Tls(5671, certificate=Path("/tls/hub.pem"), key=Path("/tls/hub.key"), host="0.0.0.0")
    found = settings(rabbitmq_conf(definitions=Path("d"), port=None, tls=tls))
    assert found["listeners.tcp"] == "none"
    assert found["listeners.ssl.default"] == "0.0.0.0:5671"
    assert (found["ssl_options.certfile"], found["ssl_options.keyfile"]) == ("/tls/hub.pem", "/tls/hub.key")
    assert {value for name, value in found.items() if name.startswith("ssl_options.versions")} == {"tlsv1.2", "tlsv1.3"}
