import re
from string import ascii_lowercase, digits

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from wardround_messages import names
from wardround_messages.names import (
    AnswerKey,
    ConsentKey,
    ExperimentId,
    FiguresKey,
    GlobalKey,
    JournalKey,
    Key,
    ResultKey,
    SiteId,
    Task,
    TaskId,
    UpdateKey,
    bucket_of,
    experiment_of,
    is_id,
    parse_key,
    parse_task_id,
)


def ids(longest: int) -> st.SearchStrategy[str]:
    words = st.lists(st.text(ascii_lowercase + digits, min_size=1, max_size=8), min_size=1, max_size=6)
    joined = words.map("-".join)
    return joined.filter(lambda text: len(text) <= longest and text not in names.RESERVED)


experiments, sites = ids(names.EXPERIMENT_MAX), ids(names.SITE_MAX)
rounds = st.integers(0, names.ROUND_MAX)
numbers = st.integers(0, 99_999_999)
from_01 = st.integers(1, names.ATTEMPT_MAX)
shorts = st.text("0123456789abcdef", min_size=16, max_size=16)
tasks = st.sampled_from(Task)

keys: st.SearchStrategy[Key] = st.one_of(
    st.builds(JournalKey, numbers),
    st.builds(ConsentKey, sites, shorts, from_01),
    st.builds(UpdateKey, rounds, sites, shorts),
    st.builds(AnswerKey, rounds, tasks, sites, from_01),
    st.builds(GlobalKey, rounds, shorts),
    st.builds(ResultKey, numbers),
    st.builds(FiguresKey, rounds),
)
task_ids = st.builds(TaskId, experiments, rounds, tasks, sites, from_01)

EXPERIMENT_ID: TypeAdapter[str] = TypeAdapter(ExperimentId)
SITE_ID: TypeAdapter[str] = TypeAdapter(SiteId)
SPOILERS = (*"/.-_%aAr09 \n\x00\u0660\u0966\uff11\uff41", "..", "../", "%2e%2e%2f", "%252e", "//", "00", "a00", "hub")


@st.composite
def spoilt(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with something put in, cut out, or put in another's place."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(start + 3, len(text))))
    return f"{text[:start]}{draw(st.sampled_from(('', *SPOILERS)))}{text[end:]}"


# --- ids ---------------------------------------------------------------------------------------------------------


@given(st.one_of(experiments, spoilt(experiments), st.text(max_size=45)))
@example("a" * 40)
@example("a" * 41)
@example("a\n")
@example("hub")
def test_the_models_and_is_id_agree_on_what_an_id_is(text: str) -> None:
    plain = re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", text) is not None and text not in names.RESERVED
    assert is_id(text, names.EXPERIMENT_MAX) == (plain and len(text) <= 40) == accepts(EXPERIMENT_ID, text)
    assert is_id(text, names.SITE_MAX) == (plain and len(text) <= 24) == accepts(SITE_ID, text)


def accepts(type_: TypeAdapter[str], text: str) -> bool:
    try:
        type_.validate_python(text)
    except ValidationError:
        return False
    return True


@given(experiments)
def test_a_bucket_is_named_after_its_experiment(experiment: str) -> None:
    bucket = bucket_of(experiment)
    assert experiment_of(bucket) == experiment
    assert len(bucket) <= 63


@pytest.mark.parametrize(
    "bucket", ["wr-", "wr-models", "wr-hub", "brain-tumour", "wr-A", "wr--a", "wr-a\n", "wr-" + "a" * 41, ""]
)
def test_another_bucket_is_no_experiments(bucket: str) -> None:
    assert experiment_of(bucket) is None


# --- task ids ----------------------------------------------------------------------------------------------------


@given(task_ids)
@example(TaskId("e" * 40, 999_999, Task.INITIALISE, "s" * 24, 99))
def test_a_task_id_is_read_as_it_was_written(task_id: TaskId) -> None:
    assert parse_task_id(str(task_id)) == task_id
    assert len(str(task_id)) < 110


@given(spoilt(task_ids.map(str)))
@example("brain-tumour.r000012.train.clinic-1.a00")
@example("brain-tumour.r000012.train.clinic-1.a01\n")
@example("brain-tumour.r000012.train.clinic-1.a\u0660\u0661")
@example("brain-tumour.r00012.train.clinic-1.a01")
@example("../brain-tumour.r000012.train.clinic-1.a01")
@example("brain-tumour.r000012.rest.clinic-1.a01")
@example("hub.r000012.train.clinic-1.a01")
@example("brain-tumour.r000012.train.none.a01")
@example("e" * 41 + ".r000012.train.clinic-1.a01")
@example("")
def test_nothing_is_read_as_a_task_id_that_would_not_be_written_so(text: str) -> None:
    try:
        read = parse_task_id(text)
    except ValueError:
        return
    assert str(read) == text
    assert is_id(read.experiment, names.EXPERIMENT_MAX)
    assert is_id(read.site, names.SITE_MAX)
    assert 1 <= read.attempt <= names.ATTEMPT_MAX


@pytest.mark.parametrize(
    "text", ["e.r000001.train.s.a00", "e.r1.train.s.a01", "e.r000001.Train.s.a01", "e.r000001.train.s.a01/", ".."]
)
def test_what_is_no_task_id_is_refused_with_one_that_would_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"one looks like brain-tumour\.r000012"):
        parse_task_id(text)


# --- object keys -------------------------------------------------------------------------------------------------


@given(keys)
def test_a_key_is_read_as_it_was_written(key: Key) -> None:
    assert parse_key(str(key)) == key
    assert TypeAdapter(names.ObjectKey).validate_python(str(key)) == str(key)


@given(spoilt(keys.map(str)))
@example("journal/0000001.json")
@example("journal/000000001.json")
@example("journal/00000001.json\n")
@example("updates/r000001/clinic-1//0123456789abcdef.safetensors")
def test_nothing_is_read_as_a_key_that_would_not_be_written_so(text: str) -> None:
    read = parse_key(text)
    assert read is None or str(read) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "journal/",
        "journal/00000001",
        "journal/00000001.json/",
        "/journal/00000001.json",
        "journal/../00000001.json",
        "journal/%30%30000001.json",
        "journal%2f00000001.json",
        "journal%252f00000001.json",
        "journal/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661.json",
        "journal/0000000\uff11.json",
        "journal/00000001.json\x00",
        "journal/+0000001.json",
        "consent/clinic-1/0123456789abcdef-00.json",
        "consent/clinic-1/0123456789ABCDEF-01.json",
        "consent/hub/0123456789abcdef-01.json",
        "consent/../0123456789abcdef-01.json",
        "answers/r000001/train/clinic-1/a00.json",
        "answers/r000001/rest/clinic-1/a01.json",
        "answers/r000001/train/none/a01.json",
        "answers/r000001/train/clinic--1/a01.json",
        "answers/r000001/train/" + "s" * 25 + "/a01.json",
        "answers/r000001/train/clinic-1/clinic-2/a01.json",
        "updates/r000001/clinic-1/0123456789abcdef.pickle",
        "updates/r000001/clinic-1/0123456789abcde.safetensors",
        "global/r000001/../../journal/00000000.json",
        "results/c1.json",
        "figures/r000001.json.bak",
    ],
)
def test_a_foreign_key_does_not_exist(text: str) -> None:
    assert parse_key(text) is None


@given(keys)
def test_a_key_lies_below_the_prefix_that_is_listed_for_it(key: Key) -> None:
    prefixes: dict[type[Key], str] = {
        JournalKey: names.JOURNAL_PREFIX,
        ConsentKey: names.CONSENT_PREFIX,
        UpdateKey: names.UPDATES_PREFIX,
        AnswerKey: names.ANSWERS_PREFIX,
        GlobalKey: names.GLOBAL_PREFIX,
        ResultKey: names.RESULTS_PREFIX,
        FiguresKey: "figures/",
    }
    assert str(key).startswith(prefixes[type(key)])
    if isinstance(key, AnswerKey):
        assert str(key).startswith(names.answers_prefix(key.round))
    if isinstance(key, UpdateKey):
        assert str(key).startswith(names.updates_prefix(key.round))
