"""What the documents point at exists: links, files, tests, commands of the Makefile, parts of the code."""

import re
import tomllib
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, anchors, blocks, links, rows, words_in_code

TESTS = {
    name
    for file in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"^ *(?:async )?def (\w+)\(|^(Test\w+) =", file.read_text(), re.MULTILINE)
    for name in name
    if name
}
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Folders that a word in code may begin with; what lies in them stands in the repository.
PLACES = (
    "services/",
    "messages/",
    "tests/",
    "examples/",
    "benchmarks/",
    "docs/",
    "deploy/",
    "compose/",
    "requirements/",
)
PACKAGES = (
    "coordinator",
    "site_agent",
    "aggregator",
    "metrics",
    "training",
    "runtime",
    "simulation",
    "client",
    "hub",
    "stack",
)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@each_document
def test_tests_that_are_named_exist(document: Path) -> None:
    named = {word for word in words_in_code(document) if re.fullmatch(r"test_\w+(?<!_)|Test\w+", word)}
    assert named <= TESTS


def test_every_promise_of_the_readme_names_tests_or_invariants_that_exist() -> None:
    promises = [row for row in rows(ROOT / "README.md") if row[0].startswith("**")]
    assert len(promises) > 10
    for promise, proofs in promises:
        named = set(re.findall(r"`(\w+)`", proofs))
        assert named, promise
        assert named <= TESTS, promise


@each_document
def test_targets_of_make_that_are_named_exist(document: Path) -> None:
    code = [*words_in_code(document), *(line for block in blocks(document) for line in block.text.splitlines())]
    named = {match[1] for word in code if (match := re.match(r"make ([a-z-]+)", word))}
    assert named <= TARGETS


@each_document
def test_extras_that_are_named_exist(document: Path) -> None:
    """What is installed by `pip install '.[site-agent,client]'`."""
    named = {
        extra
        for word in words_in_code(document)
        for extras in re.findall(r"(?:\.|\bwardround)\[([\w,-]+)\]", word)
        for extra in extras.split(",")
    }
    assert named <= EXTRAS


@each_document
def test_places_in_the_code_that_are_named_exist(document: Path) -> None:
    """`coordinator/steps.py: closing_reason` is a place where to look."""
    for word in words_in_code(document):
        path, _, name = word.partition(": ")
        if not re.fullmatch(r"[\w./-]+", path):
            continue
        if path.startswith(PLACES):
            file = ROOT / path
        elif path.startswith(PACKAGES) and path.endswith(".py"):
            file = ROOT / "services" / "wardround" / path
        else:
            continue
        assert file.exists(), f"there is no {path}"
        assert not name or re.search(rf"^ *(?:async def|def|class) {name}\b", file.read_text(), re.MULTILINE), word


def test_every_decision_is_listed_and_has_its_three_parts() -> None:
    folder = ROOT / "docs" / "adr"
    listed = links(folder / "README.md")
    records = sorted(path for path in folder.glob("[0-9]*.md"))
    assert [record.name for record in records] == [link for link in listed if link[0].isdigit()]
    for number, record in enumerate(records, 1):
        assert record.name.startswith(f"{number:04d}-")
        assert {"context", "decision", "consequences"} <= anchors(record), record.name
