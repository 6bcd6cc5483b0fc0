"""Topics and the filters that subscribe to them: pure text.

Promises: exactly MQTT's rules, the same for both versions of the protocol.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_BYTES = 65_535


def is_topic(text: str) -> bool:
    """Whether one may publish under `text`."""
    return bool(text) and not set(text) & {"+", "#", "\0"} and _fits(text)


def is_filter(text: str) -> bool:
    """Whether MQTT takes `text` as a subscription, `$share/GROUP/FILTER` included."""
    shared, group, plain = _split(text)
    if shared and (not group or set(group) & {"+", "#"}):
        return False
    levels = plain.split("/")
    if not plain or not _fits(text) or "\0" in text or "#" in levels[:-1]:
        return False
    return all(level in ("+", "#") or not set(level) & {"+", "#"} for level in levels)


def is_shared(pattern: str) -> bool:
    """Whether each message that it matches comes to one of several clients only."""
    return pattern.startswith("$share/")


def matches(topic: str, pattern: str) -> bool:
    """Whether a message under `topic` comes by the subscription `pattern`."""
    wanted, given = _split(pattern)[2].split("/"), topic.split("/")
    if given[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(one in ("+", other) for one, other in zip(wanted, given, strict=True))


def covers(wide: str, narrow: str) -> bool:
    """Whether every message that comes by `narrow` also comes by `wide`. Shared subscriptions stand for themselves."""
    if wide == narrow:
        return True
    if wide.startswith("$share/") or narrow.startswith("$share/"):
        return False
    wanted, given = wide.split("/"), narrow.split("/")
    if given[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(given) or given[place] == "#" or level not in ("+", given[place]):
            return False
    return len(given) == len(wanted)


def widest(filters: Iterable[str]) -> list[str]:
    """The filters without those that another one covers: what needs to be subscribed to."""
    distinct = sorted(set(filters))
    return [one for one in distinct if not any(other != one and covers(other, one) for other in distinct)]


def _split(text: str) -> tuple[bool, str, str]:
    """Whether it is shared, its group, and the filter itself."""
    if not text.startswith("$share/"):
        return False, "", text
    group, _, plain = text.removeprefix("$share/").partition("/")
    return True, group, plain


def _fits(text: str) -> bool:
    return len(text.encode("utf-8", "replace")) <= MOST_BYTES
