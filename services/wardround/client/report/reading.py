"""Reading what a report is made of, out of a hub's store or out of the folder of a simulated run."""

import asyncio
from pathlib import Path

from wardround.client.errors import NotThereError, UnusableError, unknown_experiment
from wardround.client.report.material import Compared, RunRead
from wardround.metrics.evolve import evolve
from wardround.metrics.figures import answers_named
from wardround.metrics.history import History
from wardround.metrics.reading import Reader
from wardround.metrics.rebuild import entry_of
from wardround.runtime.clock import wall_clock
from wardround.runtime.journal import READ_AT_ONCE, Journal
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.port import ObjectStore
from wardround.runtime.together import together
from wardround_messages.codec import MalformedError, parse
from wardround_messages.figures import Figures
from wardround_messages.manifest import Manifest
from wardround_messages.names import AnswerKey, bucket_of
from wardround_messages.objects import Answer
from wardround_messages.parts import Trainer

# The folder of a simulated run, as `wardround.simulation` lays it out. Importing it would take all the services.
MANIFEST_FILE = "experiment.json"
HUB = "hub"
POOLED = "pooled"
ALONE = "alone"
SEEDS = "seeds"
MANIFEST_AT_MOST = 2**20

Answers = dict[AnswerKey, Answer]


async def read_run(store: ObjectStore, experiment: str) -> RunRead:
    """All that the store holds of the experiment, but for its weights: these are not touched.

    Raises:
        NotThereError: there is no such experiment; JournalBrokenError, IllegalEntryError: it cannot be believed.
        StoreUnavailableError, AccessDeniedError: from the store.
    """
    stored = await Journal(store, experiment, writer="client", clock=wall_clock).read_on()
    history: History | None = None
    for each in stored:
        history = evolve(history, entry_of(each))
    if history is None:
        raise unknown_experiment(experiment)
    reader, turns = Reader(store), asyncio.Semaphore(READ_AT_ONCE)
    read = await together(*(_round(reader, turns, history, number) for number in sorted(history.rounds)))
    answers = {key: answer for _, found in read for key, answer in found.items()}
    return RunRead(
        history=history,
        figures={figures.round: figures for figures, _ in read},
        head=stored[-1].entry,
        trainers=_trainers(answers),
        failures={key: answer.failure for key, answer in answers.items() if answer.failure is not None},
    )


async def read_folder(folder: Path) -> Compared:
    """The run in a folder with what lies below it: the same training on pooled data, and at each site alone.

    Raises:
        UnusableError: it is no folder of a run, or the run left no journal there; otherwise as `read_run`.
    """
    below = sorted(folder.joinpath(ALONE).glob(f"*/{MANIFEST_FILE}"))
    alone = {file.parent.name: await _if_there(file.parent) for file in below}
    return Compared(
        run=await _run_in(folder),
        pooled=await _if_there(folder / POOLED),
        alone={site: run for site, run in alone.items() if run is not None},
    )


async def read_seeds(folder: Path) -> dict[int, Compared]:
    """The runs of the same experiment with other seeds, by seed; raises as `read_folder`."""
    found = [await read_folder(file.parent) for file in sorted(folder.joinpath(SEEDS).glob(f"*/{MANIFEST_FILE}"))]
    return {compared.run.seed: compared for compared in found}


async def _if_there(folder: Path) -> RunRead | None:
    """The run in a folder, unless there is none or it has not begun."""
    try:
        return await _run_in(folder) if (folder / MANIFEST_FILE).is_file() else None
    except UnusableError:
        return None


async def _run_in(folder: Path) -> RunRead:
    experiment = manifest_in(folder).id
    if not (folder / HUB).is_dir():  # a store would make it
        raise UnusableError(f"{folder} holds no figures: there is no {HUB}/ in it; was it run with --store memory?")
    store = FolderStore(folder / HUB, durable=False)
    try:
        return await read_run(store, experiment)
    except NotThereError:
        raise UnusableError(f"{folder} holds no figures: '{experiment}' has no journal in {HUB}/") from None
    finally:
        await store.close()


def manifest_in(folder: Path) -> Manifest:
    """The manifest that a run's folder was made for; raises `UnusableError`."""
    file = folder / MANIFEST_FILE
    try:
        with file.open("rb") as opened:
            return parse(Manifest, opened.read(MANIFEST_AT_MOST + 1), at_most=MANIFEST_AT_MOST)
    except OSError:
        raise UnusableError(f"{folder} is not the folder of a run: there is no {MANIFEST_FILE} in it") from None
    except MalformedError as error:
        raise UnusableError(f"{file} cannot be used: {error}") from None


async def _round(reader: Reader, turns: asyncio.Semaphore, history: History, number: int) -> tuple[Figures, Answers]:
    """The figures of a round and the answers that they are made of."""
    async with turns:
        figures = await reader.figures(history, number)
        answers: Answers = {}
        for key, sha256 in answers_named(history.rounds[number]).items():
            answer = await reader.answer(bucket_of(history.manifest.id), key, sha256=sha256)  # read just before
            if answer is not None:
                answers[key] = answer
        return figures, answers


def _trainers(answers: Answers) -> dict[Trainer, frozenset[str]]:
    found: dict[Trainer, set[str]] = {}
    for answer in answers.values():
        if answer.trainer is not None:
            found.setdefault(answer.trainer, set()).add(answer.site)
    return {trainer: frozenset(sites) for trainer, sites in found.items()}
