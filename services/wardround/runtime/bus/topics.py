"""Topic matching as AMQP 0-9-1 defines it, section 3.1.3.3."""

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

ONE_WORD = "*"
ANY_WORDS = "#"


class TopicTable(Generic[T]):
    """The bindings of one topic exchange: in a pattern `*` stands for one word and `#` for any number, also none.

    The patterns form one tree, and a key walks down all its branches at once (K. Thompson, Regular Expression Search
    Algorithm, CACM 1968): no pattern makes matching slow, however many `#` it holds.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def bind(self, pattern: str, target: T) -> None:
        node = self._root
        for word in words(pattern):
            node = node.branches.setdefault(word, _Node(repeats=word == ANY_WORDS))
        if target not in node.targets:
            node.targets.append(target)

    def match(self, routing_key: str) -> list[T]:
        """Each target that a pattern matches, once, however many of its patterns do."""
        nodes = _with_no_words([self._root])
        for word in words(routing_key):
            nodes = _with_no_words(after for node in nodes for after in node.after(word))
        return list(dict.fromkeys(target for node in nodes for target in node.targets))


class _Node(Generic[T]):
    """The end of a pattern's first words; one that ends in `#` repeats itself for every further word."""

    __slots__ = ("branches", "repeats", "targets")

    def __init__(self, *, repeats: bool = False) -> None:
        self.repeats = repeats
        self.branches: dict[str, _Node[T]] = {}
        self.targets: list[T] = []

    def after(self, word: str) -> Iterable["_Node[T]"]:
        if self.repeats:
            yield self
        for name in (word, ONE_WORD):
            if (node := self.branches.get(name)) is not None:
                yield node


def _with_no_words(nodes: Iterable[_Node[T]]) -> list[_Node[T]]:
    """The nodes and those behind a `#`, which also stands for no word at all."""
    reached: list[_Node[T]] = []
    for node in nodes:
        further: _Node[T] | None = node
        while further is not None and further not in reached:
            reached.append(further)
            further = further.branches.get(ANY_WORDS)
    return reached


def words(text: str) -> list[str]:
    """Words may be empty; only the empty text has none."""
    return text.split(".") if text else []
