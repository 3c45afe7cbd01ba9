"""Topic matching, against a reference that is slow and plainly right."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.runtime.bus.topics import TopicTable, words

WORDS = st.sampled_from(["a", "b", "", "ab"])
KEYS = st.lists(WORDS, max_size=5).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from(["*", "#"])), max_size=6).map(".".join)


def matches(pattern: str, routing_key: str) -> bool:
    table: TopicTable[str] = TopicTable()
    table.bind(pattern, "queue")
    return table.match(routing_key) == ["queue"]


def plainly_matches(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(plainly_matches(rest, key[taken:]) for taken in range(len(key) + 1))
    return bool(key) and first in ("*", key[0]) and plainly_matches(rest, key[1:])


@pytest.mark.parametrize(
    ("pattern", "routing_key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*", "a.", True),
        ("*", "", False),
        ("", "", True),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "ab", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.c.b.c", True),
        ("a.#.c", "a.b.c.b", False),
        ("#.*.#", "", False),
        ("#.#", "a", True),
        ("*.*", ".", True),
        ("*", "*", True),
        ("#", "#", True),
        ("a", "*", False),
        ("a", "#", False),
    ],
)
def test_star_is_one_word_and_hash_any_number(pattern: str, routing_key: str, expected: bool) -> None:
    assert matches(pattern, routing_key) is expected


@given(PATTERNS, KEYS)
def test_matches_what_the_plain_reference_matches(pattern: str, routing_key: str) -> None:
    assert matches(pattern, routing_key) is plainly_matches(words(pattern), words(routing_key))


@given(st.lists(st.tuples(PATTERNS, st.integers(0, 3)), max_size=8), KEYS)
def test_each_target_is_found_once_whatever_else_is_bound(bindings: list[tuple[str, int]], routing_key: str) -> None:
    table: TopicTable[int] = TopicTable()
    for pattern, target in bindings:
        table.bind(pattern, target)

    found = table.match(routing_key)

    expected = {target for pattern, target in bindings if plainly_matches(words(pattern), words(routing_key))}
    assert sorted(found) == sorted(expected)


def test_many_hashes_do_not_make_matching_slow() -> None:
    table: TopicTable[str] = TopicTable()
    table.bind(".".join(["#", "a"] * 20 + ["z"]), "queue")

    started = time.perf_counter()
    assert table.match(".".join(["a"] * 120)) == []

    assert time.perf_counter() - started < 1
