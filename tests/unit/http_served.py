"""An endpoint at work on a free port of the loopback interface, and a client for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from wardround.runtime.http import Endpoint
from wardround.runtime.http_settings import HttpSettings


@dataclass
class Served:
    endpoint: Endpoint
    client: httpx.AsyncClient
    task: asyncio.Task[None]

    @property
    def port(self) -> int:
        return self.endpoint.port

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, **options)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def served(
    settings: HttpSettings | None = None,
    *,
    checks: Mapping[str, Callable[[], str | None]] | None = None,
    registry: CollectorRegistry | None = None,
    routes: Sequence[BaseRoute] = (),
    verify: Any = True,
) -> AsyncIterator[Served]:
    settings = settings or HttpSettings()
    endpoint = Endpoint(
        settings,
        service="metrics",
        checks=checks or {},
        registry=CollectorRegistry() if registry is None else registry,
        routes=routes,
    )
    endpoint.bind()
    task = asyncio.create_task(endpoint.serve())
    await asyncio.sleep(0)  # a task that is cancelled before its first step closes nothing
    scheme = "http" if settings.certificate is None else "https"
    base = f"{scheme}://localhost:{endpoint.port}"
    async with httpx.AsyncClient(base_url=base, verify=verify, timeout=10, trust_env=False) as client:
        one = Served(endpoint, client, task)
        try:
            yield one
        finally:
            await one.stop()


async def raw(port: int, data: bytes, *, limit: float = 5.0) -> bytes:
    """Send these bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(limit):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
