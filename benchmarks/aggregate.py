"""How much memory the aggregator takes, and how fast it merges.

    python benchmarks/aggregate.py            # 2, 8, 32 updates of 64 MB, 2 and 8 of 512 MB: up to 7 GB of disk
    python benchmarks/aggregate.py --quick    # those of 64 MB only

Each case is a step of an experiment in a `FolderStore`, aggregated as the service does it, in a process of its own:
the journal is read, the updates are merged and checked, model and result are stored. Beside it stands the speed of
merely reading the same files, updates and model built on, through the store and hashing them one after the other. MB
are 10^6 bytes; MB/s count these files. Each figure is the best of three runs, taken in turns, with nothing left to be
written to the disk when a run begins. Files lie in the page cache: it is not the disk that is measured.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from wardround.aggregator.app import SLICE_SIZE
from wardround.aggregator.handlers import Aggregation
from wardround.aggregator.layout import Layout, layout_of
from wardround.runtime.journal import ENTRY_AT_MOST, Journal
from wardround.runtime.safetensors_header import Tensor
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.transfer import read_model
from wardround_messages.commands import AggregateStep
from wardround_messages.journal import ExperimentAccepted, JournalEntry, StepClosed, StepOpened
from wardround_messages.manifest import Cohort, Manifest, Rounds, Training
from wardround_messages.names import (
    GLOBAL_PREFIX,
    RESULTS_PREFIX,
    GlobalKey,
    JournalKey,
    ResultKey,
    Task,
    UpdateKey,
    bucket_of,
)
from wardround_messages.objects import RESULT_AT_MOST, Result
from wardround_messages.parts import Member, ObjectRef

MB = 10**6
CASES = ((2, 64), (8, 64), (32, 64), (2, 512), (8, 512))
EXPERIMENT = "benchmark"
OPENING, CLOSING = 1, 2
RUNS = 3
LAYER = 1024 * 1024  # float32 elements
GROWTH_AT_MOST, PEAK_AT_MOST, RATIO_AT_LEAST = 20, 200, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the cases of 64 MB")
    parser.add_argument("--dir", type=Path, help="where to put the updates; a temporary folder by default")
    parser.add_argument("--durable", action="store_true", help="have the disk confirm what is stored")
    parser.add_argument("--slice", type=int, default=SLICE_SIZE, help="slice size in bytes")
    parser.add_argument("--child", choices=("aggregate", "read"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        compare(CASES[:3] if options.quick else CASES, options)
        return
    store = FolderStore(options.dir / "store", durable=options.durable)
    work = aggregate if options.child == "aggregate" else read_and_hash
    seconds = asyncio.run(work(store, options.dir, options.slice))
    print(json.dumps({"seconds": seconds, "peak_mb": peak_rss() / MB}))


def compare(cases: tuple[tuple[int, int], ...], options: argparse.Namespace) -> None:
    peaks, ratios = [], []
    print("updates    each   peak RSS       merge   read+hash   ratio")
    for members, megabytes in cases:
        with tempfile.TemporaryDirectory(prefix="wardround-", dir=options.dir) as folder:
            asyncio.run(prepare(Path(folder), members, megabytes * MB))
            runs = [[in_child(work, folder, options) for work in ("read", "aggregate")] for _ in range(RUNS)]
        read, merge = (min(run["seconds"] for run in work) for work in zip(*runs, strict=True))
        total = (members + 1) * megabytes
        peaks.append(max(merged["peak_mb"] for _, merged in runs))
        ratios.append(read / merge)
        speeds = f"{total / merge:6.0f} MB/s {total / read:6.0f} MB/s"
        print(f"{members:7} {megabytes:4} MB {peaks[-1]:7.1f} MB {speeds} {ratios[-1]:7.2f}", flush=True)
    print(f"peak RSS    {max(peaks):6.1f} MB, {PEAK_AT_MOST} MB at most")
    print(f"its growth  {max(peaks) - min(peaks):6.1f} MB, {GROWTH_AT_MOST} MB at most")
    print(f"least ratio {min(ratios):6.2f}, {RATIO_AT_LEAST} at least")


def in_child(work: str, folder: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", work, "--dir", folder, "--slice", str(options.slice)]
    command += ["--durable"] if options.durable else []
    os.sync()
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    result: dict[str, float] = json.loads(lines[-1])  # those before it are the log
    return result


async def aggregate(store: FolderStore, folder: Path, slice_size: int) -> float:
    """Seconds from the command to the stored result."""
    closing = await read_entry(store, CLOSING)
    command = AggregateStep(
        experiment=EXPERIMENT, round=1, task=Task.TRAIN, closing=CLOSING, closing_sha256=closing.sha256
    )
    for prefix in (RESULTS_PREFIX, f"{GLOBAL_PREFIX}r000001/"):
        for earlier in await store.list(bucket_of(EXPERIMENT), prefix):
            await store.delete(bucket_of(EXPERIMENT), earlier.key)
    begin = time.perf_counter()
    await Aggregation(store, workdir=folder, slice_size=slice_size).aggregate(command)
    seconds = time.perf_counter() - begin
    key = str(ResultKey(CLOSING))
    result = await read_model(store, bucket_of(EXPERIMENT), key, Result, at_most=RESULT_AT_MOST)
    if result.model is None or result.left_out:
        raise SystemExit(f"not every update was merged: {result.left_out}")
    return seconds


async def read_and_hash(store: FolderStore, folder: Path, slice_size: int) -> float:
    """Seconds to read each model once, slice by slice, and to take its SHA-256."""
    opened, closed = (await read_entry(store, OPENING)).body, (await read_entry(store, CLOSING)).body
    assert isinstance(opened, StepOpened)
    assert isinstance(closed, StepClosed)
    begin = time.perf_counter()
    for ref in (opened.built_on, *(member.update for member in closed.members)):
        assert ref is not None
        hasher = hashlib.sha256()
        for offset in range(0, ref.size, slice_size):
            hasher.update(await store.read(bucket_of(EXPERIMENT), ref.key, offset=offset, length=slice_size))
        if hasher.hexdigest() != ref.sha256:
            raise SystemExit(f"{ref.key} is not what was written")
    return time.perf_counter() - begin


async def read_entry(store: FolderStore, number: int) -> JournalEntry:
    key = str(JournalKey(number))
    return await read_model(store, bucket_of(EXPERIMENT), key, JournalEntry, at_most=ENTRY_AT_MOST)


def peak_rss() -> int:
    """Bytes. `ru_maxrss` would begin with what the parent had."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def prepare(folder: Path, members: int, size: int) -> None:
    """The journal of a step whose members each have an update of some `size` bytes."""
    store = FolderStore(folder / "store", durable=False)
    await store.make_bucket(bucket_of(EXPERIMENT))
    bucket = folder / "store" / bucket_of(EXPERIMENT)
    models = Models(size)
    sites = tuple(f"clinic-{number:02d}" for number in range(members))
    base = models.write(bucket, 0, "")
    updates = [models.write(bucket, number, site) for number, site in enumerate(sites, start=1)]
    manifest = Manifest(
        id=EXPERIMENT,
        study="benchmark",
        purpose="Measured, not trained",
        cohort=Cohort(sites=sites),
        rounds=Rounds(count=1),
        training=Training(trainer="adding", dataset="counting"),
    )
    journal = Journal(store, EXPERIMENT, writer="benchmark", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    counted = tuple(
        Member(site=site, attempt=1, answer_sha256="0" * 64, cases=10 + number, update=update)
        for number, (site, update) in enumerate(zip(sites, updates, strict=True))
    )
    facts = (
        ExperimentAccepted(manifest=manifest, manifest_sha256=manifest.sha256, requested_by="researcher-a"),
        StepOpened(round=1, task=Task.TRAIN, asked=sites, quorum=members, built_on=base),
        StepClosed(round=1, task=Task.TRAIN, why="complete", quorum_met=True, members=counted, others=()),
    )
    for fact in facts:
        await journal.append(journal.draft(fact))


class Models:
    """Writes models of equal layout, layers of 4 MiB in float32, straight to where the store keeps them."""

    def __init__(self, size: int) -> None:
        generator = np.random.default_rng(7)
        self._layers = [generator.standard_normal(LAYER, dtype=np.float32) for _ in range(8)]
        self._layout = _layers_of(size // 4)

    def write(self, bucket: Path, number: int, site: str) -> ObjectRef:
        """The global model of round 0, or the update of a site in round 1."""
        unfinished = bucket / "unfinished"
        hasher = hashlib.sha256(self._layout.header)
        with unfinished.open("wb") as file:
            file.write(self._layout.header)
            for index, tensor in enumerate(self._layout.tensors):
                layer = self._layers[(index + number) % len(self._layers)]
                layer[0] = number
                data = layer.view(np.uint8)[: tensor.end - tensor.begin].tobytes()
                hasher.update(data)
                file.write(data)
        sha256 = hasher.hexdigest()
        key = str(UpdateKey(1, site, sha256[:16]) if site else GlobalKey(0, sha256[:16]))
        path = bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return ObjectRef(key=key, size=unfinished.rename(path).stat().st_size, sha256=sha256)


def _layers_of(elements: int) -> Layout:
    counts = [min(LAYER, elements - begin) for begin in range(0, elements, LAYER)]
    return layout_of(
        Tensor(f"layer{index:04d}.weight", "F32", (count,), 0, 4 * count) for index, count in enumerate(counts)
    )


if __name__ == "__main__":
    main()
