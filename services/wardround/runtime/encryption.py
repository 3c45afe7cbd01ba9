"""What leaves the machine is encrypted: addresses without TLS are for the loopback interface, or for a lab."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from wardround.runtime.http_settings import is_loopback

ENCRYPTED = {"amqp": "amqps", "http": "https"}


class UnencryptedError(Exception):
    """An address would send models, figures and credentials in the clear."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        with_tls = ENCRYPTED.get(parts.scheme, "TLS")
        # Not the address itself: nobody should put credentials into one, and some do.
        super().__init__(
            f"{parts.scheme}://{parts.hostname} is not encrypted: use {with_tls}://, "
            "or --insecure-lab where no patient's model travels"
        )


def refuse_unencrypted(addresses: Iterable[str], insecure_lab: bool) -> None:
    """Raises `UnencryptedError` for the first address without TLS that is not of this machine."""
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme not in ENCRYPTED.values() and not insecure_lab and not is_loopback(parts.hostname or ""):
            raise UnencryptedError(address)
