"""Reads the configuration files and merges them into one document that remembers which file each part came from.

Promises: nothing is read past a limit; a file that is not valid TOML is a problem with its line, never an exception.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from relayd.config.locate import Path, first_error_line, line_of, lines_of
from relayd.errors import ConfigError, Problem
from relayd.files import printable

LARGEST_FILE_BYTES = 1_000_000
MOST_FILES = 200
DEEPEST = 64
MAIN_FILE = FilePath("/etc/relayd/relayd.toml")
DROP_IN_FOLDER = FilePath("/etc/relayd/conf.d")


@dataclass(slots=True)
class _File:
    path: FilePath
    content: bytes
    table: dict[str, Any]
    lines: dict[Path, int] | None = None


@dataclass(slots=True)
class Document:
    """All files as one table. `locate` says where a path of it was written."""

    table: dict[str, Any] = field(default_factory=dict)
    files: list[_File] = field(default_factory=list)
    sha256: str = ""
    _origins: dict[Path, tuple[_File, Path]] = field(default_factory=dict)

    def add(self, file: _File) -> None:
        """Lay a further file over what is there: tables are merged, rules appended, anything else replaced."""
        self.files.append(file)
        self._lay(self.table, file.table, (), file)

    def locate(self, path: Path) -> tuple[str, int]:
        """The file and the line of `path`, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                file, local = self._origins[path[:length]]
                if file.lines is None:
                    file.lines = lines_of(file.content)
                return str(file.path), line_of(file.lines, (*local, *path[length:]))
        return str(self.files[0].path if self.files else MAIN_FILE), 1

    def problem(self, path: Path, text: str) -> Problem:
        """A problem at `path`, named as the technician reads it."""
        file, line = self.locate(path)
        return Problem(file=file, line=line, key=printable(self.key_of(path)), text=printable(text))

    def key_of(self, path: Path) -> str:
        """`destination.rapidsos.url`; a rule by its name, elements of lists counted from 1."""
        words: list[str] = []
        for position, part in enumerate(path):
            if isinstance(part, str):
                words.append(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"')
            elif position == 1 and path[0] == "rule":
                words.append(self._rule_name(part))
            else:
                words[-1] += f"[{part + 1}]"
        return ".".join(word for word in words if word)

    def _rule_name(self, index: int) -> str:
        rules = self.table.get("rule")
        rule = rules[index] if isinstance(rules, list) and index < len(rules) else None
        name = rule.get("name") if isinstance(rule, dict) else None
        if not isinstance(name, str) or not name or not name.isprintable():
            return f"[{index + 1}]"
        return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name[:64]}"'

    def _lay(self, below: dict[str, Any], above: dict[str, Any], path: Path, file: _File) -> None:
        for key, value in above.items():
            place = (*path, key)
            present = below.get(key)
            if isinstance(value, dict) and (present is None or isinstance(present, dict)):
                self._origins.setdefault(place, (file, place))
                self._lay(below.setdefault(key, {}), value, place, file)
            elif place == ("rule",) and isinstance(value, list) and isinstance(present, list):
                self._append(present, value, file)
            else:
                self._replace(below, key, value, place, file)

    def _append(self, rules: list[Any], more: list[Any], file: _File) -> None:
        for local, rule in enumerate(more):
            self._origins["rule", len(rules)] = (file, ("rule", local))
            rules.append(rule)

    def _replace(self, below: dict[str, Any], key: str, value: Any, place: Path, file: _File) -> None:
        for old in [old for old in self._origins if old[: len(place)] == place]:
            del self._origins[old]
        self._origins[place] = (file, place)
        below[key] = list(value) if place == ("rule",) and isinstance(value, list) else value


def read(files: Sequence[FilePath] | None) -> Document:
    """What `files` say, or from the system's place. Raises ConfigError: unreadable, too large, not TOML."""
    document = Document()
    problems: list[Problem] = []
    digest = hashlib.sha256()
    for path in _system_files(problems) if files is None else files:
        try:
            content = _content(path)
            document.add(_File(path, content, _parsed(path, content)))
            digest.update(content)
        except RecursionError:
            problems.append(_at(path, "is nested too deeply"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    document.sha256 = digest.hexdigest()
    return document


def read_contents(contents: Sequence[tuple[FilePath, bytes]]) -> Document:
    """The same of files as they were once. Raises ConfigError."""
    document = Document()
    digest = hashlib.sha256()
    for path, content in contents:
        document.add(_File(path, content, _parsed(path, content)))
        digest.update(content)
    document.sha256 = digest.hexdigest()
    return document


def flat(table: dict[str, Any], place: Path = ()) -> dict[Path, Any]:
    """Every value that is no table, by its path."""
    found: dict[Path, Any] = {}
    for key, value in table.items():
        found.update(flat(value, (*place, key)) if isinstance(value, dict) else {(*place, key): value})
    return found


def read_text(path: FilePath, content: bytes) -> Document:
    """The same of a file that is not written yet. Raises ConfigError."""
    try:
        document = Document(sha256=hashlib.sha256(content).hexdigest())
        document.add(_File(path, content, _parsed(path, content)))
    except RecursionError:
        raise ConfigError([_at(path, "is nested too deeply")]) from None
    return document


def sha256_of(files: Sequence[FilePath] | None) -> str | None:
    """What `Document.sha256` would be now, whatever the files say; None if one of them cannot be read."""
    problems: list[Problem] = []
    digest = hashlib.sha256()
    try:
        for path in _system_files(problems) if files is None else files:
            digest.update(_content(path))
    except ConfigError:
        return None
    return None if problems else digest.hexdigest()


def look_of(files: Sequence[FilePath] | None) -> object:
    """Compares unequal once a file was written, replaced, added or taken away; costs a look at each of them."""
    seen: list[object] = []
    for path in _system_files([]) if files is None else files:
        try:
            found = path.stat()
        except OSError as error:
            seen.append((path, error.errno))
        else:
            seen.append((path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return seen


def folders_of(files: Sequence[FilePath] | None) -> list[FilePath]:
    """Where files of the configuration are, or may come."""
    folders = [MAIN_FILE.parent, DROP_IN_FOLDER] if files is None else [path.absolute().parent for path in files]
    return sorted({folder for folder in folders if folder.is_dir()})


def read_leniently(files: Sequence[FilePath] | None) -> dict[str, Any]:
    """As much of the configuration as can be read; for those who need one value of it and not a judgement."""
    return read_document_leniently(files).table


def read_document_leniently(files: Sequence[FilePath] | None) -> Document:
    """The same, with what is known of where each part was written."""
    document = Document()
    for path in _system_files([]) if files is None else files:
        try:
            content = _content(path)
            document.add(_File(path, content, _parsed(path, content)))
        except (ConfigError, RecursionError):
            continue
    return document


def files_below(root: FilePath) -> list[FilePath] | None:
    """The files of the system in the tree below `root`; None for the system itself."""
    return None if root == FilePath("/") else list(_system_files([], root))


def _system_files(problems: list[Problem], root: FilePath = FilePath("/")) -> Iterator[FilePath]:
    yield root / MAIN_FILE.relative_to("/")
    folder = root / DROP_IN_FOLDER.relative_to("/")
    try:
        drop_ins = sorted(path for path in folder.iterdir() if path.suffix == ".toml" and path.is_file())
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(_at(folder, f"cannot be listed: {error.strerror}"))
        return
    if len(drop_ins) > MOST_FILES:
        problems.append(_at(folder, f"holds {len(drop_ins)} files, at most {MOST_FILES} are read"))
        return
    yield from drop_ins


def _content(path: FilePath) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            [_at(path, "does not exist, write it with `relayd init` or name another with --config")]
        ) from None
    except OSError as error:
        raise ConfigError([_at(path, f"cannot be read: {error.strerror}")]) from None
    if len(content) > LARGEST_FILE_BYTES:
        raise ConfigError([_at(path, f"is larger than {LARGEST_FILE_BYTES} bytes: this is no configuration")])
    return content


# Possessive, so that it is quick on any file; tomllib takes hours over a dotted key of a million parts.
_ENDLESS_KEY = re.compile(rb"(?<![\w-])(?:[\w-]++\s*+\.\s*+){%d}" % DEEPEST)


def _parsed(path: FilePath, content: bytes) -> dict[str, Any]:
    endless = _ENDLESS_KEY.search(content)
    if endless:
        line = content.count(b"\n", 0, endless.start()) + 1
        raise ConfigError([_at(path, f"a dotted key has more than {DEEPEST} parts", line)])
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([_at(path, "is not UTF-8 text here, save the file as UTF-8", line)]) from None
    except RecursionError:
        raise ConfigError([_at(path, "is nested too deeply")]) from None
    except ValueError as error:
        raise ConfigError([_syntax_problem(path, content, str(error))]) from None
    if _is_deeper_than(DEEPEST, table):
        raise ConfigError([_at(path, "is nested too deeply")])
    return table


def _is_deeper_than(depth: int, table: dict[str, Any]) -> bool:
    level: list[Any] = [table]
    for _ in range(depth):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, (dict, list))]
    return bool(level)


_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SYNTAX_WORDS = {
    "Expected '=' after a key in a key/value pair": "there is no `=` after the key, write key = value",
    "Invalid value": 'not a value, write text in quotes: key = "text"',
    "Expected newline or end of document after a statement": "one key a line: something follows the value",
    "Cannot overwrite a value": "this key is written twice, keep one of them",
    "Cannot declare": "this table is written twice, put its keys under one header",
    "Unclosed array": "the list is not closed, a ] is missing",
    "Unclosed inline table": "the table is not closed, a } is missing",
    "Expected \"'": "the text is not closed, a quote is missing",
    "Unterminated string": "the text is not closed, a quote is missing",
    "Illegal character '\\n'": "the text is not closed on its line, a quote is missing",
    "Invalid initial character for a key part": "not a key; a key with spaces or other signs stands in quotes",
    "Invalid statement": "not a key, a [table] or a comment",
    "Unescaped '\\' in a string": "write \\\\ for one backslash, or put the text in 'single quotes'",
    "Expected ']' at the end of a table declaration": "the header is not closed, a ] is missing",
    "Expected ']]' at the end of an array declaration": "the header is not closed, a ]] is missing",
}


def _syntax_problem(path: FilePath, content: bytes, message: str) -> Problem:
    position = _POSITION.search(message)
    last = content.rstrip().count(b"\n") + 1
    found = int(position[1]) if position and position[1] else last + 1
    if found > last:
        # Where it was opened is what helps, not where the file ends.
        text = "opened here and never closed: a quote, ] or } is missing"
        return Problem(file=str(path), line=first_error_line(content) or last, key="TOML", text=text)
    bare = _POSITION.sub("", message)
    words = next((words for start, words in _SYNTAX_WORDS.items() if bare.startswith(start)), bare)
    return Problem(file=str(path), line=found, key="TOML", text=words)


def _at(path: FilePath, text: str, line: int = 1) -> Problem:
    return Problem(file=str(path), line=line, key="file", text=text)
