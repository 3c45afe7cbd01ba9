"""Whatever sites, clocks and researchers do in whatever order, the journal stays legal and nothing is lost in it."""

from functools import reduce
from typing import Any

from course import Course, manifest_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wardround.coordinator.decide import next_moment
from wardround.coordinator.due import due
from wardround.coordinator.evolve import evolve
from wardround.coordinator.state import State
from wardround_messages import journal as facts
from wardround_messages.commands import (
    AbortExperiment,
    ExtendExperiment,
    PauseExperiment,
    ReadmitSite,
    ResumeExperiment,
)
from wardround_messages.manifest import CommonTest, Evaluation
from wardround_messages.names import AnswerKey, Task
from wardround_messages.parts import UNANSWERED, Measured

SITES = ("clinic-1", "clinic-2", "clinic-3", "clinic-4")
NAME = "glioma-1"


class AnyCourse(RuleBasedStateMachine):
    course: Course

    @initialize(
        quorum=st.sampled_from(["all", "50%", 1, 2]),
        sample=st.sampled_from(["all", 2]),
        on_missed=st.sampled_from(["pause", "pause", "fail"]),
        grace=st.sampled_from([0, 600, 10**6]),
        test=st.booleans(),
    )
    def start(self, quorum: Any, sample: Any, on_missed: str, grace: int, test: bool) -> None:
        self.orders = 0
        evaluation = Evaluation(final=True, test=CommonTest(site="clinic-2", dataset="counting-test") if test else None)
        rounds = {"on_missed": on_missed, "grace": grace, "deadline": 3600}
        self.course = Course(
            manifest_of(sites=4, quorum=quorum, sample=sample, count=3, rounds=rounds, evaluation=evaluation)
        )

    @rule(site=st.sampled_from(SITES), verdict=st.sampled_from(["granted"] * 6 + ["declined", "pending", "withdrawn"]))
    def consent(self, site: str, verdict: str) -> None:
        if self.course.known.sites[site].consent < 90:
            self.course.consent(site, verdict)

    @precondition(lambda self: self.course.asked())
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["done"] * 6 + ["failed", "refused", "cancelled"]),
        loss=st.sampled_from([0.5, 1e308, -1e308, None]),
        cases=st.sampled_from([None, 1, 2**53]),
    )
    def answer(self, data: st.DataObject, outcome: str, loss: float | None, cases: int | None) -> None:
        task = data.draw(st.sampled_from(self.course.asked()))
        if AnswerKey(task.round, task.task, task.site, task.attempt) not in self.course.answers:
            received = Measured(cases=cases, values={"loss": loss}) if outcome == "done" else None
            self.course.answer(task.site, outcome, attempt=task.attempt, received=received)

    @precondition(lambda self: self.course.asked())
    @rule()
    def everybody_answers(self) -> None:
        self.course.all_done()

    @precondition(lambda self: self.course.known.models)
    @rule(
        site=st.sampled_from((*SITES, "clinic-9")),
        attempt=st.integers(1, 4),
        round_=st.integers(1, 4),
        task=st.sampled_from([Task.TRAIN, Task.EVALUATE]),
    )
    def an_answer_nobody_waits_for(self, site: str, attempt: int, round_: int, task: Task) -> None:
        latest = self.course.known.latest
        if AnswerKey(round_, task, site, attempt) not in self.course.answers and round_ <= latest + (task == "train"):
            self.course.answer(site, attempt=attempt, step=(round_, task))

    @precondition(lambda self: self.course.known.step is not None and self.course.known.step.closing is not None)
    @rule(left_out=st.sets(st.sampled_from(SITES), max_size=2))
    def aggregate(self, left_out: set[str]) -> None:
        self.course.aggregate(left_out=tuple(sorted(left_out)))

    @rule(seconds=st.sampled_from([1, 600, 3600, 15 * 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.course.wait(seconds=seconds)

    @rule(
        order=st.sampled_from(
            [
                PauseExperiment(experiment=NAME),
                ResumeExperiment(experiment=NAME),
                ResumeExperiment(experiment=NAME),
                ExtendExperiment(experiment=NAME, rounds=4),
                ReadmitSite(experiment=NAME, site="clinic-1"),
            ]
        )
    )
    def order(self, order: Any) -> None:
        self.orders += 1
        self.course.order(order, f"order-{self.orders}")

    @precondition(lambda self: self.orders > 8)
    @rule()
    def abort(self) -> None:
        self.course.order(AbortExperiment(experiment=NAME), "abort")

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_more_is_to_be_written(self) -> None:
        assert self.course.settle() == []

    @invariant()
    def every_answer_of_a_step_that_is_over_is_named_in_the_journal(self) -> None:
        named = set()
        for entry in self.course.entries:
            match entry.body:
                case facts.StepClosed() as body:
                    named |= {AnswerKey(body.round, body.task, m.site, m.attempt) for m in body.members}
                    others = [o for o in body.others if o.why != UNANSWERED]
                    named |= {AnswerKey(body.round, body.task, o.site, o.attempt) for o in others}
                case facts.StepOpened() as body:
                    named |= {
                        AnswerKey(body.round, body.task, o.site, o.attempt) for o in body.passed if o.why != UNANSWERED
                    }
                case facts.AnswersLate() as body:
                    named |= {AnswerKey(a.round, a.task, a.site, a.attempt) for a in body.answers}
        step = self.course.known.step
        still_open = {key for key in self.course.answers if step is not None and (key.round, key.task) == step.name}
        if not self.course.known.ended:
            assert set(self.course.answers) - still_open <= named

    @invariant()
    def each_model_is_made_of_a_closed_member_set_with_the_quorum(self) -> None:
        closings = {e.number: e.body for e in self.course.entries if isinstance(e.body, facts.StepClosed)}
        opened: dict[tuple[int, Task], facts.StepOpened] = {}
        for entry in self.course.entries:
            body = entry.body
            if isinstance(body, facts.StepOpened):
                opened[(body.round, body.task)] = body
            elif isinstance(body, facts.ModelAdopted):
                closed = closings[body.closing]  # type: ignore[index]
                step = opened[(closed.round, closed.task)]
                members = [member.site for member in closed.members]
                assert len(set(members)) == len(members)
                assert set(body.used) <= set(members) <= set(step.asked)
                assert len(body.used) >= step.quorum

    @invariant()
    def nobody_is_asked_without_consent_or_twice(self) -> None:
        state = self.course.known
        asked = self.course.asked()
        assert len({task.id for task in asked}) == len(asked)
        for task in asked:
            assert not state.ended
            assert state.paused is None
            answered = AnswerKey(task.round, task.task, task.site, task.attempt) in self.course.answers
            assert not answered

    @invariant()
    def it_waits_for_somebody_or_for_a_time_or_a_person(self) -> None:
        """Promise P1: an experiment that has not ended stands paused, or something will move it on."""
        state = self.course.known
        if not state.ended and state.paused is None:
            assert next_moment(state, self.course.now) is not None or state.step is not None
            if state.step is not None:
                assert due(state, self.course.answers)

    def teardown(self) -> None:
        """The journal replays to the same state, entry by entry."""
        if hasattr(self, "course"):
            replayed: State | None = reduce(evolve, self.course.entries, None)  # type: ignore[arg-type]
            assert replayed == self.course.state


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
