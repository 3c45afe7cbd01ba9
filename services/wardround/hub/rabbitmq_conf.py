"""The broker's own settings, `rabbitmq.conf`: where it listens, what it loads, how much it may use."""

from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
CONSUMER_TIMEOUT = 3 * 60 * 60  # seconds: an aggregator holds its message for as long as it merges
MIB = 2**20
MESSAGE_BYTES = 256 * 1024  # four times what a body may have
CHANNELS = 512  # of one connection
WAL_BYTES = 64 * MIB  # of the log that all quorum queues share, which is kept in memory as well


@dataclass(frozen=True, slots=True)
class Tls:
    """A listener with TLS: its port, and the files of its certificate (with the chain) and of its key."""

    port: int
    certificate: Path
    key: Path
    host: str = LOOPBACK


def rabbitmq_conf(
    *,
    definitions: Path,
    port: int | None,
    host: str = LOOPBACK,
    tls: Tls | None = None,
    memory: str = "1GB",
    disk_free: str = "1GB",
    log_level: str = "info",
) -> str:
    """The text of `rabbitmq.conf`, for RabbitMQ from 3.10 on.

    Args:
        definitions: the file that is loaded at each start.
        port: of the listener without TLS on `host`; None for none.
        memory: publishers wait while the broker uses more than this, or less than `disk_free` is free on its disk.
    """
    lines = [
        "# Written by Wardround.",
        "listeners.tcp = none" if port is None else f"listeners.tcp.default = {host}:{port}",
        *([] if tls is None else _listener(tls)),
        f"load_definitions = {definitions}",
        f"consumer_timeout = {CONSUMER_TIMEOUT * 1000}",
        f"max_message_size = {MESSAGE_BYTES}",
        f"channel_max = {CHANNELS}",
        f"vm_memory_high_watermark.absolute = {memory}",
        f"disk_free_limit.absolute = {disk_free}",
        f"raft.wal_max_size_bytes = {WAL_BYTES}",
        f"log.file.level = {log_level}",
    ]
    return "\n".join(lines) + "\n"


def _listener(tls: Tls) -> list[str]:
    """Clients are known by login and password, not by a certificate."""
    return [
        f"listeners.ssl.default = {tls.host}:{tls.port}",
        f"ssl_options.certfile = {tls.certificate}",
        f"ssl_options.keyfile = {tls.key}",
        f"ssl_options.cacertfile = {tls.certificate}",
        "ssl_options.verify = verify_none",
        "ssl_options.fail_if_no_peer_cert = false",
        "ssl_options.versions.1 = tlsv1.3",
        "ssl_options.versions.2 = tlsv1.2",
    ]
