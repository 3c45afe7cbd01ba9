"""What a report says of runs whose figures are known."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from metrics_story import SITES, manifest
from report_material import TRAINER, Told, compared, course, run_of

from wardround.client.experiment_file import load_experiment
from wardround.client.report import look
from wardround.client.report.charts import draw
from wardround.client.report.costs import round_time_chart, sent_chart, task_time_table
from wardround.client.report.curves import moved_charts, received_charts, trained_charts
from wardround.client.report.experiment_toml import again_text, experiment_toml
from wardround.client.report.facts import report_of
from wardround.client.report.in_short import tiles
from wardround.client.report.material import Compared, Material, RunRead
from wardround.client.report.results import at_the_clinics, by_seed, common_test, resolution, spread
from wardround.client.report.taking_part import Absence, absences, participation, shares
from wardround.client.report.words import difference_text, metric_text, span_text
from wardround.metrics.lines import origin_text
from wardround_messages import journal as facts
from wardround_messages.manifest import Brought, Forked, FromTrainer, ModelPlan, Training
from wardround_messages.names import Task

HOW = {
    (1, "clinic-2"): "late",
    (2, "clinic-2"): "late",
    (2, "clinic-3"): "failed",
    (3, "clinic-1"): "left_out",
    (4, "clinic-3"): "refused",
}


@pytest.fixture(scope="module")
def beside() -> Compared:
    return compared(4)


@pytest.fixture(scope="module")
def hurt() -> RunRead:
    return run_of(course(4, how=HOW))


# --- results ---------------------------------------------------------------------------------------------------------


def test_every_way_to_train_stands_beside_the_federation_with_its_difference(beside: Compared) -> None:
    table = common_test(Material(beside))
    assert table is not None
    assert (table.model, table.cases, table.seeds) == (4, 12, ())
    assert [row.way for row in table.rows] == ["federated", "pooled", *(f"{site} alone" for site in SITES)]
    federated, pooled, *_ = table.rows
    assert federated.differences == {}
    told = Told(manifest(rounds=4)).measure(4, "clinic-1")["dice/mean"]
    assert federated.values["dice/mean"].mean == pytest.approx(told)
    expected = federated.values["dice/mean"].mean - pooled.values["dice/mean"].mean
    assert pooled.differences["dice/mean"].mean == pytest.approx(expected)
    assert (federated.trained_on, pooled.trained_on) == (42, 14)


def test_metrics_come_as_the_trainer_declares_them_with_the_main_one_first(beside: Compared) -> None:
    declared = {"loss": "min", "dice/wt": "max", "dice/tc": "max", "dice/et": "max", "dice/mean": "max"}
    table = common_test(Material(beside, declared=declared))  # type: ignore[arg-type]
    assert table is not None
    assert [metric.name for metric in table.metrics] == ["dice/mean", "dice/wt", "dice/tc", "dice/et", "loss"]
    assert {metric.better for metric in table.metrics[:-1]} == {"max"}
    unknown = common_test(Material(beside))
    assert unknown is not None
    assert {metric.name: metric.better for metric in unknown.metrics}["dice/wt"] is None


def test_over_seeds_there_is_a_mean_a_deviation_and_a_difference_seed_by_seed(beside: Compared) -> None:
    others = {seed: compared(4, seed=seed) for seed in (1, 2)}
    table = common_test(Material(beside, others))
    assert table is not None
    assert table.seeds == (0, 1, 2)
    federated, pooled, *_ = table.rows
    values = [run_of(course(4, seed=seed)).history.rounds[4].steps[Task.TEST] for seed in (0, 1, 2)]
    means = [step.closing.fact.received["dice/mean"] for step in values if step.closing]
    assert federated.values["dice/mean"] == spread([mean for mean in means if mean is not None])
    assert pooled.differences["dice/mean"].seeds == 3
    assert pooled.differences["dice/mean"].sd == pytest.approx(0, abs=1e-9)  # one level apart, whatever the seed
    found = by_seed(Material(beside, others))
    assert found is not None
    assert (found.metric, list(found.rows)) == ("dice/mean", [0, 1, 2])
    assert found.rows[1]["federated"] == means[1]


def test_what_only_a_later_seed_was_held_against_has_its_column(beside: Compared) -> None:
    found = by_seed(Material(replace(beside, pooled=None, alone={}), {1: compared(4, seed=1)}))
    assert found is not None
    assert found.ways == ("federated", "pooled", *(f"{site} alone" for site in SITES))
    assert list(found.rows[0]) == ["federated"]


def test_a_run_that_lies_with_the_seeds_is_not_counted_twice(beside: Compared) -> None:
    assert list(Material(beside, {0: beside, 1: compared(1, seed=1)}).by_seed) == [0, 1]


def test_what_a_reference_did_not_measure_has_no_difference(beside: Compared) -> None:
    half = run_of(course(1, sites=("clinic-1",), ended=False, id="half"))
    table = common_test(Material(replace(beside, pooled=half, alone={})))
    assert table is not None
    assert (table.rows[1].label, table.rows[1].values, table.rows[1].differences) == ("Pooled data", {}, {})


def test_a_way_that_was_not_trained_under_every_seed_says_so(beside: Compared) -> None:
    table = common_test(Material(beside, {1: replace(compared(4, seed=1), pooled=None)}))
    assert table is not None
    assert [row.label for row in table.rows][:3] == ["Federated, 3 clinics", "Pooled data (1 seed)", "clinic-1 alone"]


def test_a_training_that_diverged_beyond_all_numbers_is_reported() -> None:
    class Diverged(Told):
        def measure(self, model: int, site: str) -> dict[str, float | None]:
            return {"dice/mean": 0.1, "loss": 1e300 if model > 1 else 1.0}

    story = Diverged(manifest(rounds=2))
    story.enrol_all()
    for round_ in (1, 2):
        story.train(round_)
    story.end(2)
    report = report_of(Material(Compared(run_of(story), pooled=run_of(story))))
    assert report.common_test is not None
    assert list(report.common_test.rows[0].values) == ["dice/mean"]
    loss = next(chart for chart in report.received if chart.title == "loss")
    assert [number for number, _ in loss.lines[0].points] == [0, 1]


def test_without_a_common_test_the_references_stand_with_the_clinics() -> None:
    evaluation = manifest().evaluation.model_copy(update={"test": None})
    run = run_of(course(2, evaluation=evaluation))
    material = Material(Compared(run, pooled=run))
    assert common_test(material) is None
    table = at_the_clinics(material)
    assert table is not None
    assert [row.label for row in table.rows] == [*SITES, "mean of the clinics", "Pooled data"]
    assert table.rows[-1].differences["loss"].mean == 0


def test_what_few_cases_can_tell_is_computed_from_their_number() -> None:
    said = resolution(12)
    assert said.startswith(
        "With 12 test cases, one alone can move a mean by up to 0.083, and where a region is in fewer"
    )
    assert "at most 0.14, 1/(2√12)" in said
    assert "at most 0.042" in resolution(142)
    assert "was not told" in resolution(None)
    assert "one test case" in resolution(1)


# --- round by round --------------------------------------------------------------------------------------------------


def test_a_curve_stands_where_the_model_was_made_not_where_it_was_measured(beside: Compared) -> None:
    chart = received_charts(Material(beside))[0]
    assert chart.title == "dice/mean"
    lines = {line.label: line for line in chart.lines}
    assert list(lines) == [*SITES, "mean of 3 clinics", "pooled data", "each clinic alone, mean"]
    assert [number for number, _ in lines["clinic-1"].points] == [0, 1, 2, 3, 4]
    told = Told(manifest(rounds=4))
    assert lines["clinic-1"].points[0] == (0, pytest.approx(told.measure(0, "clinic-1")["dice/mean"]))
    assert "from 0.18" in chart.alt


def test_a_round_that_a_site_missed_is_a_gap_in_its_line(hurt: RunRead) -> None:
    chart = received_charts(Material(Compared(hurt)))[0]
    lines = {line.label: dict(line.points) for line in chart.lines}
    assert set(lines["clinic-2"]) == {2, 3, 4}  # it said nothing of models 0 and 1
    assert set(lines["mean of 3 clinics"]) == {0, 1, 2, 3, 4}


def test_a_chart_knows_the_whole_cohort_where_some_have_no_values() -> None:
    sites = tuple(f"clinic-{number}" for number in range(1, 9))
    how = {(number, "clinic-1"): "late" for number in (1, 2)}
    run = run_of(course(2, sites=sites, how=how, ended=False))
    charts = (*received_charts(Material(Compared(run))), *trained_charts(Material(Compared(run))), *moved_charts(run))
    assert {chart.cohort for chart in charts} == {8}
    assert sum(line.kind == "site" for line in charts[0].lines) == 7
    with mpl.rc_context(look.STYLE):
        assert draw(charts[0])


def test_losses_norms_and_drift_have_their_charts(hurt: RunRead) -> None:
    (loss,) = trained_charts(Material(Compared(hurt)))
    assert loss.title == "training loss"
    norms, drift = moved_charts(hurt)
    assert {line.label: line.points for line in norms.lines}["clinic-2"] == ((3, 1.5), (4, 1.5))
    assert drift.lines[0].points == tuple((number, 0.9) for number in range(1, 5))
    assert drift.level == 1


# --- who took part ---------------------------------------------------------------------------------------------------


def test_the_grid_shows_what_became_of_every_site_in_every_step(hurt: RunRead) -> None:
    grid = participation(hurt)
    assert grid is not None
    assert grid.columns == ("1", "2", "3", "4", "final")
    assert grid.cells == (
        ("counted", "counted", "left_out", "counted", "counted"),
        ("late", "late", "counted", "counted", "counted"),
        ("counted", "failed", "counted", "refused", "counted"),
    )
    assert grid.alt == "3 clinics in 5 steps: 10 counted, 1 left out, 2 late, 1 failed and 1 refused"


def test_whatever_did_not_count_is_listed_with_its_reason(hurt: RunRead) -> None:
    assert absences(hurt) == (
        Absence("clinic-2", "rounds 1 to 2", "late", "unanswered"),
        Absence("clinic-3", "round 2", "failed", "out_of_memory in phase train"),
        Absence("clinic-1", "round 3", "left_out", "norm_too_large: its norm is 7.1, at most 5 are allowed"),
        Absence("clinic-3", "round 4", "refused", "policy in phase train"),
    )


def test_a_site_that_declined_is_told_with_its_words() -> None:
    story = Told(manifest())
    story.enrol(("clinic-1", "clinic-2"))
    run = run_of(story)
    share = shares(run)[2]
    assert share.consent == "declined: no rule allows the study"
    assert participation(run) is None


def test_whoever_was_not_asked_owes_no_answer(hurt: RunRead) -> None:
    assert tiles(Material(Compared(hurt)))[2].setting == "granted; of 15 answers asked for, 10 counted"
    story = Told(manifest())
    story.enrol(("clinic-1", "clinic-2"))
    story.open(1, asked=("clinic-1",))
    run = run_of(story)
    assert {outcome for share in shares(run) for outcome in share.counts} >= {"open", "declined"}
    assert [share.due for share in shares(run)] == [0, 0, 0]
    assert "answers" not in tiles(Material(Compared(run)))[0].setting


def test_updates_are_counted_with_their_bytes(hurt: RunRead) -> None:
    assert [(share.site, share.updates, share.sent) for share in shares(hurt)] == [
        ("clinic-1", 5, 24_000_000),  # it also made the first model
        ("clinic-2", 2, 9_600_000),
        ("clinic-3", 2, 9_600_000),
    ]
    chart = sent_chart(hurt)
    assert chart is not None
    assert chart.subtitle == "MB of updates"
    assert {part.label: part.values for part in chart.parts}["clinic-2"] == (0, 0, 4.8, 4.8)


# --- time ------------------------------------------------------------------------------------------------------------


def test_the_time_of_a_round_is_that_of_its_clinics_and_of_its_merging(hurt: RunRead) -> None:
    chart = round_time_chart(hurt)
    assert chart is not None
    assert chart.subtitle.startswith("seconds")
    working, merging = chart.parts
    assert working.values == (60.0, 60.0, 60.0, 60.0)
    assert merging.values == pytest.approx((0.2,) * 4)


def test_seconds_are_told_by_site_task_and_phase_the_longest_first(hurt: RunRead) -> None:
    table = task_time_table(hurt)
    assert table is not None
    assert table.phases == ("train", "received", "data", "save")
    first = table.rows[0]
    assert (first.site, first.task, first.tasks, first.steps) == ("clinic-1", "training", 4, 28)
    assert first.whole == pytest.approx(111.6)
    assert {(row.site, row.task) for row in table.rows} >= {
        ("clinic-1", "common test"),
        ("clinic-3", "final evaluation"),
    }


# --- the whole -------------------------------------------------------------------------------------------------------


def test_a_report_of_a_whole_run_names_what_it_stands_on(beside: Compared) -> None:
    report = report_of(Material(beside))
    run = beside.run
    assert (report.experiment, report.state, report.setting) == (
        "brain-tumour",
        "finished",
        "4 rounds of 4 epochs, seed 0",
    )
    assert report.manifest_sha256 == run.history.manifest.sha256
    assert (report.head_number, report.head_sha256) == (run.head.number, run.head.sha256)
    assert report.trainers == ((TRAINER, SITES),)
    assert [model.round for model in report.models] == [0, 1, 2, 3, 4]
    assert report.models[4].best
    said = " ".join(report.in_short)
    assert "finished after 4 of 4 rounds" in said
    assert "on 12 common test cases" in said
    assert "federated minus pooled: \N{MINUS SIGN}0." in said
    assert report.tiles[0].setting == "model 4 on 12 common test cases"


def test_an_experiment_that_runs_has_a_report() -> None:
    story = course(1, ended=False)
    story.open(2)
    report = report_of(Material(Compared(run_of(story))))
    assert (report.state, report.ended, report.common_test) == ("running", False, None)
    assert report.at_the_clinics is not None
    assert report.taking_part is not None
    assert report.taking_part.cells[0] == ("counted", "open")


def test_an_experiment_that_has_only_been_accepted_has_a_report() -> None:
    report = report_of(Material(Compared(run_of(Told(manifest())))))
    assert report.state == "enrolling"
    assert report.charts == ()
    assert report.in_short[-1] == "No model has been measured yet."


def test_a_check_has_a_report() -> None:
    story = Told(manifest().model_copy(update={"mode": "check"}))
    story.open(1, Task.CHECK)
    grid = report_of(Material(Compared(run_of(story)))).taking_part
    assert grid is not None
    assert (grid.columns, grid.cells[0]) == (("check",), ("open",))


def test_an_experiment_that_failed_says_why() -> None:
    story = course(1, ended=False)
    story.write(facts.ExperimentFailed(code="quorum_missed", reason="1 of 2 answered"))
    report = report_of(Material(Compared(run_of(story))))
    assert report.state == "failed"
    assert report.in_short[0] == "The experiment failed after 1 of 1 round: 1 of 2 answered."


# --- the experiment as a file ----------------------------------------------------------------------------------------


def test_the_file_in_the_report_is_the_same_experiment_again(tmp_path: Path) -> None:
    told = manifest().model_copy(
        update={"training": Training(trainer="t", dataset="d", parameters={"rate": 1e-5, "sizes": (1, 2), "on": True})}
    )
    file = tmp_path / "again.toml"
    file.write_text(experiment_toml(told))
    assert load_experiment(file).sha256 == told.sha256
    assert tomllib.loads(file.read_text())["rounds"]["deadline"] == "100m"


def test_a_fork_is_written_as_a_person_writes_it() -> None:
    forked = Forked(experiment="older", round=7, size=1, sha256="0" * 64)
    told = manifest().model_copy(update={"model": ModelPlan(initial=forked)})
    assert tomllib.loads(experiment_toml(told))["model"]["initial"] == "experiment:older@7"


@pytest.mark.parametrize(
    ("initial", "told"),
    [
        (FromTrainer(), ""),
        (Brought(size=1, sha256="0" * 64), "a model that was brought · 00000000"),
        (Forked(experiment="older", round=7, size=1, sha256="0" * 64), "model 7 of older · 00000000"),
    ],
)
def test_where_the_first_model_comes_from_is_told(initial: FromTrainer | Brought | Forked, told: str) -> None:
    assert origin_text(initial) == told


@pytest.mark.parametrize(
    ("initial", "told"),
    [
        (FromTrainer(), "It starts the same experiment again."),
        (Brought(size=1, sha256="0" * 64), f"once model.initial names the file .* SHA-256 {'0' * 64}"),
        (
            Forked(experiment="older", round=7, size=1, sha256="0" * 64),
            "where the hub still holds older's model of round 7",
        ),
    ],
)
def test_what_the_file_needs_to_start_again_goes_by_the_first_model(
    initial: FromTrainer | Brought | Forked, told: str
) -> None:
    assert re.search(told, again_text(manifest().model_copy(update={"model": ModelPlan(initial=initial)})))


# --- words -----------------------------------------------------------------------------------------------------------


def test_figures_have_no_digit_that_a_few_cases_cannot_fill() -> None:
    assert metric_text(0.98765, 12) == "0.988"
    assert metric_text(0.98765, 142) == "0.9877"
    assert metric_text(None) == "\N{EN DASH}"
    assert metric_text(12345.678) == "1.235e+04"
    assert metric_text(0.00002, 142) == "2.0e-05"
    assert difference_text(-0.0304, 12) == "\N{MINUS SIGN}0.030"
    assert difference_text(-0.00001, 12) == "0.000"
    assert (span_text(0.0412), span_text(62)) == ("41 ms", "1 m 02 s")
