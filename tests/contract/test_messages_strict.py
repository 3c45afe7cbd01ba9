"""Nothing is coerced, dropped or let through: each example with one thing wrong in it is refused."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from published import Example, messages, objects
from pydantic import ValidationError

from wardround_messages.codec import MalformedError, parse
from wardround_messages.commands import OfferExperiment, StartTask
from wardround_messages.events import EntryRecorded
from wardround_messages.journal import ExperimentAccepted, ModelAdopted, StepClosed
from wardround_messages.manifest import Manifest
from wardround_messages.objects import Answer, Result

AT_MOST = 64 * 1024
EXAMPLES = [*messages(), *objects()]
by_name = {example.name: example for example in EXAMPLES}

# Where a value of any kind may stand: the trainer's parameters, checked against the trainer's own schema.
OPEN = {"parameters", "parameters_schema"}
# Words that stay on the site's own disk and may be of any length, lines included.
LOCAL_TEXT = {"text", "folders", "split_salt"}
# "all", or a number.
SHARES = {"quorum", "sample", "keep"}
Path = tuple[str | int, ...]

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def body(name: str) -> dict[str, Any]:
    return dict(json.loads(by_name[name].body))


def refused(example: Example, changed: object) -> str:
    """The code with which it is refused, or how it was read."""
    try:
        read = parse(example.model, json.dumps(changed).encode(), at_most=AT_MOST)
    except MalformedError as error:
        return error.code
    return f"read as {read!r}"


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if path and path[-1] in OPEN:
        return
    yield path, value
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from places(child, (*path, name))


def with_(whole: Any, path: Path, value: object) -> Any:
    if not path:
        return value
    changed = deepcopy(whole)
    target = changed
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return changed


def wrong(path: Path, value: object) -> list[object]:
    """What must not be taken in the place of this value."""
    match value:
        case bool():
            return [int(value), float(value), str(value).lower(), None]
        case int():
            return [float(value), str(value), True, -1, 2**80, float("1e300"), [value]]
        case float():
            return [str(value), True, [value], 10**400]
        case str() if LOCAL_TEXT & set(path):
            return [1, True, [value]]
        case str() if SHARES & set(path):
            return [0, 1.0, True, [value], f"{value}\n", "al", "0%"]
        case str():
            return [1, True, [value], f"{value}\n", f"{value}\x00", f"{value}\u202e", value + "x" * 401]
        case list():
            return ["", 1, {}, {"0": 1}, [[]], [*value, []]]
        case dict():
            return ["", 1, [], [value]]
    return [[], {"a": 1}]


@each_example
def test_an_unknown_field_is_refused_wherever_it_stands(example: Example) -> None:
    whole = json.loads(example.body)
    for path, value in places(whole):
        if isinstance(value, dict):
            assert refused(example, with_(whole, path, {**value, "unexpected": {"a": 1}})) == "invalid", path


@each_example
def test_a_value_of_another_type_or_out_of_bounds_is_refused_wherever_it_stands(example: Example) -> None:
    whole = json.loads(example.body)
    for path, value in places(whole):
        for other in wrong(path, value):
            assert refused(example, with_(whole, path, other)) in ("invalid", "not_json"), (path, other)


@each_example
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(example: Example, number: str) -> None:
    whole = json.loads(example.body)
    for path, value in places(whole):
        if isinstance(value, float):
            text = json.dumps(with_(whole, path, "<here>")).replace('"<here>"', number)
            with pytest.raises(MalformedError, match=r"not_json|invalid"):
                parse(example.model, text.encode(), at_most=AT_MOST)


@each_example
def test_a_key_that_stands_twice_is_refused(example: Example) -> None:
    whole = json.loads(example.body)
    for path, value in places(whole):
        if isinstance(value, dict) and value:
            name, first = next(iter(value.items()))
            twice = f"{{{json.dumps(name)}: {json.dumps(first)}, {json.dumps(value)[1:]}"
            text = json.dumps(with_(whole, path, "<here>")).replace('"<here>"', twice)
            with pytest.raises(MalformedError, match="duplicate_key"):
                parse(example.model, text.encode(), at_most=AT_MOST)


@each_example
def test_a_time_without_a_zone_or_in_another_form_is_refused(example: Example) -> None:
    whole = json.loads(example.body)
    for path, value in places(whole):
        if path and path[-1] in ("at", "time") and isinstance(value, str):
            day = value[:10]
            for other in (
                value.removesuffix("Z"),
                day,
                f"{day} 08:00:00Z",
                f"{day}T08:00Z",
                f"{day}T08:00:00.1234567Z",
                f"{day}T24:00:00Z",
                f"{day}T08:00:60Z",
                "2026-02-30T08:00:00Z",
                "0001-01-01T00:00:00+01:00",
                "1772438400",
                1772438400,
            ):
                assert refused(example, with_(whole, path, other)) == "invalid", (path, other)


@pytest.mark.parametrize("name", [example.name for example in objects() if "v" in json.loads(example.body)])
@pytest.mark.parametrize("version", [0, 2, True, 1.0, "1", None])
def test_an_object_of_another_version_is_refused(name: str, version: object) -> None:
    assert refused(by_name[name], {**body(name), "v": version}) == "invalid"


@each_example
def test_what_was_read_cannot_be_changed(example: Example) -> None:
    read = parse(example.model, example.body, at_most=AT_MOST)
    for name in type(read).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(read, name, getattr(read, name))


IDS = {
    "io.wardround.task.start.v1": ("experiment", "site", "requested_by"),
    "io.wardround.site.seen.v1": ("site",),
    "Consent.granted": ("experiment", "site", "rule"),
    "Job": ("experiment", "site", "trainer"),
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in IDS.items() for field in fields])
@pytest.mark.parametrize(
    "id_",
    [
        "",
        "-",
        "-a",
        "a-",
        "a--b",
        "A",
        "a_b",
        "a.b",
        "a b",
        "a/b",
        "../a",
        "a\n",
        "\na",
        "a\x00",
        "a\x00b",
        "\uff41",
        "a\u0661",
        "\u00e9",
        "a\u200b",
        "%61",
        "*",
        "#",
        "a" * 41,
    ],
)
def test_an_id_that_is_none_is_refused(name: str, field: str, id_: str) -> None:
    assert refused(by_name[name], {**body(name), field: id_}) == "invalid"


@pytest.mark.parametrize("word", ["hub", "none", "models", "coordinator", "aggregator", "metrics", "store"])
@pytest.mark.parametrize("field", ["experiment", "site"])
def test_a_reserved_word_is_no_id_of_an_experiment_or_a_site(field: str, word: str) -> None:
    name = "io.wardround.task.start.v1"
    assert refused(by_name[name], {**body(name), field: word}) == "invalid"


# --- what contradicts itself -------------------------------------------------------------------------------------

OTHER = "f" * 64


def test_an_offer_names_its_manifest_and_a_site_of_the_cohort() -> None:
    offer = body("io.wardround.experiment.offer.v1")
    for change in ({"experiment": "another"}, {"manifest_sha256": OTHER}, {"site": "clinic-9"}):
        with pytest.raises(ValidationError, match=r"manifest|cohort"):
            OfferExperiment.model_validate_json(json.dumps({**offer, **change}))


def test_an_accepted_experiment_names_its_manifest() -> None:
    fact = body("io.wardround.experiment.accepted.v1")["body"]
    with pytest.raises(ValidationError, match="not the digest of the manifest"):
        ExperimentAccepted.model_validate_json(json.dumps({**fact, "manifest_sha256": OTHER}))


@pytest.mark.parametrize("task", ["train", "evaluate", "test"])
def test_a_task_that_builds_on_a_model_is_given_one(task: str) -> None:
    start = {**body("io.wardround.task.start.v1"), "task": task, "model": None}
    with pytest.raises(ValidationError, match="without a model"):
        StartTask.model_validate_json(json.dumps(start))


@pytest.mark.parametrize(
    "key",
    [
        "global/r000001/0123456789abcdef.safetensors",  # of another digest
        "global/r000001/../0123456789abcdef.safetensors",
        "journal/00000000.json",
        "results/c00000001.json",
        "/etc/passwd",
        "global//r000001",
    ],
)
def test_a_reference_is_to_weights_with_its_digest(key: str) -> None:
    start = body("io.wardround.task.start.v1")
    start["model"]["key"] = key
    with pytest.raises(ValidationError, match="not that of an update or a global model"):
        StartTask.model_validate_json(json.dumps(start))


@pytest.mark.parametrize("change", [{"round": 2}, {"site": "clinic-2"}])
def test_an_answer_offers_an_update_of_its_own(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="not of this round and site"):
        Answer.model_validate_json(json.dumps({**body("Answer.train"), **change}))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("Answer.train", {"update": None}, "an update goes with"),
        ("Answer.train", {"outcome": "failed"}, "an update goes with"),
        ("Answer.train", {"task": "evaluate"}, "an update goes with"),
        ("Answer.failed", {"failure": None}, "a failure goes with"),
        ("Answer.failed", {"by_hub": True}, "only a cancelled task"),
    ],
)
def test_an_answer_has_what_its_outcome_asks_for(name: str, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Answer.model_validate_json(json.dumps({**body(name), **change}))


def test_a_result_and_an_adoption_are_of_their_own_round() -> None:
    with pytest.raises(ValidationError, match="not the global model of this round"):
        Result.model_validate_json(json.dumps({**body("Result"), "round": 7}))
    fact = body("io.wardround.model.adopted.v1")["body"]
    with pytest.raises(ValidationError, match="not the global model of this round"):
        ModelAdopted.model_validate_json(json.dumps({**fact, "round": 7}))


def test_a_site_is_a_member_once_and_stands_in_a_list_once() -> None:
    closed = body("io.wardround.step.closed.v1")["body"]
    with pytest.raises(ValidationError, match="a member twice"):
        StepClosed.model_validate_json(json.dumps({**closed, "members": closed["members"] * 2}))
    with pytest.raises(ValidationError, match="stands twice"):
        Result.model_validate_json(json.dumps({**body("Result"), "used": ["clinic-1", "clinic-1"]}))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("io.wardround.step.opened.v1", {"fact": "step.closed"}, "does not name the body"),
        ("io.wardround.step.opened.v1", {"body": None}, "exactly one"),
        ("io.wardround.experiment.accepted.v1.claim", {"fact": "step.vanished"}, "no such fact"),
        ("io.wardround.experiment.accepted.v1.claim", {"number": 1}, "not on this entry"),
        ("io.wardround.experiment.accepted.v1.claim", {"experiment": "another"}, "not on this entry"),
    ],
)
def test_a_recorded_entry_says_what_it_is(name: str, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        EntryRecorded.model_validate_json(json.dumps({**body(name), **change}))


# --- the manifest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("cohort", {"sites": []}),
        ("cohort", {"sites": ["clinic-1", "clinic-1"]}),
        ("cohort", {"quorum": 0}),
        ("cohort", {"quorum": 4}),
        ("cohort", {"quorum": "0%"}),
        ("cohort", {"quorum": "101%"}),
        ("cohort", {"quorum": "66"}),
        ("cohort", {"quorum": 0.66}),
        ("cohort", {"quorum": True}),
        ("cohort", {"sample": 4}),
        ("cohort", {"sample": 1}),  # below the quorum
        ("cohort", {"enrol": 0}),
        ("rounds", {"count": 0}),
        ("rounds", {"count": -1}),
        ("rounds", {"count": 10**9}),
        ("rounds", {"deadline": 0}),
        ("rounds", {"grace": -1}),
        ("rounds", {"on_missed": "retry"}),
        ("strategy", {"name": "median"}),
        ("strategy", {"weight": "random"}),
        ("strategy", {"norm_at_most": 0}),
        ("training", {"epochs": 0}),
        ("training", {"optimizer_state": "maybe"}),
        ("training", {"parameters": {"learning_rate": 2**80}}),
        ("training", {"parameters": {"learning_rate": None}}),
        ("training", {"parameters": {"learning_rate": {"nested": 1}}}),
        ("training", {"parameters": {"channels": [[16]]}}),
        ("training", {"parameters": {"../x": 1}}),
        ("training", {"parameters": {"note": "a\nb"}}),
        ("training", {"parameters": {f"p{n}": n for n in range(101)}}),
        ("model", {"initial": {"kind": "pickle"}}),
        ("model", {"best": {"metric": "dice/../mean", "goal": "max"}}),
        ("evaluation", {"test": {"site": "clinic-9", "dataset": "brain-mri-test"}}),
    ],
)
def test_an_impossible_experiment_is_refused(section: str, change: dict[str, Any]) -> None:
    manifest = body("Manifest")
    manifest[section] = {**manifest[section], **change}
    with pytest.raises(MalformedError, match="invalid"):
        parse(Manifest, json.dumps(manifest).encode(), at_most=AT_MOST)


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("cohort", {"quorum": 0.66}, "a share of the sites is 'all', a percentage such as '66%', or a number"),
        ("cohort", {"sites": ["clinic-1", "clinic-1"]}, "names a site twice"),
        ("training", {"parameters": {"learning_rate": None}}, "a parameter is true or false, a number, a text, or"),
        ("training", {"parameters": {"batch_size": 2**80}}, "training.parameters.batch_size.int: Input should be less"),
    ],
)
def test_a_refusal_names_the_field_and_what_would_be_right(section: str, change: dict[str, Any], says: str) -> None:
    manifest = body("Manifest")
    manifest[section] = {**manifest[section], **change}
    with pytest.raises(MalformedError) as refusal:
        parse(Manifest, json.dumps(manifest).encode(), at_most=AT_MOST)
    assert says in refusal.value.detail
    assert refusal.value.detail.startswith(section)
    assert "more)" not in refusal.value.detail
