"""A clinic's Airflow as a person sees it who has a login."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

DAG = "/api/v2/dags/wardround_task"


def _is_busy(error: BaseException) -> bool:
    """Airflow answers 500 where something else is writing in its SQLite."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error


class Person:
    """Asks once more what Airflow was too busy for, as a person does."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @retry(retry=retry_if_exception(_is_busy), stop=stop_after_attempt(5), wait=wait_fixed(1), reraise=True)
    async def asks(self, method: str, path: str, **arguments: Any) -> Any:
        """What Airflow says to it; raises `httpx.HTTPStatusError` for a refusal."""
        answer = await self._client.request(method, path, **arguments)
        answer.raise_for_status()
        return answer.json()

    async def pauses(self, paused: bool) -> None:
        await self.asks("PATCH", DAG, params={"update_mask": "is_paused"}, json={"is_paused": paused})


@asynccontextmanager
async def person_at(url: str, username: str, password: str) -> AsyncIterator[Person]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        person = Person(client)
        said = await person.asks("POST", "/auth/token", json={"username": username, "password": password})
        client.headers["Authorization"] = f"Bearer {said['access_token']}"
        yield person
