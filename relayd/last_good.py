"""The last good configuration, kept outside of /etc: what a start goes on with when the files are bad, and where the
spool was.

Promises: written whole or not at all, for the service alone (0600), after the configuration was put to work; the files
as they were, each with its path (a configuration names secrets, it holds none). A copy that is damaged is none. It lies
in the spool's folder, and in the service's own state folder (for `--config FILE` beside that file), which is found
though the files say nothing that can be read, and though the spool has another path now.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayd import clock, config, smallfiles
from relayd.config import Loaded
from relayd.errors import ConfigError
from relayd.spool import SpoolConfig, owed

log = logging.getLogger("relayd.last_good")

NAME = "last-good.json"
LARGEST_BYTES = 40_000_000
MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """What ran last. `at`: since when, Unix seconds. `older`: spools of before that are still owed something."""

    loaded: Loaded
    spool: Path
    at: float
    older: tuple[Path, ...] = ()


def places(files: Sequence[Path] | None, spool: Path) -> list[Path]:
    """Where it is kept, the best first."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        own = Path(state) / NAME
    elif files:
        own = files[0].absolute().parent / f".{files[0].name}.{NAME}"
    else:
        own = SpoolConfig().path / NAME
    return list(dict.fromkeys([own, spool / NAME]))


def keep(files: Sequence[Path] | None, loaded: Loaded, older: Sequence[Path] = ()) -> None:
    """This one is at work. Written only where it says something new."""
    document = _document(loaded, older)
    for place in places(files, loaded.config.spool.path):
        if not _same(_read(place), document):
            _write(place, document)


def last(files: Sequence[Path] | None) -> LastGood | None:
    """What was kept; None if nothing was, or nothing that can be used."""
    for place in places(files, config.spool_path_of(files)):
        document = _read(place)
        if document is None:
            continue
        contents = [(Path(each["path"]), each["content"].encode()) for each in document["files"]]
        try:
            loaded = config.load_contents(contents)
        except ConfigError as error:
            log.warning("%s is of no use to this version of relayd: %s", place, error.problems[0])
            continue
        older = tuple(Path(path) for path in document["older"])
        return LastGood(loaded=loaded, spool=Path(document["spool"]), at=document["at"], older=older)
    return None


def moved(files: Sequence[Path] | None, spool: Path) -> None:
    """The spool is there now: a start with another path has to say so."""
    for place in places(files, spool):
        document = _read(place)
        if document is not None:
            _write(place, {**document, "spool": str(spool), "older": []})


def spool_to_move(files: Sequence[Path] | None, target: Path) -> Path:
    """Which one is meant: the one that the configuration names, or, where that is the target already, the one that
    was there last or is still owed something."""
    named, found = config.spool_path_of(files), _newest(files)
    if found is None:
        return named
    candidates = [Path(path) for path in (str(named), found["spool"], *found["older"])]
    return next((path for path in candidates if path != target and owed(path)), candidates[candidates[0] == target])


def elsewhere(files: Sequence[Path] | None, spool: Path) -> dict[Path, int]:
    """Other spools of this relay that are still owed something: how many items."""
    found = _newest(files)
    if found is None:
        return {}
    paths = dict.fromkeys(Path(path) for path in (found["spool"], *found["older"]))
    return {path: count for path in paths if path != spool and (count := owed(path))}


def _newest(files: Sequence[Path] | None) -> dict[str, Any] | None:
    kept = (_read(place) for place in places(files, config.spool_path_of(files)))
    return next((document for document in kept if document is not None), None)


def _write(place: Path, document: dict[str, Any]) -> None:
    try:
        smallfiles.put(place, _sealed(document), mode=MODE)
    except OSError as error:
        log.info("the last good configuration is not kept in %s: %s", place.parent, error.strerror)


def _document(loaded: Loaded, older: Sequence[Path]) -> dict[str, Any]:
    files = [{"path": str(path), "content": content.decode()} for path, content in loaded.contents]
    spool = str(loaded.config.spool.path)
    return {"at": clock.now(), "spool": spool, "older": [str(path) for path in older], "files": files}


def _same(before: dict[str, Any] | None, document: dict[str, Any]) -> bool:
    return before is not None and {**before, "at": 0} == {**document, "at": 0}


def _sealed(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "last_good": text}).encode()


def _read(place: Path) -> dict[str, Any] | None:
    """None: there is none, or it is not what was written."""
    try:
        with place.open("rb") as stream:
            sealed = json.loads(stream.read(LARGEST_BYTES))
        text = sealed["last_good"]
        if hashlib.sha256(text.encode()).hexdigest() == sealed["sha256"]:
            document: dict[str, Any] = json.loads(text)
            return document
    except FileNotFoundError:
        return None
    except OSError as error:
        log.info("%s cannot be read: %s", place, error.strerror)
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s is damaged: it is ignored", place)
        return None
    log.warning("%s is damaged: it is ignored", place)
    return None
