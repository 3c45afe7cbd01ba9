"""Which sites a round asks, and how many of them are its quorum."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from course import Course, manifest_of
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_messages import journal as facts
from wardround_messages.commands import ExtendExperiment, ReadmitSite
from wardround_messages.journal import StepOpened
from wardround_messages.manifest import Cohort, Manifest, share_of
from wardround_messages.names import Task


def trained(manifest: Manifest) -> Course:
    """An experiment in which everybody asked answers, to its end."""
    course = Course(manifest)
    course.enrol()
    while not course.known.ended:
        course.all_done()
    return course


def rounds_of(course: Course) -> list[StepOpened]:
    bodies = [entry.body for entry in course.entries]
    return [body for body in bodies if isinstance(body, StepOpened) and body.task is Task.TRAIN]


def samples(course: Course) -> list[tuple[str, ...]]:
    return [step.asked for step in rounds_of(course)]


def turns(course: Course) -> list[int]:
    """How often each site was asked to train, of the whole cohort."""
    asked = Counter(site for sample in samples(course) for site in sample)
    return [asked[site] for site in course.known.sites]


# --- sampling ----------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_samples_and_another_seed_others() -> None:
    manifest = manifest_of(sites=6, sample=3, count=8)
    other = manifest.model_copy(update={"seed": 8})
    assert samples(trained(manifest)) == samples(trained(manifest))
    assert samples(trained(manifest)) != samples(trained(other))


@settings(max_examples=40, deadline=None)
@given(
    sites=st.integers(2, 9),
    sample=st.sampled_from([1, 2, "1%", "30%", "50%", "99%"]),
    count=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_over_the_rounds_no_site_is_asked_more_than_once_more_than_another(
    sites: int, sample: Any, count: int, seed: int
) -> None:
    manifest = manifest_of(sites=sites, sample=sample, quorum=1, count=count)
    course = trained(manifest.model_copy(update={"seed": seed}))
    assert len(samples(course)) == count
    assert max(turns(course)) - min(turns(course)) <= 1


def test_who_is_asked_together_with_whom_changes() -> None:
    course = trained(manifest_of(sites=4, sample=2, count=30))
    assert set(samples(course)) == set(combinations(course.known.sites, 2))


@pytest.mark.parametrize(
    ("sample", "granted", "asked"),
    [(3, 5, 3), ("60%", 5, 3), ("61%", 5, 4), ("1%", 5, 1), ("all", 5, 5), ("50%", 4, 2)],
)
def test_a_sample_is_a_number_or_a_share_of_the_sites_that_granted(sample: Any, granted: int, asked: int) -> None:
    course = Course(manifest_of(sites=5, sample=sample, quorum=1))
    for number, site in enumerate(course.known.sites):
        course.consent(site, "granted" if number < granted else "declined")
    course.all_done()
    (opened,) = rounds_of(course)
    assert len(opened.asked) == asked


def set_aside(course: Course, *sites: str) -> None:
    for site in sites:
        course.append(facts.SiteSetAside(site=site, code="missed_three_steps"))


def test_sites_set_aside_and_sites_that_withdrew_are_not_drawn() -> None:
    course = Course(manifest_of(sites=5, sample=2, quorum=1, count=12))
    course.to_training()
    course.consent("clinic-5", "withdrawn")
    set_aside(course, "clinic-4")
    while not course.known.ended:
        course.all_done()
    assert all({"clinic-4", "clinic-5"}.isdisjoint(sample) for sample in samples(course)[1:])
    assert {site for sample in samples(course)[1:] for site in sample} == {"clinic-1", "clinic-2", "clinic-3"}


@pytest.mark.parametrize("back", ["readmitted", "consents"])
def test_a_site_that_joins_late_does_not_catch_up_on_rounds_that_were_not_its_own(back: str) -> None:
    course = Course(manifest_of(sites=4, sample=2, quorum=1, count=40))
    course.to_training()
    if back == "readmitted":
        set_aside(course, "clinic-3")
    else:
        course.consent("clinic-3", "withdrawn")
    for _ in range(20):
        course.all_done()
    if back == "readmitted":
        course.order(ReadmitSite(experiment="glioma-1", site="clinic-3"))
    else:
        course.consent("clinic-3")
    before = len(samples(course))
    for _ in range(8):
        course.all_done()
    asked = Counter(site for sample in samples(course)[before:] for site in sample)
    assert asked["clinic-3"] in (4, 5)  # of 8 rounds, as half of the sites are asked


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("sites", "sample"), [(4, 3), (3, 2)])
def test_more_rounds_go_on_with_the_turns_there_were(sites: int, sample: int, seed: int) -> None:
    course = trained(manifest_of(sites=sites, sample=sample, quorum=1, count=1).model_copy(update={"seed": seed}))
    course.order(ExtendExperiment(experiment="glioma-1", rounds=2))
    course.enrol()
    while not course.known.ended:
        course.all_done()
    assert len(samples(course)) == 2
    assert max(turns(course)) - min(turns(course)) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_consent_given_again_between_two_rounds_costs_no_turn(seed: int) -> None:
    course = Course(manifest_of(sites=3, sample=2, quorum=1, count=3).model_copy(update={"seed": seed}))
    course.to_training()
    (left_out,) = set(course.known.sites) - set(samples(course)[0])
    course.consent(left_out, "withdrawn")
    course.consent(left_out)
    course.all_done()
    assert left_out in samples(course)[1]


HAPPENS = ("granted", "withdrawn", "set aside", "readmitted")


@settings(max_examples=40, deadline=None)
@given(
    between=st.lists(st.lists(st.tuples(st.sampled_from(HAPPENS), st.integers(1, 5)), max_size=4), max_size=10),
    seed=st.integers(0, 2**32 - 1),
)
def test_whoever_comes_and_goes_turns_never_differ_by_more_than_one(
    between: list[list[tuple[str, int]]], seed: int
) -> None:
    course = Course(manifest_of(sites=5, sample=2, quorum=1, count=30).model_copy(update={"seed": seed}))
    course.to_training()
    for events in between:
        for happens, number in events:
            site, words = f"clinic-{number}", len(course.entries)
            match happens:
                case "set aside":
                    set_aside(course, site)
                case "readmitted":
                    course.order(ReadmitSite(experiment="glioma-1", site=site), f"word-{words}")
                case verdict:
                    course.consent(site, verdict)
        if course.known.paused is not None or course.known.step is None:  # nobody is left to ask
            return
        course.all_done()
        counted = [site.turns for site in course.known.sites.values()]
        assert max(counted) - min(counted) <= 1


def test_all_sites_evaluate_where_only_some_were_asked_to_train() -> None:
    evaluation = {"evaluation": {"final": True}}
    manifest = Manifest.model_validate(manifest_of(sites=4, sample=2, quorum="75%", count=1).model_dump() | evaluation)
    course = Course(manifest)
    course.enrol()
    course.all_done()
    course.all_done()
    step = course.known.step
    assert step is not None
    assert (step.task, len(step.asked), step.quorum) == (Task.EVALUATE, 4, 3)


# --- quorum ------------------------------------------------------------------------------------------------------


@given(base=st.integers(1, 1000), percent=st.integers(1, 100))
def test_a_percentage_is_the_least_number_that_is_not_less_than_it(base: int, percent: int) -> None:
    share = share_of(f"{percent}%", base)
    assert 100 * share >= percent * base > 100 * (share - 1)
    assert 1 <= share <= base


@pytest.mark.parametrize(
    ("share", "base", "sites"),
    [
        ("66%", 3, 2),
        ("67%", 3, 3),
        ("50%", 2, 1),
        ("51%", 2, 2),
        ("1%", 1000, 10),
        ("100%", 7, 7),
        ("all", 7, 7),
        (2, 9, 2),
    ],
)
def test_shares_at_their_borders(share: Any, base: int, sites: int) -> None:
    assert share_of(share, base) == sites


@pytest.mark.parametrize(
    ("sites", "sample", "quorum", "needed"),
    [(5, 3, "66%", 2), (5, 3, "67%", 3), (5, "60%", "50%", 2), (5, 3, 2, 2), (5, "all", "66%", 4), (5, "20%", 2, 2)],
)
def test_the_quorum_of_a_round_is_a_share_of_its_sample(sites: int, sample: Any, quorum: Any, needed: int) -> None:
    if sample == "20%":  # as small a share of fewer sites than there were; a file that says so is refused
        course = Course(manifest_of(sites=10, sample="20%", quorum=quorum))
        for number, site in enumerate(course.known.sites):
            course.consent(site, "granted" if number < sites else "declined")
        course.all_done()
    else:
        course = Course(manifest_of(sites=sites, sample=sample, quorum=quorum))
        course.to_training()
    (opened,) = rounds_of(course)
    assert opened.quorum == needed
    assert len(opened.asked) >= needed


def test_fewer_sites_than_the_sample_do_not_make_its_quorum_smaller() -> None:
    course = Course(manifest_of(sites=4, sample=3, quorum="66%", count=9))
    course.to_training()
    for site in ("clinic-2", "clinic-3", "clinic-4"):
        course.append(facts.SiteSetAside(site=site, code="missed_three_steps"))
    course.all_done()
    assert course.known.paused == "quorum_out_of_reach"
    paused = course.entries[-1].body
    assert isinstance(paused, facts.ExperimentPaused)
    assert paused.reason.startswith(
        "1 of 4 sites can be asked for round 2, the quorum is 2; set aside until readmitted"
    )


def test_a_cohort_whose_rounds_could_never_meet_the_quorum_is_no_cohort() -> None:
    with pytest.raises(ValueError, match=r"cohort\.quorum is 2, but a round asks 1 sites"):
        Cohort(sites=("a", "b", "c"), sample="20%", quorum=2)
