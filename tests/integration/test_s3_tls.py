"""A store behind https: trusted by its certificate, and refusing as it does without."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from servers.minio import MinioServer, Receiver, make_minio, require_minio
from wardround.hub.store_admin import StoreAdministrator, StoreLogin, apply_logins
from wardround.hub.store_policies import site_policy
from wardround.runtime.store.port import AccessDeniedError, StoreError, StoreUnavailableError
from wardround.runtime.store.s3 import S3Store

pytestmark = pytest.mark.slow

BUCKET = "wr-breast-cancer"
MIB = 2**20


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate authority, with a certificate for the server in the folder `certificates`."""
    made = trustme.CA()
    issued = made.issue_cert("127.0.0.1")
    folder = tmp_path / "certificates"
    folder.mkdir()
    issued.private_key_pem.write_to_path(folder / "private.key")
    for part in issued.cert_chain_pems:
        part.write_to_path(folder / "public.crt", append=True)
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def server(authority: Path, tmp_path: Path, webhook: Receiver) -> Iterator[MinioServer]:
    require_minio()
    server = make_minio(tmp_path / "minio", webhook, certificates=authority.with_name("certificates"))
    asyncio.run(server.child.start())
    yield server
    server.child.kill()


async def test_objects_go_over_tls(server: MinioServer, authority: Path, tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(bytes(range(256)) * (16 * MIB // 256))
    store = server.store(ca=authority)
    await store.make_bucket(BUCKET)
    await store.prove_create_only()
    await store.create(BUCKET, "journal/00000000.json", b"entry")
    await store.put(BUCKET, "updates/a", source)
    assert await store.read(BUCKET, "journal/00000000.json") == b"entry"
    assert await store.read(BUCKET, "updates/a") == source.read_bytes()
    assert await store.read(BUCKET, "updates/a", offset=MIB - 2, length=4) == b"\xfe\xff\x00\x01"
    await store.close()


async def test_a_server_that_nobody_vouches_for_is_not_spoken_to(server: MinioServer, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    for ca in (None, tmp_path / "another.pem"):
        store = server.store(ca=ca)
        with pytest.raises(StoreUnavailableError, match="certificate"):
            await store.create(BUCKET, "journal/00000000.json", b"entry")
        await store.close()


async def test_http_at_a_server_with_https_is_told(server: MinioServer) -> None:
    store = S3Store(server.address.replace("https", "http"), access_key="clinic-1", secret_key="the secret")
    with pytest.raises(StoreError, match=r"400|broke"):
        await store.create(BUCKET, "journal/00000000.json", b"entry")
    await store.close()


async def test_a_large_update_that_is_refused_is_told_as_refused(
    server: MinioServer, authority: Path, tmp_path: Path
) -> None:
    source = tmp_path / "update"
    source.write_bytes(bytes(64 * MIB))
    root = server.administrator
    administrator = StoreAdministrator(root.address, root.user, root.secret, authority)
    await apply_logins(administrator, {"clinic-1": StoreLogin("secret-of-clinic-1", site_policy("clinic-1"))})
    store = server.store("clinic-1", "secret-of-clinic-1", ca=authority)
    with pytest.raises(AccessDeniedError, match="clinic-1"):
        await store.put(BUCKET, "updates/r000001/clinic-2/0123456789abcdef.safetensors", source)
    await store.close()


async def test_a_request_that_hangs_is_cut_over_tls_too(server: MinioServer, authority: Path) -> None:
    store = server.store(ca=authority, timeout=30)
    await store.make_bucket(BUCKET)
    server.child.signal(signal.SIGSTOP)
    reading = asyncio.ensure_future(store.read(BUCKET, "journal/00000000.json"))
    await asyncio.sleep(0.3)
    reading.cancel()
    async with asyncio.timeout(3):
        await store.close()


def test_an_authority_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        S3Store("https://store.example.org", access_key="a", secret_key="b", ca=tmp_path / "absent.pem")
