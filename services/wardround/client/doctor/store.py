"""The object store as one login sees it: rights are tried on a bucket that does not exist, so nothing is stored."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wardround.client.doctor.findings import Verdict, ok, warning, worst_of, wrong
from wardround.runtime.store.port import AccessDeniedError, LoginRefusedError, NotFoundError, ObjectStore, StoreError
from wardround.runtime.store.s3_probe import PROBE_BUCKET, PROBE_PREFIX
from wardround_messages.names import AnswerKey, ConsentKey, GlobalKey, JournalKey, Task, UpdateKey, bucket_of

SHORT = "0" * 16
OTHER = "doctor"  # a clinic that does not exist


@dataclass(frozen=True, slots=True)
class StoreRight:
    """To `get` or `put` an object, or to `list` what is below a prefix; and whether the login should be able to."""

    action: Literal["get", "put", "list"]
    key: str
    words: str
    should: bool


def rights_of_site(site: str) -> tuple[StoreRight, ...]:
    """What a clinic's login may do, and the nearest that it may not."""
    return (
        StoreRight("get", str(GlobalKey(0, SHORT)), "read models", True),
        StoreRight("get", str(JournalKey(0)), "read the manifest", True),
        StoreRight("put", str(ConsentKey(site, SHORT, 1)), "store its consent", True),
        StoreRight("put", str(UpdateKey(1, site, SHORT)), "store its updates", True),
        StoreRight("put", str(AnswerKey(1, Task.TRAIN, site, 1)), "store its answers", True),
        StoreRight("get", str(UpdateKey(1, OTHER, SHORT)), "read another clinic's updates", False),
        StoreRight("put", str(UpdateKey(1, OTHER, SHORT)), "store another clinic's updates", False),
        StoreRight("put", str(GlobalKey(0, SHORT)), "store models", False),
        StoreRight("put", str(JournalKey(0)), "write the journal", False),
        StoreRight("list", "journal/", "list objects", False),
    )


def rights_of_person() -> tuple[StoreRight, ...]:
    """What a researcher's and an operator's login may do, and the nearest that they may not."""
    return (
        StoreRight("list", "journal/", "list experiments' objects", True),
        StoreRight("get", str(JournalKey(1)), "read journals", True),
        StoreRight("get", str(GlobalKey(1, SHORT)), "read models", True),
        StoreRight("get", str(UpdateKey(1, OTHER, SHORT)), "read clinics' updates", False),
        StoreRight("list", "updates/", "list clinics' updates", False),
        StoreRight("put", str(JournalKey(0)), "write the journal", False),
        StoreRight("put", str(GlobalKey(1, SHORT)), "store global models", False),
    )


async def look_at_login(store: ObjectStore, login: str) -> Verdict:
    """Whether the store answers and knows the login."""
    try:
        await store.read(PROBE_BUCKET, f"{PROBE_PREFIX}login", length=1)
    except LoginRefusedError as error:
        return wrong(str(error), "compare the files of store_key with what the hub's operator handed over")
    except (NotFoundError, AccessDeniedError):
        pass  # it knows the login, which may not see everything
    except StoreError as error:
        return wrong(str(error), "ask the hub's operator how the store is doing")
    return ok(f"the store knows '{login}'")


async def look_at_rights(store: ObjectStore, login: str, tried: Sequence[StoreRight], *, nowhere: str) -> Verdict:
    """Whether the login may do what it should, and no more.

    Args:
        nowhere: an experiment that does not exist.
    """
    try:
        found = await asyncio.gather(*(_may(store, bucket_of(nowhere), right) for right in tried))
    except StoreError as error:
        return wrong(str(error), "ask the hub's operator how the store is doing")
    return judge_store_rights(login, dict(zip(tried, found, strict=True)))


async def _may(store: ObjectStore, bucket: str, right: StoreRight) -> bool:
    """A store says that a bucket is not there only to those who may do with it what they asked for."""
    try:
        match right.action:
            case "get":
                await store.read(bucket, right.key, length=1)
            case "put":
                await store.create(bucket, right.key, b"")
            case "list":
                await store.list(bucket, right.key)
    except AccessDeniedError:
        return False
    except NotFoundError:
        pass
    return True


def judge_store_rights(login: str, may: dict[StoreRight, bool]) -> Verdict:
    """Whether the store gives the login what it should have, and no more."""
    lacks = [right.words for right, found in may.items() if right.should and not found]
    more = [right.words for right, found in may.items() if found and not right.should]
    to_do = "the hub's operator must bring the rights to the store: wardround hub apply"
    verdicts: list[Verdict] = []
    if lacks:
        verdicts.append(wrong(f"'{login}' may not {', '.join(lacks)}", to_do))
    if more:
        verdicts.append(warning(f"'{login}' may {', '.join(more)}, which it should not", to_do))
    has = [right.words for right, found in may.items() if right.should and found]
    return worst_of(verdicts, f"'{login}' may {', '.join(has)}, and is refused the rest")
