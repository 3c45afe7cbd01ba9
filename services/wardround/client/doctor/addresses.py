"""An address as the network sees it: whether its name is known, something listens, and its certificate is trusted."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from wardround.client.doctor.findings import Verdict, ok, skipped, warning, wrong
from wardround.runtime.clock import Clock
from wardround.runtime.http_settings import is_loopback

PORTS: Mapping[str, int] = {"amqp": 5672, "amqps": 5671, "http": 80, "https": 443}
ENCRYPTED = frozenset({"amqps", "https"})
CONNECTS_WITHIN = 10.0
EXPIRES_SOON = timedelta(days=14)
SKEW_WARNED = 60.0  # seconds
SKEW_WRONG = 600.0  # S3 refuses what was signed 15 minutes before or after its own time


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address leads. `given` is how the settings write it."""

    given: str
    host: str
    port: int
    encrypted: bool

    @classmethod
    def of(cls, address: str) -> "Place":
        parts = urlsplit(address)
        return cls(address, parts.hostname or "", parts.port or PORTS[parts.scheme], parts.scheme in ENCRYPTED)


async def look_at_address(address: str, *, ca: Path | None, now: Clock) -> Verdict:
    """Whether something answers there that may be trusted."""
    place = Place.of(address)
    context = ssl.create_default_context(cafile=None if ca is None else str(ca)) if place.encrypted else None
    try:
        async with asyncio.timeout(CONNECTS_WITHIN):
            _, writer = await asyncio.open_connection(place.host, place.port, ssl=context)
    except (OSError, TimeoutError) as error:
        return unreachable(place, error)
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    if not place.encrypted:
        if is_loopback(place.host):
            return ok(f"{place.given} answers, not encrypted, on this machine alone")
        return warning(f"{place.given} answers, and is not encrypted", "use TLS where patients' models travel")
    return judge_certificate(place, str(certificate["notAfter"]), now())


def unreachable(place: Place, error: OSError | TimeoutError) -> Verdict:
    """Why there is no connection, in words, and whose turn it is."""
    where = f"{place.host}:{place.port}"
    match error:
        case ssl.SSLCertVerificationError():
            return wrong(
                f"the certificate of {where} is not accepted: {error.verify_message}",
                "set ca to the hub's certificate, and use the host name that the certificate names",
            )
        case ssl.SSLError():
            return wrong(f"{where} does not speak TLS ({error.reason})", "check scheme and port of the address")
        case socket.gaierror():
            return wrong(f"the name {place.host} is not known here", "check the address and this machine's DNS")
        case TimeoutError():
            return wrong(
                f"{where} does not answer", "have the firewall or the proxy of this network let connections out to it"
            )
        case ConnectionRefusedError():
            return wrong(f"nothing listens at {where}", "check the port; ask who runs that server whether it is up")
    return wrong(f"{where} cannot be reached: {error.strerror or type(error).__name__}", "check the address")


def judge_certificate(place: Place, not_after: str, now: datetime) -> Verdict:
    """`not_after` as OpenSSL prints it, such as `Sep  9 14:00:00 2026 GMT`."""
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)
    left = ends - now
    if left < EXPIRES_SOON:
        return warning(
            f"{place.given} answers; its certificate ends in {max(left.days, 0)} days, on {ends:%Y-%m-%d}",
            "have the hub's operator renew it",
        )
    return ok(f"{place.given} answers, and its certificate is trusted, until {ends:%Y-%m-%d}")


# --- clocks ----------------------------------------------------------------------------------------------------------


async def look_at_clock(address: str, *, ca: Path | None, now: Clock) -> Verdict:
    """How far this machine's clock is from that of the HTTP server there, by the `Date` of any answer."""
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    async with httpx.AsyncClient(verify=context, timeout=CONNECTS_WITHIN, trust_env=False) as client:
        asked = now()
        try:
            answer = await client.head(address)
        except httpx.HTTPError as error:
            return wrong(
                f"{address} does not answer HTTP ({type(error).__name__})", "check that the address is the store's"
            )
        answered = now()
    try:
        there = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        return skipped(f"{address} does not tell its time")
    # It is told in whole seconds, rounded down.
    return judge_skew((asked + (answered - asked) / 2 - there).total_seconds() - 0.5, "the store's")


def judge_skew(ahead: float, whose: str) -> Verdict:
    """`ahead`: seconds by which this machine's clock is before the other, negative where it is behind."""
    how = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {whose}"
    to_do = "set this machine's clock, best by NTP"
    if abs(ahead) > SKEW_WRONG:
        return wrong(f"{how}; from 15 minutes on the store refuses every request", to_do)
    if abs(ahead) > SKEW_WARNED:
        return warning(how, to_do)
    return ok(f"this machine's clock agrees with {whose}" + ("" if abs(ahead) <= 1.5 else f", to {abs(ahead):.0f} s"))
