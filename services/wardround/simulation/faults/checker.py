"""The promises of Wardround, held against what a run left behind: each violation names its promise and the evidence.

Pure: the recorded history and the final store are all that is looked at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wardround.simulation.faults.arithmetic import is_same, mean_of, tensors_of
from wardround.simulation.faults.evidence import Evidence, evidence_of
from wardround.simulation.faults.history import SOMEBODY, Part, Written
from wardround.simulation.faults.life import (
    HEALS_IN,
    attended,
    bounded,
    ended,
    is_hub_clock_off,
    noticed,
    persistent,
    unhurried,
    unmoved,
)
from wardround.simulation.faults.plan import TWIN
from wardround.simulation.faults.run import Outcome
from wardround.simulation.faults.work import no_more_than_slots, one_training_at_a_time, said_after_it_was_written
from wardround_messages.journal import ModelAdopted, StepClosed
from wardround_messages.names import AnswerKey, GlobalKey, UpdateKey, parse_key
from wardround_messages.names import Task as TaskKind
from wardround_messages.parts import Member

SEEN_TO_BE_DONE = frozenset({"superseded", "not_asked"})  # why a sound answer was not counted
WRITTEN_ONCE = ("journal/", "answers/", "consent/", "results/")


@dataclass(frozen=True, slots=True)
class Violation:
    promise: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.evidence}"


Check = Callable[[Evidence], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Promise:
    """`holds` yields what breaks it; without the part of the history that it `needs`, it cannot be judged."""

    name: str
    holds: Check
    needs: Part | None = None


def check(outcome: Outcome, *, undisturbed: str | None = None) -> list[Violation]:
    """All violations; `undisturbed` is the SHA-256 of the last model of the same experiment without faults."""
    evidence = evidence_of(outcome)
    found = [
        Violation(promise.name, said)
        for promise in PROMISES
        if promise.needs not in outcome.unrecorded
        for said in promise.holds(evidence)
    ]
    if undisturbed is not None:
        found += [Violation("P13", said) for said in _same_result(evidence, undisturbed)]
    return found


def not_judged(outcome: Outcome) -> list[str]:
    """What `check` leaves out, for people."""
    left_out = [f"{each.name}: {each.needs} were not recorded" for each in PROMISES if each.needs in outcome.unrecorded]
    if outcome.schedule is not None and outcome.schedule.disturbs_hub:
        until = f"until {HEALS_IN:.0f} s after the hub itself was disturbed"
        whole = "in the whole run, as a clock of the hub was off"
        left_out.append(f"P7, P8: delays, {whole if is_hub_clock_off(outcome.schedule) else until}")
    return left_out


# --- counted once, nothing unexpected ----------------------------------------------------------------------------


def _is_the_function_of_its_members(evidence: Evidence) -> Iterator[str]:
    for one, adopted, closed in evidence.adoptions:
        made = evidence.first.get(adopted.model.key)
        members = {member.site: member for member in closed.members}
        about = f"model {adopted.round} (entry {one.entry.number})"
        if made is None or made.sha256 != adopted.model.sha256:
            yield f"{about} is not what was stored under {adopted.model.key}"
        elif not set(adopted.used) <= set(members):
            strangers = sorted(set(adopted.used) - set(members))
            yield f"{about} uses {strangers}, who are not members of entry {adopted.closing}"
        elif set(adopted.used) | {left.site for left in adopted.left_out} != set(members):
            yield f"{about}: some members of entry {adopted.closing} are neither used nor left out"
        else:
            used = [members[site] for site in sorted(adopted.used)]
            yield from _right_values(evidence, about, made.data, closed, used)
        for left in adopted.left_out:
            update = members[left.site].update
            if update is None or update.key not in evidence.rotten("updates"):
                yield f"{about} leaves {left.site} out ({left.code}), whose update is whole"


def _right_values(evidence: Evidence, about: str, made: bytes, closed: StepClosed, used: list[Member]) -> Iterator[str]:
    updates = [
        evidence.first[member.update.key] for member in used if member.update and member.update.key in evidence.first
    ]
    if len(updates) != len(used) or not used:
        yield f"{about}: an update that was used was never stored"
    elif closed.task is TaskKind.INITIALISE:
        if made != updates[0].data:
            yield f"{about} is not the one that {used[0].site} made"
    else:
        weighted = evidence.outcome.plan.weighted
        weights = [(member.cases or 1) if weighted else 1 for member in used]
        expected = mean_of([(update.data, weight) for update, weight in zip(updates, weights, strict=True)])
        if not is_same(tensors_of(made), expected):
            yield f"{about} is not the mean of {[member.site for member in used]}"


def _each_counts_once(evidence: Evidence) -> Iterator[str]:
    for one, closed in evidence.closings:
        sites = [member.site for member in closed.members]
        for site in sorted({site for site in sites if sites.count(site) > 1}):
            yield f"{site} is counted twice in entry {one.entry.number}"
        for member in closed.members:
            if (higher := _done_above(member, closed)) is not None:
                yield f"entry {one.entry.number} counts attempt {member.attempt} of {member.site}, and {higher} is done"
    rounds = [adopted.round for _, adopted, _ in evidence.adoptions]
    if len(set(rounds)) != len(rounds):
        yield f"a round has two models: {rounds}"


def _done_above(member: Member, closed: StepClosed) -> int | None:
    """An attempt that follows on the one counted and was seen to be done, by what the entry says of the others."""
    others = {other.attempt: other.why for other in closed.others if other.site == member.site}
    attempt = member.attempt + 1
    while attempt in others:
        if others[attempt] in SEEN_TO_BE_DONE:
            return attempt
        attempt += 1
    return None


def _every_member_was_asked_for(evidence: Evidence) -> Iterator[str]:
    for one, closed in evidence.closings:
        step = None if one.before is None else one.before.step
        asked = () if step is None else step.asked
        base = None if step is None or step.built_on is None else step.built_on.sha256
        for member in closed.members:
            for wrong in _wrong_with(evidence, closed, member, base, asked):
                yield f"entry {one.entry.number}, {member.site}: {wrong}"


def _wrong_with(
    evidence: Evidence, closed: StepClosed, member: Member, base: str | None, asked: tuple[str, ...]
) -> Iterator[str]:
    key = AnswerKey(closed.round, closed.task, member.site, member.attempt)
    written, answer = evidence.answers.get(key), evidence.answer(key)
    if member.site not in asked or member.site not in evidence.outcome.plan.clinics:
        yield "it was not asked"
    if written is None or answer is None:
        yield f"there is no answer {key}"
        return
    if not _is_of(written, member.site):
        yield f"{key} was written by {written.by}"
    if written.sha256 != member.answer_sha256:
        yield f"{key} is not the answer that the entry pins"
    if (answer.outcome, answer.built_on, answer.update, answer.cases) != ("done", base, member.update, member.cases):
        yield f"{key} says something else: {answer.outcome}, built on {answer.built_on}, update {answer.update}"
    if member.update is not None:
        update = evidence.first.get(member.update.key)
        if update is None or not _is_of(update, member.site) or update.sha256 != member.update.sha256:
            yield f"{member.update.key} is not what the site stored, or with another digest"


def _is_of(written: Written, site: str) -> bool:
    """Whether the site wrote it, as far as it was seen who did."""
    return written.by in (site, f"{site}{TWIN}", SOMEBODY)


# --- history -----------------------------------------------------------------------------------------------------


def _gap_free(evidence: Evidence) -> Iterator[str]:
    if evidence.wrong:
        yield evidence.wrong


def _never_forked(evidence: Evidence) -> Iterator[str]:
    """What is written once is the only lock there is: nothing takes its place."""
    for one in evidence.outcome.history.written:
        if one.key.startswith(WRITTEN_ONCE) and not one.fresh:
            yield f"{one.by} wrote over {one.key} at second {one.at:.3f}"
    for key, data in evidence.outcome.objects.items():
        first = evidence.first.get(key)
        changed = first is not None and first.data != data and key not in evidence.outcome.history.rotten
        if changed and key.startswith(WRITTEN_ONCE):
            yield f"{key} is no longer what was written first"


def _no_answer_lost(evidence: Evidence) -> Iterator[str]:
    state = evidence.state
    if state is None or not state.ended or evidence.rotten("journal"):
        return
    for key, written in evidence.answers.items():
        if (key.site, key.attempt) not in state.accounted.get((key.round, key.task), frozenset()):
            yield f"{key}, stored at second {written.at:.3f}, is neither used nor named in the journal"


def _no_partial_object(evidence: Evidence) -> Iterator[str]:
    for text, data in evidence.outcome.objects.items():
        key, first = parse_key(text), evidence.first.get(text)
        if not isinstance(key, UpdateKey | GlobalKey) or text in evidence.outcome.history.rotten:
            continue
        if first is None or first.sha256[:16] != key.short or first.data != data:
            yield f"{text} is not what its name says"


def _stops_at_what_is_broken(evidence: Evidence) -> Iterator[str]:
    broken = [int(key[8:16]) for key in evidence.rotten("journal")]
    expected = min(broken, default=None)
    for name, at in evidence.outcome.broken.items():
        if at != expected:
            yield f"{name}, begun anew, stopped at entry {at}; the first one with a flipped bit is {expected}"


def _same_result(evidence: Evidence, undisturbed: str) -> Iterator[str]:
    state, everybody = evidence.state, set(evidence.outcome.plan.clinics)
    trained = [adopted for _, adopted, closed in evidence.adoptions if closed.task is TaskKind.TRAIN]
    if state is None or state.phase != "finished" or len(trained) != evidence.outcome.plan.rounds:
        return
    last: ModelAdopted = trained[-1]
    if all(set(adopted.used) == everybody for adopted in trained) and last.model.sha256 != undisturbed:
        yield f"the last model is {last.model.sha256[:8]}, without faults and with the same members {undisturbed[:8]}"


PROMISES: tuple[Promise, ...] = (
    Promise("P1", ended),
    Promise("P2", _is_the_function_of_its_members),
    Promise("P2", _each_counts_once),
    Promise("P3", _every_member_was_asked_for),
    Promise("P4", _gap_free),
    Promise("P4", _never_forked),
    Promise("P5", _no_answer_lost),
    Promise("P6", said_after_it_was_written, needs="commands"),
    Promise("P7", noticed, needs="reads"),
    Promise("P8", bounded),
    Promise("P8", attended),
    Promise("P9", unmoved),
    Promise("P10", _no_partial_object),
    Promise("P10", unhurried, needs="failed calls"),
    Promise("P10", persistent, needs="crashes"),
    Promise("P11", one_training_at_a_time, needs="trainings"),
    Promise("P11", no_more_than_slots, needs="trainings"),
    Promise("P12", _stops_at_what_is_broken, needs="broken journals"),
)
