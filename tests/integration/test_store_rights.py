"""What each login may do at a real store, and what it is refused there, whatever a service thinks of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin

from servers.minio import MinioServer
from wardround.hub.store_admin import StoreAdministrator, StoreLogin, apply_logins, remove_login
from wardround.hub.store_policies import store_policies
from wardround.runtime.store.port import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from wardround.runtime.store.s3 import S3Store
from wardround.runtime.store.transfer import create_or_compare
from wardround_messages.names import (
    ANNOUNCED,
    MODELS_BUCKET,
    AnswerKey,
    ConsentKey,
    FiguresKey,
    GlobalKey,
    JournalKey,
    ResultKey,
    Task,
    UpdateKey,
    brought_model_key,
)

pytestmark = pytest.mark.slow

BUCKET = "wr-breast-cancer"
SITES = ("clinic-1", "clinic-2", "global")  # the last to see that no pattern takes its name for a folder
SECRETS = {
    name: f"secret-of-{name}" for name in ("coordinator", "aggregator", "metrics", "operator", *SITES, "researcher-a")
}
SHORT = "0123456789abcdef"
BROUGHT = brought_model_key("a" * 64)

MANIFEST = str(JournalKey(0))
ENTRY = str(JournalKey(1))
FIRST_MODEL = str(GlobalKey(0, SHORT))
MODEL = str(GlobalKey(1, SHORT))
RESULT = str(ResultKey(7))
FIGURES = str(FiguresKey(1))
SHARED = (MANIFEST, ENTRY, FIRST_MODEL, MODEL, RESULT, FIGURES)


def update(site: str) -> str:
    return str(UpdateKey(1, site, SHORT))


def answer(site: str, task: Task = Task.TRAIN) -> str:
    return str(AnswerKey(1, task, site, 1))


def consent(site: str) -> str:
    return str(ConsentKey(site, SHORT, 1))


def of_site(site: str) -> tuple[str, ...]:
    return update(site), consent(site), *(answer(site, task) for task in Task)


ALL = (*SHARED, *(key for site in SITES for key in of_site(site)))


@pytest.fixture
def logins(minio_server: MinioServer) -> Iterator[MinioServer]:
    """The server with all logins of a hub, and an experiment in which every object is there."""
    asyncio.run(prepare(minio_server))
    yield minio_server
    asyncio.run(forget(minio_server))


async def prepare(server: MinioServer) -> None:
    policies = store_policies(SITES, ["researcher-a"])
    assert policies.keys() == SECRETS.keys()
    await apply_logins(
        server.administrator, {name: StoreLogin(SECRETS[name], policy) for name, policy in policies.items()}
    )
    async with opened(server.store()) as store:
        for bucket in (BUCKET, MODELS_BUCKET):
            await store.make_bucket(bucket)
        for key in ALL:
            await store.create(BUCKET, key, b"of the hub")
        await store.create(MODELS_BUCKET, BROUGHT, b"of the hub")


async def forget(server: MinioServer) -> None:
    for name in SECRETS:
        await remove_login(server.administrator, name)


@asynccontextmanager
async def opened(store: S3Store) -> AsyncIterator[S3Store]:
    try:
        yield store
    finally:
        await store.close()


def as_login(server: MinioServer, name: str) -> S3Store:
    return server.store(name, SECRETS[name])


async def allowed(store: S3Store, keys: tuple[str, ...], *, to: str) -> set[str]:
    """Those of the keys with which the store lets this login do it; every other is refused."""
    done = set()
    for key in keys:
        try:
            match to:
                case "read":
                    await store.read(BUCKET, key)
                    await store.head(BUCKET, key)
                case "write":
                    await store.put(BUCKET, key, b"of the login")
                case "delete":
                    await store.delete(BUCKET, key)
        except AccessDeniedError:
            continue
        done.add(key)
    return done


RIGHTS: Mapping[str, tuple[set[str], set[str], set[str]]] = {
    "coordinator": (
        {MANIFEST, ENTRY, FIRST_MODEL, MODEL, RESULT}
        | {key for site in SITES for key in of_site(site) if key != update(site)},
        {MANIFEST, ENTRY, FIRST_MODEL},
        {FIRST_MODEL, MODEL, *map(update, SITES)},
    ),
    "aggregator": (
        {MANIFEST, ENTRY, FIRST_MODEL, MODEL, RESULT, *map(update, SITES)},
        {FIRST_MODEL, MODEL, RESULT},
        set(),
    ),
    "metrics": (
        {MANIFEST, ENTRY, RESULT, FIGURES, *(answer(site, task) for site in SITES for task in Task)},
        {FIGURES},
        set(),
    ),
    "operator": ({key for key in ALL if not key.startswith("updates/")}, set(), set()),
    "researcher-a": ({key for key in ALL if not key.startswith("updates/")}, set(), set()),
    **{site: ({MANIFEST, FIRST_MODEL, MODEL, *of_site(site)}, {*of_site(site)}, set()) for site in SITES},
}


@pytest.mark.parametrize("name", SECRETS)
async def test_a_login_reads_writes_and_deletes_what_it_needs_and_nothing_else(logins: MinioServer, name: str) -> None:
    reads, writes, deletes = RIGHTS[name]
    async with opened(as_login(logins, name)) as store:
        assert await allowed(store, ALL, to="read") == reads
        assert await allowed(store, ALL, to="write") == writes
        assert await allowed(store, ALL, to="delete") == deletes
    async with opened(logins.store()) as root:
        left = {info.key for info in await root.list(BUCKET)}
        assert left == {*ALL} - deletes
        changed = {key for key in left if await root.read(BUCKET, key) != b"of the hub"}
        assert changed == writes - deletes


@pytest.mark.parametrize("site", SITES)
async def test_a_site_lists_nothing_and_makes_no_bucket(logins: MinioServer, site: str) -> None:
    async with opened(as_login(logins, site)) as store:
        for call in (
            store.list(BUCKET),
            store.list(BUCKET, f"updates/r000001/{site}/"),
            store.list(BUCKET, "journal/"),
            store.make_bucket("wr-of-a-site"),
            store.announce(BUCKET, []),
            store.read(MODELS_BUCKET, BROUGHT),
            store.put(MODELS_BUCKET, BROUGHT, b"x"),
            store.buckets(),
        ):
            with pytest.raises(AccessDeniedError, match=site):
                await call


async def test_a_site_is_told_no_more_of_an_absent_object_than_that_it_gets_none(logins: MinioServer) -> None:
    async with opened(as_login(logins, "clinic-1")) as store:
        for key in (str(AnswerKey(2, Task.TRAIN, "clinic-1", 1)), str(GlobalKey(2, SHORT))):
            with pytest.raises((NotFoundError, AccessDeniedError)):
                await store.head(BUCKET, key)
            with pytest.raises((NotFoundError, AccessDeniedError)):
                await store.read(BUCKET, key)


async def test_a_site_creates_its_answer_once(logins: MinioServer) -> None:
    key = str(AnswerKey(2, Task.TRAIN, "clinic-1", 1))
    async with opened(as_login(logins, "clinic-1")) as store:
        assert await create_or_compare(store, BUCKET, key, b"first")
        assert not await create_or_compare(store, BUCKET, key, b"second")
        with pytest.raises(AccessDeniedError):
            await store.create(BUCKET, str(AnswerKey(2, Task.TRAIN, "clinic-2", 1)), b"forged")


async def test_a_large_update_that_is_refused_is_told_as_refused(logins: MinioServer, tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(bytes(64 * 2**20))
    async with opened(as_login(logins, "clinic-1")) as store:
        with pytest.raises(AccessDeniedError, match="clinic-1"):
            await store.put(BUCKET, update("clinic-2"), source)
        await store.put(BUCKET, update("clinic-1"), source)


async def test_an_aggregator_and_the_metrics_tell_an_absent_object_from_one_that_is_not_theirs(
    logins: MinioServer,
) -> None:
    for name, absent in (("aggregator", ResultKey(8)), ("metrics", JournalKey(2)), ("coordinator", ResultKey(8))):
        async with opened(as_login(logins, name)) as store:
            with pytest.raises(NotFoundError):
                await store.head(BUCKET, str(absent))
            with pytest.raises(NotFoundError):
                await store.read(BUCKET, str(absent))
            with pytest.raises(NotFoundError):
                await store.list("wr-absent", "journal/")


async def test_a_researcher_lists_all_but_updates_and_brings_models(logins: MinioServer) -> None:
    async with opened(as_login(logins, "researcher-a")) as store:
        assert BUCKET in await store.buckets()
        for folder in ("journal/", "consent/", "answers/", "answers/r000001/", "global/", "results/", "figures/"):
            assert await store.list(BUCKET, folder)
        for prefix in ("", "updates/", "updates/r000001/"):
            with pytest.raises(AccessDeniedError):
                await store.list(BUCKET, prefix)
        with pytest.raises(NotFoundError):
            await store.read(BUCKET, str(JournalKey(2)))
        await store.make_bucket(MODELS_BUCKET)
        await store.put(MODELS_BUCKET, brought_model_key("b" * 64), b"a model")
        assert await store.read(MODELS_BUCKET, BROUGHT) == b"of the hub"
        for refused in (store.make_bucket("wr-mine"), store.delete(MODELS_BUCKET, BROUGHT)):
            with pytest.raises(AccessDeniedError):
                await refused


async def test_the_coordinator_makes_buckets_has_them_announced_and_proves_the_store(logins: MinioServer) -> None:
    async with opened(as_login(logins, "coordinator")) as store:
        await store.make_bucket("wr-next")
        await store.announce("wr-next", ANNOUNCED)
        await store.create("wr-next", MANIFEST, b"entry")
        with pytest.raises(AlreadyExistsError):
            await store.create("wr-next", MANIFEST, b"another")
        assert await store.buckets() == (BUCKET, MODELS_BUCKET, "wr-next")
        assert await store.read(MODELS_BUCKET, BROUGHT) == b"of the hub"
        await store.prove_create_only()
        assert await store.list("wr-hub") == ()


async def test_a_login_makes_no_further_keys_of_its_own(logins: MinioServer) -> None:
    for name in ("clinic-1", "researcher-a", "coordinator"):
        admin = MinioAdmin(
            endpoint=logins.address.removeprefix("http://"),
            credentials=StaticProvider(name, SECRETS[name]),
            secure=False,
        )
        with pytest.raises(MinioAdminException, match="AccessDenied"):
            admin.add_service_account(access_key="another-key", secret_key="another-secret")


async def test_applying_again_changes_a_secret_and_takes_rights_back(logins: MinioServer) -> None:
    reader = {**store_policies(SITES, [])["metrics"]}
    await apply_logins(logins.administrator, {"clinic-1": StoreLogin("another-secret", reader)})
    await apply_logins(logins.administrator, {"clinic-1": StoreLogin("another-secret", reader)})
    async with opened(as_login(logins, "clinic-1")) as store:
        with pytest.raises(AccessDeniedError, match="wrong secret for the login 'clinic-1'"):
            await store.read(BUCKET, MANIFEST)
    async with opened(logins.store("clinic-1", "another-secret")) as store:
        assert await store.read(BUCKET, ENTRY) == b"of the hub"
        with pytest.raises(AccessDeniedError):
            await store.put(BUCKET, update("clinic-1"), b"x")
    async with opened(as_login(logins, "clinic-2")) as store:
        await store.put(BUCKET, update("clinic-2"), b"x")


async def test_a_removed_login_is_unknown_and_what_it_wrote_stays(logins: MinioServer) -> None:
    await remove_login(logins.administrator, "clinic-2")
    await remove_login(logins.administrator, "clinic-2")
    async with opened(as_login(logins, "clinic-2")) as store:
        with pytest.raises(AccessDeniedError, match="does not know the login 'clinic-2'"):
            await store.read(BUCKET, MODEL)
    async with opened(logins.store()) as root:
        assert await root.read(BUCKET, update("clinic-2")) == b"of the hub"


async def test_an_administrator_who_is_refused_or_a_store_that_is_away_is_told(logins: MinioServer) -> None:
    login = {"clinic-1": StoreLogin("secret-of-clinic-1", store_policies(SITES, [])["clinic-1"])}
    wrong = StoreAdministrator(logins.address, logins.administrator.user, "not the secret")
    with pytest.raises(AccessDeniedError, match="administrator 'test-root'") as caught:
        await apply_logins(wrong, login)
    assert "not the secret" not in str(caught.value)
    assert "not the secret" not in repr(wrong)
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await apply_logins(StoreAdministrator("http://127.0.0.1:1", "root", "not the secret"), login)
    with pytest.raises(StoreError, match="refuses the login 'clinic-1'") as caught:
        await apply_logins(logins.administrator, {"clinic-1": StoreLogin("short", login["clinic-1"].policy)})
    assert "short" not in str(caught.value)
