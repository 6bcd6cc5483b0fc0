"""What a good configuration should still be told: sections that this version reads but does not act on, rules that
would not do what one might expect.

Promises: nothing said here keeps relayd from running.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relayd import __version__, destinations
from relayd.config.locate import Path
from relayd.config.reading import Sections
from relayd.incidents import is_dispensable
from relayd.rule_config import DeliverConfig
from relayd.template_budget import TemplateError
from relayd.templates import fields_used

Notice = tuple[Path, str]

_NO_EFFECT = f"has no effect yet in relayd {__version__}"
_UNKNOWN_WHILE_DECIDING = ("id", "sha256")


def notices_of(sections: Sections) -> Iterator[Notice]:
    """Every notice about a document without faults, in the order of the sections."""
    yield from _planned(sections)
    yield from _settings_without_effect(sections)
    yield from _rules_that_surprise(sections)


def _planned(sections: Sections) -> Iterator[Notice]:
    if "web" in sections.single:
        yield ("web",), f"{_NO_EFFECT} (there is no web page)"
    for name in sections.link:
        yield ("link", name), f"{_NO_EFFECT} (every link is used without limits)"
    for index, rule in sections.rule.items():
        if rule.metered is not None:
            yield ("rule", index, "metered"), f"{_NO_EFFECT} (every link is used without limits)"


def _settings_without_effect(sections: Sections) -> Iterator[Notice]:
    for name, source in sections.source.items():
        if getattr(source, "remove_empty", None) is not None:
            if not getattr(source, "recursive", False):
                yield ("source", name, "remove_empty"), "has no effect without recursive = true"
            elif getattr(source, "keep_originals", False):
                yield ("source", name, "remove_empty"), "has no effect with keep_originals: nothing is emptied"


def _rules_that_surprise(sections: Sections) -> Iterator[Notice]:
    for kind, consequence in (("source", "nothing would be taken"), ("destination", "nothing would be sent")):
        if not sections.names(kind):
            yield (kind,), f"there is no {kind}, so {consequence}: write a [{kind}.NAME]"
    if sections.source and sections.destination and not sections.rule:
        yield ("rule",), "there is no rule, so nothing would be delivered: write a [[rule]]"
        return
    yield from _needs_that_nothing_meets(sections)
    for index, rule in sections.rule.items():
        path: Path = ("rule", index)
        if not rule.deliver and rule.incident is None:
            yield path, "delivers nothing: write deliver = [{ to = … }]"
        if rule.when is not None:
            for field in _UNKNOWN_WHILE_DECIDING:
                if field in _used(rule.when):
                    yield (*path, "when"), f"item.{field} is still empty when rules decide, before the item is stored"
    wanted = {name for rule in sections.rule.values() for name in rule.from_}
    wanted |= {name for rule in sections.rule.values() if rule.incident for name in rule.incident.collect}
    for name in sections.source:
        if name not in wanted and "*" not in wanted:
            yield ("source", name), "no rule takes from it, so its items go nowhere"


def _needs_that_nothing_meets(sections: Sections) -> Iterator[Notice]:
    """Actions that need a remote id of an incident, where no rule that opens one asks for it."""
    asked = {
        (entry.to, name)
        for rule in sections.rule.values()
        if rule.incident is not None
        for entry in _all_of(rule.deliver)
        for name in _models(sections, entry.to).opens.get(entry.action or "", ())
    }
    for index, rule in sections.rule.items():
        for position, entry in enumerate(rule.deliver):
            need = _models(sections, entry.to).needs.get(entry.action or "")
            if need is None or is_dispensable(need) or entry.arguments.get(need):
                continue
            if (entry.to, need) not in asked:
                opener = next(a for a, names in _models(sections, entry.to).opens.items() if need in names)
                asking = f'{{ to = "{entry.to}", action = "{opener}" }}'
                yield (
                    ("rule", index, "deliver", position),
                    f"needs the {need} of an incident, and no rule with `incident` delivers {asking}: it is not sent",
                )


def _models(sections: Sections, name: str) -> destinations.Models:
    return destinations.wired(sections.destination[name])


def _all_of(entries: Iterable[DeliverConfig]) -> Iterator[DeliverConfig]:
    for entry in entries:
        yield entry
        yield from _all_of(entry.then)


def _used(condition: str) -> frozenset[str]:
    try:
        return fields_used(condition, "item")
    except TemplateError:
        return frozenset()
