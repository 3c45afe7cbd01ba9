"""What a report says: a pure function of the runs that were read. How it looks is the page's affair."""

from dataclasses import dataclass
from datetime import datetime

from wardround.client.report import costs, curves, results, taking_part
from wardround.client.report.chart_kinds import BarChart, Chart, GridChart, LineChart
from wardround.client.report.experiment_toml import again_text, experiment_toml
from wardround.client.report.in_short import Tile, in_short, tiles
from wardround.client.report.material import Material, RunRead, Synthetic
from wardround.client.report.results import ResultTable, SeedTable
from wardround.client.report.taking_part import Absence, Share
from wardround.client.report.words import count_text, time_text
from wardround.metrics.lines import origin_text
from wardround_messages.parts import ObjectRef, Trainer


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """A line in the list of models; `value` is the main metric as it was measured at the clinics."""

    round: int
    ref: ObjectRef
    adopted_at: datetime
    used: int
    drift: float | None
    value: float | None
    best: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page, in its order."""

    experiment: str
    study: str
    purpose: str
    state: str
    ended: bool
    synthetic: Synthetic | None
    tiles: tuple[Tile, ...]
    in_short: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    setting: str
    common_test: ResultTable | None
    test_resolution: str
    at_the_clinics: ResultTable | None
    seeds: SeedTable | None
    received: tuple[LineChart, ...]
    received_on: str
    trained: tuple[LineChart, ...]
    taking_part: GridChart | None
    shares: tuple[Share, ...]
    absences: tuple[Absence, ...]
    times: tuple[BarChart, ...]
    task_times: costs.TaskTimes | None
    experiment_file: str
    experiment_again: str
    manifest_sha256: str
    models: tuple[GlobalModel, ...]
    metric: str | None
    head_number: int
    head_sha256: str
    trainers: tuple[tuple[Trainer, tuple[str, ...]], ...]

    @property
    def outcomes_found(self) -> frozenset[str]:
        return frozenset(outcome for share in self.shares for outcome in share.counts)

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All charts, in the order of the page."""
        grid = () if self.taking_part is None else (self.taking_part,)
        return (*self.received, *self.trained, *grid, *self.times)


def report_of(material: Material) -> Report:
    run = material.main.run
    history = run.history
    test = results.tested(run)
    times = (costs.round_time_chart(run), costs.task_time_chart(run), costs.sent_chart(run))
    return Report(
        experiment=history.manifest.id,
        study=history.manifest.study,
        purpose=history.manifest.purpose,
        state="paused" if history.paused is not None else history.phase,
        ended=history.ended,
        synthetic=material.synthetic,
        tiles=tiles(material),
        in_short=in_short(material),
        settings=tuple(_settings(run)),
        setting=setting_of(run),
        common_test=results.common_test(material),
        test_resolution="" if test is None else results.resolution(test.cases),
        at_the_clinics=results.at_the_clinics(material),
        seeds=results.by_seed(material),
        received=curves.received_charts(material),
        received_on=curves.measured_on(material.main),
        trained=(*curves.trained_charts(material), *curves.moved_charts(run)),
        taking_part=taking_part.participation(run),
        shares=taking_part.shares(run),
        absences=taking_part.absences(run),
        times=tuple(chart for chart in times if chart is not None),
        task_times=costs.task_time_table(run),
        experiment_file=experiment_toml(history.manifest),
        experiment_again=again_text(history.manifest),
        manifest_sha256=history.manifest.sha256,
        models=_models(run),
        metric=results.main_metric(run),
        head_number=run.head.number,
        head_sha256=run.head.sha256,
        trainers=tuple(
            (trainer, tuple(sorted(sites)))
            for trainer, sites in sorted(run.trainers.items(), key=lambda each: (each[0].name, each[0].code_sha256))
        ),
    )


# --- the experiment ----------------------------------------------------------------------------------------------


def _settings(run: RunRead) -> list[tuple[str, str]]:
    history, manifest = run.history, run.history.manifest
    cohort, test, training = manifest.cohort, manifest.evaluation.test, manifest.training
    weights = "weighted by cases" if manifest.strategy.weight == "cases" else "all clinics equal"
    rounds = f"{max(history.latest_model, 0)} of {history.rounds_planned}"
    return [
        ("asked for by", history.requested_by),
        ("started", time_text(history.started_at)),
        ("ended" if history.ended else "last entry", time_text(history.changed_at)),
        ("clinics", f"{len(cohort.sites):,}, quorum {cohort.quorum}, asked in a round: {cohort.sample}"),
        ("first model", origin_text(manifest.model.initial) or "made by a clinic"),
        ("rounds", f"{rounds}, {count_text(training.epochs, 'epoch')} each"),
        ("trainer", training.trainer),
        ("data set", training.dataset),
        ("optimizer state", f"{training.optimizer_state} between rounds"),
        ("merged by", f"{manifest.strategy.name}, {weights}"),
        ("seed", f"{manifest.seed}" + (", deterministic" if training.deterministic else "")),
        ("common test", "none" if test is None else f"{test.dataset} at {test.site}"),
    ]


def _models(run: RunRead) -> tuple[GlobalModel, ...]:
    history = run.history
    last = run.figures.get(max(run.figures, default=0))
    best = None if last is None or last.best is None else last.best.round
    metric = results.main_metric(run)
    values = {} if metric is None else curves.means_by_model(run, metric)
    return tuple(
        GlobalModel(
            number,
            round_.model.fact.model,
            round_.model.at,
            len(round_.model.fact.used),
            figures.model.drift
            if (figures := run.figures.get(number)) is not None and figures.model is not None
            else None,
            values.get(number),
            number == best,
        )
        for number, round_ in sorted(history.rounds.items())
        if round_.model is not None
    )


def setting_of(run: RunRead) -> str:
    """Under what every number stands: `10 rounds of 4 epochs, seed 7`."""
    history = run.history
    rounds, epochs = max(history.latest_model, 0), history.manifest.training.epochs
    return f"{count_text(rounds, 'round')} of {count_text(epochs, 'epoch')}, seed {history.manifest.seed}"
