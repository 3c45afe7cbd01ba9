"""Asking the programs of a stack over HTTP."""

import httpx

ANSWERS_WITHIN = 2.0


def loopback_client(base_url: str = "", *, timeout: float = ANSWERS_WITHIN) -> httpx.AsyncClient:
    """For addresses of this machine, past any proxy.

    Certificates are not even loaded: that takes 13 ms of a processor each time, and while programs start they are
    asked twenty times a second each.
    """
    return httpx.AsyncClient(base_url=base_url, trust_env=False, verify=False, timeout=timeout)  # noqa: S501 - in clear


async def answers(url: str) -> bool:
    """Whether the address answers with success."""
    async with loopback_client() as client:
        try:
            return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False
