"""What is to happen with what comes in: a first rule for each need, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd import destinations
from relayd.broker_filters import is_filter
from relayd.first_config.console import Console, text
from relayd.first_config.draft import Draft, free_name
from relayd.first_config.fill_in import ask_arguments
from relayd.first_config.trial import words_of
from relayd.first_config.vault import Vault
from relayd.rule_config import KNOWN
from relayd.templates import faults_of_condition

MEDIA = {
    "rapidsos": "upload",
    "incidentshare": "media",
    "sayvu": "image",
    "webhook": "post",
    "folder": "copy",
    "mqtt": "publish",
    "cachet": None,
    "watcher": None,
}
"""Type → what it does with a file; None: nothing."""
MESSAGES = {
    "sayvu": ("report",),
    "incidentshare": ("sms", "email"),
    "webhook": ("post",),
    "mqtt": ("publish",),
    "folder": ("copy",),
    "watcher": ("message",),
    "cachet": ("incident",),
    "rapidsos": (),
}
"""Type → what it can do with the press of a button."""
MORE = {"report": ("description",)}
TEXTS = {
    "description": "Panic button in {{ device.name }}",
    "text": "Panic button in {{ device.name }}",
    "body": "Panic button in {{ device.name }}",
    "name": "Panic button in {{ device.name }}",
}
MEDIA_TOPIC = "cameras/{{ device.id }}/{{ item.source }}"
PANIC = "panic"


def ask_files(console: Console, draft: Draft) -> None:
    """What happens with the files of each folder."""
    options = [
        (name, meaning) for name, action, meaning in _for_media(draft) if not _needs_incident(draft, name, action)
    ]
    for source in [name for name, section in draft.source.items() if section["type"] == "folder"]:
        console.say()
        if not options:
            console.say(f"There is no destination that takes files by itself: {source} gets no rule yet.")
            continue
        everything = ",".join(name for name, _ in options)
        names = console.choose_several(
            f"Send everything from {source} to (numbers with commas; - for nowhere)", options, default=everything
        )
        if names:
            rule = f"everything from {source} to {' and '.join(names)}"
            deliver = [_delivery(draft, name, _media_action(draft, name), is_media=True) for name in names]
            draft.rule.append({"name": rule[:64], "from": [source], "deliver": deliver})


def ask_panic(console: Console, vault: Vault, draft: Draft) -> None:
    """A button that reports by MQTT: what it sets off, and the incident that ties the pictures to it."""
    options = list(_for_messages(draft))
    if not draft.broker or not console.confirm(
        "Is there a panic button (or a sensor like one) that reports by MQTT?", default=bool(options)
    ):
        return
    broker = next(iter(draft.broker))
    if len(draft.broker) > 1:
        broker = console.choose("At which broker", [(name, one["url"]) for name, one in draft.broker.items()])
    topic = console.ask("Its topic", _topic, default="vehicle/panic")
    when = console.ask(
        "Which message means pressed (an expression; - for every message)", _condition, default="payload.pressed"
    )
    source = free_name(PANIC, draft.source)
    draft.source[source] = {"type": "mqtt", "broker": broker, "topics": [topic]}
    rule: dict[str, Any] = {"name": "panic button", "from": [source]}
    if when:
        rule["when"] = when
    rule["priority"] = "emergency"
    folders = [name for name, section in draft.source.items() if section["type"] == "folder"]
    is_incident = console.confirm("Open an incident, to which the pictures around it belong?", default=True)
    if is_incident:
        key = f"{PANIC}-{{{{ device.id }}}}"
        rule["incident"] = {"key": key, "collect": folders, "before": "60s", "after": "10m"}
    chosen = _chosen_actions(console, vault, draft, options)
    if chosen or is_incident:
        draft.rule.insert(0, {**rule, "deliver": chosen})
    if is_incident and folders:
        _pictures(console, draft, folders)


def _chosen_actions(
    console: Console, vault: Vault, draft: Draft, options: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    if not options:
        console.say("No destination here can tell anybody of it.")
        return []
    deliver = []
    chosen = console.choose_several("What does it set off (numbers with commas; - for nothing)", options, default="1")
    for word in chosen:
        name, action = word.split(" ", 1)
        model = destinations.models(draft.destination[name]["type"]).actions[action]
        arguments = ask_arguments(console, model, MORE.get(action, ()), TEXTS, words_of(vault, draft, name))
        deliver.append({**_delivery(draft, name, action), **arguments})
    return deliver


def _pictures(console: Console, draft: Draft, folders: list[str]) -> None:
    options = [(name, meaning) for name, _, meaning in _for_media(draft)]
    if not options:
        return
    everything = ",".join(name for name, _ in options)
    names = console.choose_several(
        "Where do the pictures of an incident go (numbers with commas; - for nowhere)", options, default=everything
    )
    if names:
        deliver = [_delivery(draft, name, _media_action(draft, name), is_media=True) for name in names]
        rule = {"name": "pictures of an incident", "from": folders, "when": "incident", "priority": "high"}
        draft.rule.insert(1, {**rule, "deliver": deliver})


def _for_media(draft: Draft) -> Iterator[tuple[str, str, str]]:
    """Destination, its action for files, and what that is."""
    for name, section in draft.destination.items():
        action = _media_action(draft, name)
        if action is not None:
            yield name, action, f"({section['type']} {action})"


def _media_action(draft: Draft, name: str) -> str | None:
    """What a destination does with a file; of a type from elsewhere the first action that needs no argument."""
    kind = draft.destination[name]["type"]
    if kind in MEDIA:
        return MEDIA[kind]
    actions = destinations.models(kind).actions
    return next((action for action, model in actions.items() if _is_easy(model)), None)


def _for_messages(draft: Draft) -> Iterator[tuple[str, str]]:
    for name, section in draft.destination.items():
        actions = destinations.models(section["type"]).actions
        for action in MESSAGES.get(section["type"], tuple(actions)):
            yield f"{name} {action}", (actions[action].__doc__ or "").partition(": ")[2].split("\n")[0]


def _needs_incident(draft: Draft, name: str, action: str) -> bool:
    return action in destinations.models(draft.destination[name]["type"]).needs


def _delivery(draft: Draft, name: str, action: str | None, *, is_media: bool = False) -> dict[str, Any]:
    """With its action, unless there is only one; a file came on no topic, so it is given one."""
    kind = draft.destination[name]["type"]
    is_only = len(destinations.models(kind).actions) == 1
    topic = {"topic": MEDIA_TOPIC} if is_media and kind == "mqtt" else {}
    return {"to": name, **({} if is_only or action is None else {"action": action}), **topic}


def _is_easy(model: Any) -> bool:
    return not any(field.is_required() for field in model.model_fields.values())


def _topic(answer: str) -> str:
    if not answer or not is_filter(answer):
        raise ValueError("write a topic, for example vehicle/panic")
    return text(answer)


def _condition(answer: str) -> str:
    for said in faults_of_condition(answer, KNOWN) if answer else ():
        raise ValueError(said)
    return answer
