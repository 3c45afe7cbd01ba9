"""Digests of files, objects written once, strict objects."""

import hashlib
from pathlib import Path

import pytest

from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.transfer import create_or_compare, file_digest, read_model
from wardround_messages.base import Model
from wardround_messages.codec import MalformedError

BUCKET = "wr-brain-tumour"
KEY = "answers/r000001/train/clinic-1/a01.json"


class Note(Model):
    text: str


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    await made.make_bucket(BUCKET)
    return made


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_size_and_digest_of_a_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    assert file_digest(tmp_path / "file") == (size, hashlib.sha256(bytes(size)).hexdigest())


@pytest.mark.parametrize("kind", ["memory", "folder"])
async def test_a_second_writer_of_the_same_content_succeeds_and_of_other_content_learns_it(
    kind: str, tmp_path: Path
) -> None:
    store = MemoryStore() if kind == "memory" else FolderStore(tmp_path)
    await store.make_bucket(BUCKET)
    assert await create_or_compare(store, BUCKET, KEY, b"answer")
    assert await create_or_compare(store, BUCKET, KEY, b"answer")
    for other in (b"other", b"answe", b"answer!", b""):
        assert not await create_or_compare(store, BUCKET, KEY, other)
    assert await store.read(BUCKET, KEY) == b"answer"


async def test_a_model_is_read_up_to_its_bound(store: MemoryStore) -> None:
    body = b'{"text":"seen"}'
    await store.create(BUCKET, KEY, body)
    assert await read_model(store, BUCKET, KEY, Note, at_most=len(body)) == Note(text="seen")
    with pytest.raises(MalformedError, match="too_large"):
        await read_model(store, BUCKET, KEY, Note, at_most=len(body) - 1)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b'{"text":', "not_json"),
        (b'{"text":"a","text":"b"}', "duplicate_key"),
        (b'{"text":"a","more":1}', "invalid"),
        (b"\x80\x04K\x01.", "not_utf8"),
    ],
)
async def test_an_object_that_is_not_what_it_should_be_is_malformed(store: MemoryStore, body: bytes, code: str) -> None:
    await store.create(BUCKET, KEY, body)
    with pytest.raises(MalformedError) as caught:
        await read_model(store, BUCKET, KEY, Note, at_most=1000)
    assert caught.value.code == code
