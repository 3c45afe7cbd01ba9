"""Models as they are read: opened with distrust, then slice by slice with the digest checked on the way."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wardround.aggregator.faults import FaultyModelError
from wardround.aggregator.hashing import Hash
from wardround.aggregator.layout import Layout, relative
from wardround.aggregator.slices import Part, Slice
from wardround.runtime.ids import fresh_id
from wardround.runtime.patience import patiently
from wardround.runtime.safetensors_header import WIDTHS, BadTensorsError, Tensor, header_end, read_header
from wardround.runtime.store.blocking import SMALL, run
from wardround.runtime.store.download import download, keep_on
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import DigestMismatchError
from wardround.runtime.together import together
from wardround_messages.parts import ObjectRef

# Most headers are smaller, so one read does.
FIRST_READ = 16 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where models are read from, and the folder for what must be copied first."""

    store: ObjectStore
    bucket: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Opened:
    """A model whose size and header are right. `tensors` are in the order of their bytes, counted from `start`."""

    ref: ObjectRef
    header: bytes
    tensors: tuple[Tensor, ...]

    @property
    def start(self) -> int:
        return len(self.header)

    @property
    def as_it_is(self) -> Layout:
        return Layout(self.header, self.tensors)


class Source(Protocol):
    """A model that can be read in slices of a layout with the same tensors."""

    async def read(self, piece: Slice) -> bytes:
        """As many bytes as the slice has. Raises `FaultyModelError`."""

    def hasher(self) -> Hash | None:
        """A new hash over the header, to be fed with every slice in order; None where the digest is proven already."""


async def open_model(place: Place, ref: ObjectRef) -> Opened:
    """Read the header, and no more than a header may have.

    Raises:
        FaultyModelError: `missing`, `size`, or a code of `read_header`.
    """
    try:
        info, head = await together(
            patiently(lambda: place.store.head(place.bucket, ref.key)),
            _read(place, ref.key, offset=0, length=min(FIRST_READ, ref.size)),
        )
        if info.size != ref.size:
            raise FaultyModelError("size", f"the object has {info.size} bytes where {ref.size} were announced")
        end = header_end(head, ref.size)
        if end > len(head):
            head += await _read(place, ref.key, offset=len(head), length=end - len(head))
        tensors = read_header(head[:end], ref.size)
    except NotFoundError:
        raise FaultyModelError("missing", "the object is not in the store") from None
    except BadTensorsError as error:
        raise FaultyModelError(error.code, error.detail) from None
    return Opened(ref, head[:end], relative(tensors, start=end))


async def source_of(place: Place, opened: Opened, layout: Layout) -> Source:
    """The model, readable in slices of that layout.

    Where its tensors lie in another order, or are others, it is copied to the work folder first: its digest can only
    be taken in the order of its bytes.

    Raises:
        FaultyModelError: `missing`, `size` or `digest`.
    """
    if opened.tensors == layout.tensors:
        return InStore(place, opened.ref, opened.start, hashlib.sha256(opened.header))
    ref, path, passage = opened.ref, place.folder / f"{fresh_id()}.copy", Passage(opened.ref.size)
    try:
        await keep_on(lambda: _copy(place, ref, path, passage), passage, patient=patiently)
    except NotFoundError:
        raise FaultyModelError("missing", "the object is not in the store") from None
    except DigestMismatchError as error:
        raise FaultyModelError("digest", str(error)) from None
    return Copied(path, {tensor.name: opened.start + tensor.begin for tensor in opened.tensors})


@dataclass(frozen=True, slots=True)
class InStore:
    """Read where it lies, by ranges, in the order of its bytes."""

    place: Place
    ref: ObjectRef
    start: int
    header_hash: Hash

    async def read(self, piece: Slice) -> bytes:
        length = piece.end - piece.begin
        try:
            data = await _read(self.place, self.ref.key, offset=self.start + piece.begin, length=length)
        except NotFoundError:
            raise FaultyModelError("missing", "the object went while it was read") from None
        if len(data) != length:
            raise FaultyModelError("size", "the object became shorter while it was read")
        return data

    def hasher(self) -> Hash:
        return self.header_hash.copy()


@dataclass(frozen=True, slots=True)
class Copied:
    """Read from a copy whose digest was right. A tensor that it lacks reads as zeros."""

    path: Path
    begins: dict[str, int]

    async def read(self, piece: Slice) -> bytes:
        return await run(piece.end - piece.begin <= SMALL, self._read, piece)

    def hasher(self) -> None:
        return None

    def _read(self, piece: Slice) -> bytes:
        with self.path.open("rb") as file:
            return b"".join(self._read_part(file.fileno(), part) for part in piece.parts)

    def _read_part(self, file: int, part: Part) -> bytes:
        length = part.elements * WIDTHS[part.tensor.dtype]
        begin = self.begins.get(part.tensor.name)
        return bytes(length) if begin is None else os.pread(file, length, begin + part.begin)


async def _copy(place: Place, ref: ObjectRef, path: Path, passage: Passage) -> None:
    await download(place.store, place.bucket, ref.key, size=ref.size, sha256=ref.sha256, to=path, passage=passage)


async def _read(place: Place, key: str, *, offset: int, length: int) -> bytes:
    return await patiently(lambda: place.store.read(place.bucket, key, offset=offset, length=length))
