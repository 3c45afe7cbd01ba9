"""The picture in a terminal and the table at the end, from views made by hand."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from wardround.client.display import final_table, picture
from wardround.metrics.lines import Line
from wardround.metrics.live import Moving
from wardround.metrics.view import ExperimentView, ModelView, SiteView, StepView
from wardround_messages.figures import BestModel
from wardround_messages.names import Task

NOW = datetime(2026, 3, 2, 7, 52, tzinfo=UTC)
LONG = "a-clinic-with-a-long-one"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def site(name: str = "clinic-1", **changes: object) -> SiteView:
    curve = (0.41, 0.52, 0.60, 0.66, 0.69, 0.71)
    view = SiteView(site=name, state="asked", cases=14, curve=curve, seen=ago(2), rounds=6, metrics={"dice/mean": 0.71})
    return replace(view, **changes)  # type: ignore[arg-type]


TRAINING = (
    site("clinic-1", state="answered", seconds=842.0, metric=0.71, loss=0.41, sent=4_800_000),
    site("clinic-2", state="training", progress=0.68, epoch=2, metric=0.74, loss=0.38, seen=ago(1)),
    site("clinic-3", state="queued", late=True, since=ago(1860), curve=(0.4, None, 0.6, 0.7, 0.7), seen=ago(4)),
)


def view(**changes: object) -> ExperimentView:
    whole = ExperimentView(
        experiment="brain-tumour",
        study="glioma",
        requested_by="researcher-a",
        phase="running",
        paused=None,
        reason="",
        broken=None,
        started_at=ago(6720),
        trains_since=ago(6600),
        changed_at=ago(400),
        rounds_done=6,
        rounds_planned=10,
        epochs=4,
        enrolment_ends=None,
        quorum=2,
        metric="dice/mean",
        step=StepView(
            round=7,
            task=Task.TRAIN,
            model=6,
            asked=3,
            answered=1,
            quorum=2,
            grace=600,
            opened_at=ago(1240),
            closed_at=None,
            deadline=NOW + timedelta(minutes=48),
            grace_ends=None,
        ),
        sites=TRAINING,
        model=ModelView(6, "9c41f7e2" + "0" * 56, 4_800_000, ago(1240), 0.72, 2),
        best=BestModel(round=5, metric="dice/mean", value=0.73),
        evaluated={},
        tested={},
        log=(
            Line(ago(1250), "model 6 · 9c41f7e2 · merged 14.4 MB in 0.2 s"),
            Line(ago(407), "clinic-1 answered: update 51d0c8aa, 4.8 MB"),
        ),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


FAILING = view(
    paused="quorum_deadline",
    reason="1 of 2 sites done in round 7",
    sites=(
        site("clinic-1", state="failed", detail="disk_full", attempt=3),
        site("clinic-2", state="refused", detail="policy"),
        site(LONG, state="withdrawn", detail="no longer " * 30, curve=(), cases=None, seen=None),
        site("clinic-4", state="set_aside", detail="missed_three_steps"),
        site("clinic-5", state="not_asked"),
        site("clinic-6", state="declined", detail="no rule allows the study"),
    ),
    log=(Line(ago(10), "clinic-1 failed: " + "x" * 300),),
)
ENROLLING = view(
    phase="enrolling",
    rounds_done=0,
    step=None,
    model=None,
    best=None,
    trains_since=None,
    metric=None,
    enrolment_ends=NOW + timedelta(days=13),
    sites=(
        site("clinic-1", state="granted", curve=(), cases=None),
        site("clinic-2", state="pending", detail="ethics board", curve=(), cases=None),
        site("clinic-3", state="offered", curve=(), cases=None, seen=None),
    ),
)
FINISHED = view(
    phase="finished",
    rounds_done=10,
    sites=tuple(site(f"clinic-{n}", state="done", rounds=10) for n in (1, 2, 3)),
    evaluated={"dice/mean": 0.81, "loss": 0.3, "dice/whole": None},
    tested={"dice/mean": 0.80, "loss": 0.31},
)
VIEWS: Mapping[str, ExperimentView] = {
    "training": view(),
    "failing": FAILING,
    "enrolling": ENROLLING,
    "finished": FINISHED,
    "broken": view(broken="journal entry 12 of 'brain-tumour' is broken: its content does not match its digest"),
    "diverged": view(sites=(site(loss=1e30, metric=None), site("clinic-2", state="training", progress=0.0))),
}


def rendered(shown: RenderableType, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False).print(shown)
    return out.getvalue()


def at_width(shown: ExperimentView, width: int, **options: object) -> str:
    return rendered(picture(shown, now=NOW, width=width, **options), width)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_wraps_and_every_clinic_has_one_line(name: str, width: int) -> None:
    shown = VIEWS[name]
    lines = at_width(shown, width, where="hub.example.org · live", hint="Ctrl-C leaves").splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for known in shown.sites:
        assert sum(line.startswith(f" {known.site[:11]}") for line in lines) == 1


def test_a_wide_picture_shows_a_round_at_work() -> None:
    text = at_width(view(), 120, where="hub.example.org · live")
    for expected in (
        " brain-tumour · glioma · training",
        "6 of 10   1 h 52 m gone   about 45 m left",
        "Round 7 closes 08:40 at the latest · quorum 2 of 3: 1 answered · 1 more closes it after 10 m grace",
        "dice/mean of model 6",
        "✔ answered in 14 m 02 s",
        "● training  epoch 3/4 ━━━━━━━───  68 %",
        "! late: queued 31m",
        "4.8M",
        "Model 6 · 9c41f7e2 · dice/mean 0.720 (best 0.730, model 5) · mean over 2 of 3 clinics",
        "07:45:13  clinic-1 answered: update 51d0c8aa, 4.8 MB",
    ):
        assert expected in text


def test_a_narrow_picture_still_says_what_each_clinic_does() -> None:
    text = at_width(view(), 80)
    for expected in ("✔ answered in 14 m 02 s", "● training  epoch 3/4  68 %", "! late: queued 31m", "▁▄▅▇██", "4.8M"):
        assert expected in text


MOVING = view(
    sites=(
        site("clinic-1", state="fetching", moving=Moving(504_000_000, 1_200_000_000, 2_000_000, ago(4))),
        site("clinic-2", state="submitting", moving=Moving(0, 1_200_000_000, None, ago(4))),
        site("clinic-3", state="fetching", moving=Moving(504_000_000, 1_200_000_000, 2_000_000, ago(400))),
    )
)


def test_a_model_and_an_update_on_their_way_tell_how_far_they_are() -> None:
    lines = at_width(MOVING, 120).splitlines()
    for clinic, expected in (
        ("clinic-1", "● fetching the model  42 % of 1.2 GB, 5 m 48 s left"),
        ("clinic-2", "● sending the update  0 % of 1.2 GB"),
        ("clinic-3", "● fetching the model  42 % of 1.2 GB   "),  # said too long ago to tell when it ends
    ):
        assert any(clinic in line and expected in line for line in lines)
    assert "● fetching the model  42 % " in at_width(MOVING, 80)


def test_a_pause_says_why_and_what_each_clinic_said() -> None:
    text = at_width(FAILING, 120)
    for expected in (
        "Paused (quorum deadline) · 1 of 2 sites done in round 7",
        "✖ failed: disk full (attempt 3)",
        "✖ refused: policy",
        "set aside: missed three steps",
        "✖ declined: no rule allows the study",
    ):
        assert expected in text


def test_a_clinic_set_aside_comes_with_the_command_that_asks_it_again() -> None:
    aside = site("clinic-4", state="set_aside", detail="unanswered, unanswered, disk_full")
    text = at_width(view(sites=(aside,)), 120)
    assert "set aside: unanswered, unanswered, disk full" in text
    assert "To ask it again: wardround readmit brain-tumour clinic-4 · there again: clinic-4" in text
    away = at_width(view(sites=(replace(aside, seen=ago(3600)),)), 120)
    assert "clinic-4 · there again" not in away
    assert "readmit" not in at_width(view(sites=(aside,), phase="finished"), 120)


def test_a_clinic_whose_task_waits_for_a_slot_says_how_many_come_first() -> None:
    waits = site(state="queued", since=ago(720), detail="waits for a free slot, 2 before it")
    assert "queued 12m: waits for a free slot, 2 before it" in at_width(view(sites=(waits,)), 120)


def test_enrolment_shows_who_granted_and_until_when() -> None:
    text = at_width(ENROLLING, 120)
    assert "Enrolment ends 15 Mar 07:52 at the latest · 1 of 3 clinics granted, quorum 2" in text
    assert "○ a person decides: ethics board" in text


def test_a_quorum_that_is_reached_and_a_round_that_closed_say_so() -> None:
    step = view().step
    assert step is not None
    reached = replace(step, answered=2, grace_ends=NOW + timedelta(minutes=3))
    text = at_width(view(step=reached), 120)
    assert "Round 7 closes 07:55 at the latest · quorum 2 of 3 reached: 2 answered" in text
    closed = replace(step, answered=3, closed_at=ago(60), deadline=None)
    text = at_width(view(step=closed), 120)
    assert "brain-tumour · glioma · merging" in text
    assert "Round 7 closed 07:51 · 3 of 3 counted" in text


def test_a_model_not_measured_yet_stands_beside_the_best() -> None:
    model = view().model
    assert model is not None
    text = at_width(view(model=replace(model, value=None, measured_by=0)), 120)
    assert "Model 6 · 9c41f7e2 · best dice/mean 0.730, model 5" in text


def test_times_are_shown_in_the_zone_of_now() -> None:
    now = NOW.astimezone(tz=timezone(timedelta(hours=2)))
    assert "closes 10:40" in rendered(picture(view(), now=now, width=120), 120)


def test_many_clinics_are_summed_up() -> None:
    many = view(sites=tuple(site(f"clinic-{n:03d}", state="answered" if n % 2 else "training") for n in range(100)))
    text = at_width(many, 120, rows=10)
    assert len(text.splitlines()) < 30
    assert "and 90 more clinics · 45 training, 45 answered" in text


def test_text_from_a_clinic_is_shown_as_it_is_and_not_as_markup() -> None:
    hostile = view(sites=(site(state="refused", detail="[red]no[/red]"),), log=(Line(NOW, "[bold]x[/bold]"),))
    text = at_width(hostile, 120)
    assert "[red]no[/red]" in text
    assert "[bold]x[/bold]" in text


def test_the_final_table_puts_the_metrics_beside_those_of_pooled_data() -> None:
    text = rendered(final_table(FINISHED, {"dice/mean": 0.805, "loss": 0.30}), 80)
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["dice/mean"])
    assert row == ["dice/mean", "0.8100", "0.8000", "0.8050", "-0.0050"]
    assert "9c41f7e2" + "0" * 56 in text
    assert ["clinic-1", "14", "10", "of", "10", "0.7100"] in [line.split() for line in text.splitlines()]


def test_the_final_table_without_common_test_or_pooled_data_shows_what_there_is() -> None:
    text = rendered(final_table(replace(FINISHED, tested={}), None), 80)
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["dice/mean"])
    assert row == ["dice/mean", "0.8100"]
    assert "pooled" not in text


def test_the_final_table_of_a_run_that_never_began_is_empty_of_figures() -> None:
    text = rendered(final_table(ENROLLING, None), 80)
    assert "clinic-3" in text
    assert "Model" not in text
