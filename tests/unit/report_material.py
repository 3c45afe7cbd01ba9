"""Runs to report on: an experiment told round by round, its like on pooled data and at each site alone, and folders."""

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrics_story import SITES, Story, manifest

from wardround.client.report.material import Compared, RunRead
from wardround.client.report.reading import read_run
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround_messages import journal as facts
from wardround_messages.base import canonical_json
from wardround_messages.manifest import Cohort, CommonTest, Manifest
from wardround_messages.names import AnswerKey, Task
from wardround_messages.objects import Answer
from wardround_messages.parts import LeftOut, Measured, NotCounted, Trainer

TRAINER = Trainer(name="brain-tumour-unet", version="0.1.0", code_sha256="c" * 64)
REGIONS = {"dice/mean": 0.0, "dice/wt": 0.08, "dice/tc": -0.02, "dice/et": -0.06}
How = Mapping[tuple[int, str], str]


class Told(Story):
    """A story in which every site measures four regions and a loss, and where one may be late or fail."""

    def __init__(self, told: Manifest, *, level: float = 0.8) -> None:
        super().__init__(told)
        self.level = level

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.manifest.cohort.sites))

    def measure(self, model: int, site: str) -> dict[str, float | None]:
        nth = self.sites.index(site) if site in self.sites else 0
        shift = 0.03 * math.sin(nth * 2.1 + self.manifest.seed)
        grown = 1 - math.exp(-(model + 1) / 4)
        wave = 0.01 * math.sin(model * 1.7 + nth)
        dice = {name: (self.level + off + shift) * grown + wave for name, off in REGIONS.items()}
        return {**dice, "loss": 1.2 - dice["dice/mean"]}

    def answer(self, round_: int, task: Task, site: str, **options: Any) -> Answer:
        answer = super().answer(round_, task, site, **options)
        if answer.outcome == "done":
            model = round_ - 1 if task is Task.TRAIN else round_
            cases = 12 if task is Task.TEST else 4
            received = Measured(cases=cases, values=self.measure(model, site)) if answer.received else None
            trained = {"loss": 0.9 * math.exp(-round_ / 6)} if answer.trained else {}
            seconds = (
                {"data": 4.2, "received": 11.0, "train": 96.0, "save": 0.4}
                if task is Task.TRAIN
                else {"data": 4.1, "received": 12.5}
            )
            answer = answer.model_copy(
                update={"received": received, "trained": trained, "trainer": TRAINER, "seconds": seconds, "steps": 28}
            )
        else:
            answer = answer.model_copy(update={"trainer": TRAINER})
        self.objects[str(AnswerKey(round_, task, site, answer.attempt))] = canonical_json(answer)
        return answer

    def mean(self, model: int, sites: tuple[str, ...]) -> dict[str, float | None]:
        measured = [self.measure(model, site) for site in sites]
        return {name: sum(each[name] or 0 for each in measured) / len(measured) for name in measured[0]}

    def enrol_all(self) -> None:
        for number, site in enumerate(self.sites, 1):
            self.write(
                facts.SiteConsented(site=site, consent=number, verdict="granted", rounds=10, offer=0, code="allowed")
            )
        self.write(facts.EnrolmentClosed(granted=self.sites, others=()))
        self.open(0, Task.INITIALISE, asked=self.sites[:1], quorum=1)
        self.answer(0, Task.INITIALISE, self.sites[0])
        self.close(0, Task.INITIALISE, members={self.sites[0]: 1})
        self.adopt(0)

    def train(self, round_: int, how: How | None = None) -> None:
        """A round; `how` says who was late, failed, refused or was left out."""
        how = {site: (how or {}).get((round_, site), "counted") for site in self.sites}
        self.open(round_, asked=self.sites, quorum=min(2, len(self.sites)))
        for site, outcome in how.items():
            if outcome in ("counted", "left_out"):
                self.answer(round_, Task.TRAIN, site)
            elif outcome in ("failed", "refused"):
                self.answer(
                    round_, Task.TRAIN, site, outcome=outcome, code="out_of_memory" if outcome == "failed" else "policy"
                )
        others = tuple(
            NotCounted(
                site=site,
                attempt=1,
                why={"late": "unanswered", "failed": "out_of_memory", "refused": "policy"}[outcome],
            )
            for site, outcome in how.items()
            if outcome in ("late", "failed", "refused")
        )
        members = {site: 1 for site, outcome in how.items() if outcome in ("counted", "left_out")}
        self.close(
            round_,
            members=members,
            others=others,
            why="deadline" if "late" in how.values() else "complete",
            received=self.mean(round_ - 1, tuple(members)),
        )
        self.adopt(
            round_,
            left_out=tuple(
                LeftOut(site=site, code="norm_too_large", detail="its norm is 7.1, at most 5 are allowed")
                for site, outcome in how.items()
                if outcome == "left_out"
            ),
        )

    def end(self, round_: int) -> None:
        """The final evaluation, the common test where there is one, and the end."""
        test = self.manifest.evaluation.test
        for task, asked in ((Task.EVALUATE, self.sites), (Task.TEST, () if test is None else (test.site,))):
            if asked:
                self.open(round_, task, asked=asked, quorum=min(2, len(asked)))
                for site in asked:
                    self.answer(round_, task, site)
                self.close(round_, task, members=dict.fromkeys(asked, 1), received=self.mean(round_, asked))
        self.write(facts.ExperimentFinished(round=round_, model=None))

    async def lay_in(self, folder: Path) -> None:
        """As the folder of a run."""
        store = FolderStore(folder / "hub", durable=False)
        await self.lay(store)
        await store.close()
        (folder / "experiment.json").write_bytes(canonical_json(self.manifest))


def course(
    rounds: int = 4,
    *,
    sites: tuple[str, ...] = SITES,
    how: How | None = None,
    level: float = 0.8,
    ended: bool = True,
    **parts: Any,
) -> Told:
    """A whole run of `rounds` rounds."""
    made = manifest(rounds=rounds).model_copy(
        update={
            "cohort": Cohort(sites=sites, quorum=min(2, len(sites))),
            **parts,
        }
    )
    told = Told(made, level=level)
    told.enrol_all()
    for round_ in range(1, rounds + 1):
        told.train(round_, how)
    if ended:
        told.end(rounds)
    return told


def reference(rounds: int, site: str, *, level: float, seed: int = 0) -> Told:
    """The same training at one place."""
    made = manifest()
    test = CommonTest(site=site, dataset="brain-mri-test")
    return course(
        rounds,
        sites=(site,),
        level=level,
        id=f"brain-tumour-{site}",
        seed=seed,
        evaluation=made.evaluation.model_copy(update={"test": test}),
    )


def run_of(story: Story) -> RunRead:
    """As it is read from a store."""

    async def read() -> RunRead:
        store = MemoryStore()
        await story.lay(store)
        return await read_run(store, story.manifest.id)

    return asyncio.run(read())


def compared(rounds: int = 4, *, seed: int = 0, how: How | None = None) -> Compared:
    """A run beside pooled data and each site alone."""
    return Compared(
        run_of(course(rounds, seed=seed, how=how)),
        run_of(reference(rounds, "pooled", level=0.83, seed=seed)),
        {site: run_of(reference(rounds, site, level=0.7 + nth / 50, seed=seed)) for nth, site in enumerate(SITES)},
    )


def lay_compared(folder: Path, rounds: int = 4, *, seed: int = 0, how: How | None = None) -> Path:
    """The same as folders."""

    async def lay() -> None:
        await course(rounds, seed=seed, how=how).lay_in(folder)
        await reference(rounds, "pooled", level=0.83, seed=seed).lay_in(folder / "pooled")
        for nth, site in enumerate(SITES):
            await reference(rounds, site, level=0.7 + nth / 50, seed=seed).lay_in(folder / "alone" / site)

    asyncio.run(lay())
    return folder
