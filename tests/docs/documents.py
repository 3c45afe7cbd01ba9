"""The project's documents as their tests read them: fenced blocks, links, words in code."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(file for folder in ("docs", "deploy", "compose") for file in (ROOT / folder).rglob("*.md"))]
)


@dataclass(frozen=True)
class Block:
    """A fenced block. `info` is what follows its language: the file that the block is the content of. `section` is the
    heading of the second order that it stands under."""

    language: str
    info: str
    text: str
    line: int
    section: str


def blocks(document: Path) -> list[Block]:
    found = []
    section = ""
    tokens = _tokens(document)
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            section = tokens[index + 1].content
        elif token.type == "fence":
            language, _, info = token.info.strip().partition(" ")
            found.append(Block(language, info, token.content, token.map[0] + 1 if token.map else 0, section))
    return found


def words_in_code(document: Path) -> set[str]:
    """What stands between backticks in the running text and the tables."""
    return {token.content for token in _inline(document) if token.type == "code_inline"}


def links(document: Path) -> list[str]:
    """The targets of links and pictures."""
    return [
        str(token.attrs["href" if token.type == "link_open" else "src"])
        for token in _inline(document)
        if token.type in ("link_open", "image")
    ]


def anchors(document: Path) -> set[str]:
    """What a link may point at in the document: its headings, spelt as hosting pages spell them."""
    tokens = _tokens(document)
    return {
        "".join(char for char in tokens[index + 1].content.lower().replace(" ", "-") if char.isalnum() or char in "-_")
        for index, token in enumerate(tokens)
        if token.type == "heading_open"
    }


def rows(document: Path) -> list[list[str]]:
    """The rows of all tables, as text."""
    found: list[list[str]] = []
    cell = False
    for token in _tokens(document):
        match token.type:
            case "tr_open":
                found.append([])
            case "td_open" | "th_open":
                cell = True
            case "inline" if cell:
                found[-1].append(token.content)
                cell = False
    return found


def _tokens(document: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(document.read_text())


def _inline(document: Path) -> Iterator[Token]:
    for token in _tokens(document):
        yield from token.children or ()
