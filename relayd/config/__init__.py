"""The whole TOML as one frozen model: `load()` reads, merges and checks it, and says every error at once.

Promises: a configuration that loads can be run as it is; one that does not is refused with every problem, each at its
file and line with what to write instead. Secrets are named here, never read. Sections that this version does not act on
yet are checked like the others, and `Loaded.notices` says so.

`merge` reads the files, `reading` makes models of sections, `together` and `deliveries` check what must fit together,
`words` puts faults into words, `locate` finds lines, `notices` says what is good to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relayd.config.deliveries import faults_of_rules, resolved
from relayd.config.locate import Path as Place
from relayd.config.merge import (
    Document,
    flat,
    folders_of,
    look_of,
    read,
    read_contents,
    read_leniently,
    read_text,
    sha256_of,
)
from relayd.config.notices import notices_of
from relayd.config.reading import Sections, read_sections
from relayd.config.sections import Config
from relayd.config.together import faults_between
from relayd.errors import ConfigError, Problem
from relayd.spool import SpoolConfig

__all__ = [
    "Config",
    "Loaded",
    "folders_of",
    "load",
    "load_contents",
    "load_text",
    "look_of",
    "sha256_of",
    "spool_path_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that can be run. `sha256` is that of the files' bytes; `notices` are lines for people."""

    config: Config
    sha256: str
    files: tuple[Path, ...]
    notices: tuple[str, ...]
    document: Document = field(repr=False, compare=False)

    @property
    def contents(self) -> list[tuple[Path, bytes]]:
        """The files as they were read."""
        return [(file.path, file.content) for file in self.document.files]

    def differences(self, other: Loaded) -> list[str]:
        """The keys that do not say the same in both, in order."""
        mine, others = flat(self.document.table), flat(other.document.table)
        keys = [key for key in {**mine, **others} if mine.get(key) != others.get(key)]
        return sorted({self.document.key_of(key[:3]) for key in keys})

    def problem(self, place: Place, text: str) -> Problem:
        """Something that turned out to be wrong with the section at `place`, at its line."""
        return self.document.problem(place, text)


def load(files: Sequence[Path] | None) -> Loaded:
    """The configuration from `files`, or for None from /etc/relayd/relayd.toml and /etc/relayd/conf.d/*.toml.

    Raises ConfigError with every problem that was found.
    """
    return _loaded(read(files))


def load_contents(contents: Sequence[tuple[Path, bytes]]) -> Loaded:
    """The configuration that these files held once, each with its path. Raises ConfigError."""
    return _loaded(read_contents(contents))


def load_text(path: Path, text: str) -> Loaded:
    """The configuration that `text` is, as if it stood at `path`; for whoever is about to write it there."""
    return _loaded(read_text(path, text.encode()))


def _loaded(document: Document) -> Loaded:
    sections = read_sections(document.table)
    faults = [*sections.faults, *faults_between(sections), *faults_of_rules(sections)]
    if faults:
        raise ConfigError(sorted({document.problem(path, text) for path, text in faults}))
    return Loaded(
        config=_config(sections),
        sha256=document.sha256,
        files=tuple(file.path for file in document.files),
        notices=_notices(document, sections),
        document=document,
    )


def spool_path_of(files: Sequence[Path] | None) -> Path:
    """Where the spool is, as far as the configuration can be read; never raises on a bad one."""
    section = read_leniently(files).get("spool")
    path = section.get("path") if isinstance(section, dict) else None
    return Path(path) if isinstance(path, str) and path else SpoolConfig().path


def _config(sections: Sections) -> Config:
    return Config.model_validate(
        {
            **sections.single,
            "broker": sections.broker,
            "link": sections.link,
            "source": sections.source,
            "destination": sections.destination,
            "rule": tuple(resolved(rule, sections) for _, rule in sorted(sections.rule.items())),
        }
    )


def _notices(document: Document, sections: Sections) -> tuple[str, ...]:
    return tuple(str(document.problem(path, text)) for path, text in notices_of(sections))
