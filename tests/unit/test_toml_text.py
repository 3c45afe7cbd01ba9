"""TOML as it is written is read again as the same."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.runtime.toml_text import toml_document

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(PLAIN, lambda held: st.lists(held, max_size=3) | st.dictionaries(TEXTS, held, max_size=3))


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_what_is_written_is_read_again(table: dict[str, object]) -> None:
    assert tomllib.loads(toml_document(table)) == table


def test_a_table_of_plain_values_inside_another_stands_on_one_line() -> None:
    table = {
        "schema": 1,
        "hub": {"broker": "amqp://127.0.0.1", "password": {"file": Path("/secrets/broker")}},
        "datasets": {"counting": {"path": ["a", "b"], "split_salt": {"file": "salt"}}},
    }
    assert (
        toml_document(table)
        == """\
schema = 1

[hub]
broker = "amqp://127.0.0.1"
password = { file = "/secrets/broker" }

[datasets.counting]
path = ["a", "b"]
split_salt = { file = "salt" }
"""
    )


def test_what_toml_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        toml_document({"key": None})
