"""A strict reader of the pages of a damaged database, for what SQLite itself will not read any more.

Promises: it never writes. Every page says by itself which table it is of, from two sides: the pages above it, and the
map of parents that a database with `auto_vacuum` keeps. So one page that was overwritten, be it the root of a table or
the first page of the file, costs the rows that are on it and no others. Rows of pages that were let go never come back.
What does not fit to the last bit is left out; so is a log that was not written to its end.

Source: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayd.spool.database import PAGE_BYTES

_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE = 2, 5, 10, 13
_BTREE_PARENT = 5
_MAPPED = PAGE_BYTES // 5
"""Pages whose parents one page of the map names."""
_LOCK_PAGE = 2**30 // PAGE_BYTES + 1
"""Never used, so that it can be locked."""
_DEEPEST = 40
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial type → length of an integer."""

Row = tuple[Any, ...]


class _Bad(Exception):
    """This does not fit."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One table or index, as the schema in the file describes it. `defaults` are for columns that came later."""

    name: str
    kind: str
    root: int
    columns: tuple[str, ...]
    defaults: Row
    rowid_column: int | None


class Pages:
    """A database and its log, as a context. Places that the disk does not read are bad as others are."""

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(path.open("rb", buffering=0))
            self._count = os.fstat(self._file.fileno()).st_size // PAGE_BYTES
            self._log, self._newer = opened.enter_context(_log_of(path)), dict[int, int]()
            if self._log is not None:
                self._newer, count = _newest_of_log(self._log)
                self._count = max(self._count, count)
            self._opened = opened.pop_all()
        self._owners: dict[int, int] = {}
        self._own(1)
        self.trees = {tree.name: tree for tree in self._described()}
        for tree in self.trees.values():
            self._own(tree.root)
        self._own_by_map({1, *(tree.root for tree in self.trees.values())})
        if not self.trees:  # the first page was of no help: now its leaves are known
            self.trees = {tree.name: tree for tree in self._described()}
            self._own_by_map({1, *(tree.root for tree in self.trees.values())})

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def rows(self, table: str) -> Iterator[Row]:
        """Every row that is whole, in no order; values in the order of the tree's columns."""
        tree = self.trees.get(table)
        if tree is None:
            return
        for number in self._pages_of(tree.root):
            for rowid, values in self._records(number):
                if len(values) <= len(tree.columns):
                    row = [*values, *tree.defaults[len(values) :]]
                    if tree.rowid_column is not None and row[tree.rowid_column] is None:
                        row[tree.rowid_column] = rowid
                    yield tuple(row)

    def bad_leaves(self) -> list[int] | None:
        """Pages at the bottom of an index that are no such pages; None if more than that is bad."""
        found = []
        for tree in self.trees.values():
            for number, is_lowest in self._levels(tree.root):
                kinds = self._kinds_of(tree)
                kind = self._kind(number)
                if kind in kinds and self._is_sound(number):
                    continue
                if tree.kind != "index" or not is_lowest:
                    return None
                found.append(number)
        return found

    # --- pages

    def _page(self, number: int) -> bytes:
        if not 1 <= number <= self._count:
            raise _Bad
        source, place = self._file, (number - 1) * PAGE_BYTES
        if self._log is not None and number in self._newer:
            source, place = self._log, self._newer[number]
        try:
            return os.pread(source.fileno(), PAGE_BYTES, place).ljust(PAGE_BYTES, b"\0")
        except OSError as error:  # the disk does not read this place
            raise _Bad from error

    def _kind(self, number: int) -> int:
        try:
            return self._page(number)[_head(number)]
        except _Bad:
            return 0

    def _kinds_of(self, tree: Tree) -> tuple[int, int]:
        is_rows = tree.kind == "table" and self._kind(tree.root) in (_INTERIOR_TABLE, _LEAF_TABLE)
        return (_INTERIOR_TABLE, _LEAF_TABLE) if is_rows else (_INTERIOR_INDEX, _LEAF_INDEX)

    def _cells(self, page: bytes, number: int) -> list[int]:
        """Where the cells begin. Raises _Bad."""
        head = _head(number)
        is_interior = page[head] in (_INTERIOR_INDEX, _INTERIOR_TABLE)
        (count,) = struct.unpack_from(">H", page, head + 3)
        first = head + (12 if is_interior else 8)
        if page[head] not in (_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE):
            raise _Bad
        if first + 2 * count > PAGE_BYTES:
            raise _Bad
        places = list(struct.unpack_from(f">{count}H", page, first))
        if any(not first + 2 * count <= place < PAGE_BYTES for place in places):
            raise _Bad
        return places

    def _is_sound(self, number: int) -> bool:
        try:
            self._cells(self._page(number), number)
        except _Bad:
            return False
        return True

    def _children(self, number: int) -> list[int]:
        """Of a page that is no leaf; empty for a leaf, or one that is bad."""
        try:
            page = self._page(number)
            if page[_head(number)] not in (_INTERIOR_INDEX, _INTERIOR_TABLE):
                return []
            below = [
                struct.unpack_from(">I", page.ljust(PAGE_BYTES + 4), place)[0] for place in self._cells(page, number)
            ]
            return [*below, struct.unpack_from(">I", page, _head(number) + 8)[0]]
        except _Bad:
            return []

    # --- whose they are

    def _own(self, root: int) -> None:
        """From the root down."""
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if 1 <= number <= self._count and number not in self._owners:
                self._owners[number] = root
                waiting += self._children(number)

    def _own_by_map(self, roots: set[int]) -> None:
        """From each page up, where the way down is interrupted."""
        for number in range(3, self._count + 1):
            path: list[int] = []
            at: int | None = number
            while at is not None and at not in self._owners and at not in roots and len(path) < _DEEPEST:
                path.append(at)
                at = self._parent(at)
            if at is None or len(path) == _DEEPEST:
                continue
            owner = self._owners.get(at, at)
            self._owners.update(dict.fromkeys(path, owner))

    def _parent(self, number: int) -> int | None:
        """The page above, as the map says; None if it is in no tree."""
        place = 2 + (number - 2) // (_MAPPED + 1) * (_MAPPED + 1)
        place += place == _LOCK_PAGE
        if number == place or number < 3:
            return None
        try:
            kind, parent = struct.unpack_from(">BI", self._page(place), 5 * (number - place - 1))
        except (_Bad, struct.error):
            return None
        return parent if kind == _BTREE_PARENT else None

    def _pages_of(self, root: int) -> list[int]:
        return sorted(number for number, owner in self._owners.items() if owner == root)

    def _levels(self, root: int) -> Iterator[tuple[int, bool]]:
        """All pages of a tree from the root down, and whether they are at its bottom: all ways are of one length."""
        depth, number = 0, root
        while below := self._children(number):
            depth, number = depth + 1, below[0]
            if depth > _DEEPEST:
                return
        level = [root]
        for height in range(depth, -1, -1):
            yield from ((number, height == 0) for number in level)
            level = [below for number in level for below in self._children(number)]

    # --- what is in them

    def _described(self) -> Iterator[Tree]:
        """Every table and index of which the schema's rows can be read."""
        for number in self._pages_of(1):
            for _, values in self._records(number):
                if len(values) == 5 and values[0] in ("table", "index") and isinstance(values[3], int):
                    tree = _tree(*values)
                    if tree is not None:
                        yield tree

    def _records(self, number: int) -> Iterator[tuple[int | None, list[Any]]]:
        """(rowid, values) of each cell that is whole; the rowid is None in an index, and in a table without one."""
        try:
            page = self._page(number)
            places = self._cells(page, number)
        except _Bad:
            return
        kind = page[_head(number)]
        if kind == _INTERIOR_TABLE:
            return
        for place in places:
            try:
                at = place + (4 if kind == _INTERIOR_INDEX else 0)
                size, at = _varint(page, at)
                rowid = None
                if kind == _LEAF_TABLE:
                    rowid, at = _varint(page, at)
                yield rowid, _decoded(self._payload(page, at, size, is_index=kind != _LEAF_TABLE))
            except (_Bad, IndexError, struct.error, UnicodeDecodeError):
                continue

    def _payload(self, page: bytes, at: int, size: int, *, is_index: bool) -> bytes:
        most = (PAGE_BYTES - 12) * 64 // 255 - 23 if is_index else PAGE_BYTES - 35
        if size <= most:
            if at + size > PAGE_BYTES:
                raise _Bad
            return page[at : at + size]
        least = (PAGE_BYTES - 12) * 32 // 255 - 23
        local = least + (size - least) % (PAGE_BYTES - 4)
        local = local if local <= most else least
        if at + local + 4 > PAGE_BYTES or size > self._count * PAGE_BYTES:
            raise _Bad
        whole = bytearray(page[at : at + local])
        (following,) = struct.unpack_from(">I", page, at + local)
        while len(whole) < size:
            further = self._page(following)
            whole += further[4 : 4 + min(PAGE_BYTES - 4, size - len(whole))]
            (following,) = struct.unpack_from(">I", further)
        if following != 0:
            raise _Bad
        return bytes(whole)


def empty_leaf() -> bytes:
    """A page at the bottom of an index, with nothing on it."""
    head = struct.pack(">BHHHB", _LEAF_INDEX, 0, 0, PAGE_BYTES, 0)
    return head.ljust(PAGE_BYTES, b"\0")


def _head(number: int) -> int:
    return 100 if number == 1 else 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(a signed 64-bit number, where it ends)."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    value = value << 8 | data[at + 8]
    return value - 2**64 if value >= 2**63 else value, at + 9


def _decoded(record: bytes) -> list[Any]:
    """The values of a record that fits exactly."""
    header, at = _varint(record, 0)
    if not at <= header <= len(record):
        raise _Bad
    kinds = []
    while at < header:
        kind, at = _varint(record, at)
        kinds.append(kind)
    values: list[Any] = []
    for kind in kinds:
        value, at = _value(record, at, kind)
        values.append(value)
    if at != len(record):
        raise _Bad
    return values


def _value(record: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (0, 8, 9):
        return (None, 0, 1)[0 if kind == 0 else kind - 7], at
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(record[at:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", record, at)[0], at + 8
    if kind < 12:
        raise _Bad
    end = at + (kind - 12) // 2
    if end > len(record):
        raise _Bad
    return (record[at:end].decode() if kind % 2 else record[at:end]), end


def _tree(kind: str, name: str, table: str, root: int, sql: str | None) -> Tree | None:
    """None if its description cannot be understood."""
    if kind == "index":
        return Tree(name, kind, root, (), (), None)
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(sql or "")
            columns = db.execute("SELECT name, type, dflt_value, pk FROM pragma_table_info(?)", (table,)).fetchall()
            defaults = tuple(db.execute(f"SELECT {column[2] or 'NULL'}").fetchone()[0] for column in columns)
            without_rowid = db.execute("SELECT wr FROM pragma_table_list(?)", (table,)).fetchone()[0]
        except (sqlite3.Error, TypeError):
            return None
    keys = [place for place, column in enumerate(columns) if column[3]]
    is_rowid = len(keys) == 1 and not without_rowid and columns[keys[0]][1].upper() == "INTEGER"
    return Tree(name, kind, root, tuple(column[0] for column in columns), defaults, keys[0] if is_rowid else None)


# --- the log


@contextlib.contextmanager
def _log_of(path: Path) -> Iterator[Any]:
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        yield None
        return
    with log.open("rb", buffering=0) as stream:
        yield stream


def _newest_of_log(log: Any) -> tuple[dict[int, int], int]:
    """Page → where its newest form is, of all that was committed; and how many pages there are then."""
    header = os.pread(log.fileno(), _WAL_HEADER_BYTES, 0)
    if len(header) < _WAL_HEADER_BYTES:
        return {}, 0
    magic, _, page_bytes, _, salt_1, salt_2, *said = struct.unpack(">8I", header)
    order = _WAL_MAGIC.get(magic)
    if order is None or page_bytes != PAGE_BYTES:
        return {}, 0
    sums = _sums(header[:24], order, (0, 0))
    if list(sums) != said:
        return {}, 0
    newest: dict[int, int] = {}
    coming: dict[int, int] = {}
    count, place = 0, _WAL_HEADER_BYTES
    while (
        len(frame := os.pread(log.fileno(), _FRAME_HEADER_BYTES + PAGE_BYTES, place))
        == _FRAME_HEADER_BYTES + PAGE_BYTES
    ):
        number, commit, its_salt_1, its_salt_2, *said = struct.unpack_from(">6I", frame)
        sums = _sums(frame[_FRAME_HEADER_BYTES:], order, _sums(frame[:8], order, sums))
        if (its_salt_1, its_salt_2) != (salt_1, salt_2) or list(sums) != said:
            break
        coming[number] = place + _FRAME_HEADER_BYTES
        place += len(frame)
        if commit:
            newest |= coming
            coming, count = {}, commit
    return newest, count


def _sums(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for one, other in struct.iter_unpack(f"{order}2I", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
