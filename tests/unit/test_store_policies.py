"""The store's policies, judged as S3 judges them: what no login may reach, whatever sites are called."""

import re
from fnmatch import translate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.hub.store_policies import Policy, store_policies
from wardround_messages.names import (
    AnswerKey,
    ConsentKey,
    FiguresKey,
    GlobalKey,
    JournalKey,
    Key,
    ResultKey,
    Task,
    UpdateKey,
    bucket_of,
)

GET, PUT, DELETE = "s3:GetObject", "s3:PutObject", "s3:DeleteObject"
# Words that stand in keys, which a site may be called.
WORDS = ("global", "journal", "results", "updates", "answers", "consent", "figures", "train", "r000001", "wr", "probe")
SITES = st.lists(
    st.sampled_from(WORDS) | st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,11}", fullmatch=True).filter(lambda s: s != "none"),
    min_size=2,
    max_size=4,
    unique=True,
).filter(lambda sites: not {*sites} & {"hub", "models", "store", "coordinator", "aggregator", "metrics", "operator"})
SHORT = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
EXPERIMENTS = st.sampled_from(["a", "global", "x-updates", "journal"])
ROUNDS = st.integers(0, 999_999)


def may(policy: Policy, action: str, bucket: str, key: object) -> bool:
    """An explicit deny wins; what nothing allows is refused. `*` and `?` stand for any characters."""
    statements: Any = policy["Statement"]
    named = f"arn:aws:s3:::{bucket}/{key}"
    effects = {
        one["Effect"]
        for one in statements
        if action in one["Action"]
        and any(re.fullmatch(translate(resource), named) for resource in one.get("Resource", ()))
    }
    return effects == {"Allow"}


def of_site(site: str, round_: int, short: str) -> tuple[Key, ...]:
    return (
        ConsentKey(site, short, 1),
        UpdateKey(round_, site, short),
        *(AnswerKey(round_, task, site, 1) for task in Task),
    )


@given(SITES, EXPERIMENTS, ROUNDS, SHORT)
def test_a_site_reaches_its_own_objects_the_models_and_the_manifest_whatever_it_is_called(
    sites: list[str], experiment: str, round_: int, short: str
) -> None:
    policies, bucket = store_policies(sites, []), bucket_of(experiment)
    others = {
        site: [key for other in sites if other != site for key in of_site(other, round_, short)] for site in sites
    }
    for site in sites:
        policy = policies[site]
        for key in of_site(site, round_, short):
            assert may(policy, GET, bucket, key)
            assert may(policy, PUT, bucket, key)
        for key in (GlobalKey(round_, short), JournalKey(0)):
            assert may(policy, GET, bucket, key)
            assert not may(policy, PUT, bucket, key)
        for key in (*others[site], JournalKey(round_ + 1), ResultKey(round_), FiguresKey(round_)):
            assert not may(policy, GET, bucket, key)
            assert not may(policy, PUT, bucket, key)
        for key in (*of_site(site, round_, short), *others[site], GlobalKey(round_, short), JournalKey(0)):
            assert not may(policy, DELETE, bucket, key)


@given(SITES, EXPERIMENTS, ROUNDS, SHORT)
def test_whoever_is_no_site_reads_all_but_updates_of_sites_whatever_they_are_called(
    sites: list[str], experiment: str, round_: int, short: str
) -> None:
    policies, bucket = store_policies(sites, ["researcher-a"]), bucket_of(experiment)
    for site in sites:
        for key in of_site(site, round_, short):
            for login in ("researcher-a", "operator"):
                assert may(policies[login], GET, bucket, key) is not isinstance(key, UpdateKey)
                assert not may(policies[login], PUT, bucket, key)
            assert may(policies["coordinator"], GET, bucket, key) is not isinstance(key, UpdateKey)
            assert may(policies["coordinator"], DELETE, bucket, key) is isinstance(key, UpdateKey)
            assert may(policies["aggregator"], GET, bucket, key) is isinstance(key, UpdateKey)
            for login in ("coordinator", "aggregator", "metrics"):
                assert not may(policies[login], PUT, bucket, key)


def test_nobody_deletes_the_journal_and_only_the_coordinator_writes_it() -> None:
    for login, policy in store_policies(["clinic-1"], ["researcher-a"]).items():
        assert not may(policy, DELETE, "wr-a", JournalKey(3))
        assert may(policy, PUT, "wr-a", JournalKey(3)) is (login == "coordinator")


def test_the_first_model_is_the_coordinators_and_the_later_ones_are_the_aggregators() -> None:
    policies = store_policies([], [])
    short = "0123456789abcdef"
    assert may(policies["coordinator"], PUT, "wr-a", GlobalKey(0, short))
    assert not may(policies["coordinator"], PUT, "wr-a", GlobalKey(1, short))
    assert may(policies["aggregator"], PUT, "wr-a", GlobalKey(1, short))


@pytest.mark.parametrize(("sites", "researchers"), [(["hub"], []), (["a b"], []), (["*"], []), (["a"], ["a"])])
def test_a_name_that_cannot_be_a_login_is_refused(sites: list[str], researchers: list[str]) -> None:
    with pytest.raises(ValueError, match="login"):
        store_policies(sites, researchers)
