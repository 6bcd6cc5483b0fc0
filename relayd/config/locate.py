"""On which line a key of a TOML file stands; asked only when there is something to point at.

Promises: a key that is not there points at the nearest table that is; a file that is not valid TOML still yields the
lines of what can be read.
"""

from __future__ import annotations

import contextlib
import tomllib
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import tree_sitter

Path: TypeAlias = "tuple[str | int, ...]"
"""Keys and list indexes from the top of the document: `("rule", 0, "deliver", 2, "to")`."""


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of the nearest thing around it; 1 if there is none."""
    for length in range(len(path), 0, -1):
        line = lines.get(path[:length])
        if line is not None:
            return line
    return 1


def lines_of(text: bytes) -> dict[Path, int]:
    """Path → line (from 1) of every table header, key and list element in the TOML document `text`."""
    walk = _Walk()
    with contextlib.suppress(RecursionError):
        walk.document(_root(text))
    return walk.lines


def first_error_line(text: bytes) -> int | None:
    """The line of the first thing in `text` that is no TOML; None if nothing is found."""
    node = _root(text)
    while node.has_error:
        inner = next((child for child in node.children if child.has_error or child.is_missing or child.is_error), None)
        if inner is None or node.is_error:
            return node.start_point.row + 1
        node = inner
    return node.start_point.row + 1 if node.is_missing else None


def _root(text: bytes) -> tree_sitter.Node:
    # Imported here: only wanted when there is something to point at, and a daemon should not carry a parser for it.
    import tree_sitter
    import tree_sitter_toml

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language())).parse(text).root_node


class _Walk:
    """Collects lines while it goes through the tree; knows how many elements each array of tables has so far."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._elements: dict[Path, int] = {}

    def document(self, root: tree_sitter.Node) -> None:
        for node in root.named_children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in ("table", "table_array_element"):
                self._table(node, is_element=node.type == "table_array_element")

    def _table(self, node: tree_sitter.Node, *, is_element: bool) -> None:
        keys = [child for child in node.named_children if child.type in ("bare_key", "quoted_key", "dotted_key")]
        if not keys:
            return
        line = node.start_point.row + 1
        base = self._header(_names(keys[0]), line, is_element=is_element)
        for child in node.named_children:
            if child.type == "pair":
                self._pair(child, base)

    def _header(self, names: list[str], line: int, *, is_element: bool) -> Path:
        """The path that a table header opens; parents that are arrays of tables stand for their last element."""
        path: Path = ()
        for position, name in enumerate(names):
            path = (*path, name)
            self.lines.setdefault(path, line)
            if is_element and position == len(names) - 1:
                self._elements[path] = self._elements.get(path, -1) + 1
            if path in self._elements:
                path = (*path, self._elements[path])
                self.lines.setdefault(path, line)
        # A header says more about its table than a sub-table that happened to come before it.
        self.lines[path] = line
        return path

    def _pair(self, node: tree_sitter.Node, base: Path) -> None:
        children = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
        if not children:
            return
        path = base
        for name in _names(children[0]):
            path = (*path, name)
            self.lines.setdefault(path, children[0].start_point.row + 1)
        if len(children) > 1:
            self._value(children[1], path)

    def _value(self, node: tree_sitter.Node, path: Path) -> None:
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(child, path)
        elif node.type == "array":
            elements = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
            for index, child in enumerate(elements):
                self.lines[(*path, index)] = child.start_point.row + 1
                self._value(child, (*path, index))


def _names(node: tree_sitter.Node) -> list[str]:
    if node.type == "dotted_key":
        return [name for child in node.named_children for name in _names(child)]
    text = (node.text or b"").decode("utf-8", "replace")
    return [_unquoted(text)] if node.type == "quoted_key" else [text]


def _unquoted(text: str) -> str:
    try:
        return next(iter(tomllib.loads(f"{text} = 0")))
    except tomllib.TOMLDecodeError:
        return text
