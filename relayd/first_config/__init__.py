"""`relayd init`: asks what a technician knows, tries each answer, and writes a first configuration.

`console` asks, `fill_in` turns a model into questions, `cameras` and `wishes` ask about folders and rules, `trial`
tries an answer, `vault` keeps secrets until `draft` is written.

Promises: until the last question is answered nothing is written, stored or made; what is written has been read by
`config.load` before; no secret is in it.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayd import destinations, smallfiles
from relayd.broker import BrokerConfig
from relayd.config.merge import MAIN_FILE
from relayd.config.named import secrets_in
from relayd.config.sections import DeviceConfig
from relayd.config.words import validate
from relayd.errors import ConfigError, RelaydError
from relayd.files import printable
from relayd.first_config.cameras import ask_cameras, name_checked
from relayd.first_config.console import Console
from relayd.first_config.draft import KINDS, Draft, free_name
from relayd.first_config.fill_in import fill_in
from relayd.first_config.room import ask_room
from relayd.first_config.trial import try_out
from relayd.first_config.vault import Vault
from relayd.first_config.wishes import ask_files, ask_panic
from relayd.provision import Account

LOCAL_BROKER = ("127.0.0.1", 1883)
LOCAL_SECONDS = 0.5
DONE = "done"
GREETING = (
    "A few questions, and relayd has its first configuration. Enter takes what stands in [brackets], - means none, "
    "? explains. Until the end nothing is written, and Ctrl-C ends it at any time."
)


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it. `remarks` are lines for people, `later` commands that are still to be typed."""

    path: Path
    remarks: tuple[str, ...]
    later: tuple[str, ...]
    is_whole: bool


class Declined(RelaydError):
    """The technician did not want it written."""


def interview(console: Console, output: Path, account: Account | None) -> Written:
    """From the first question to the file. Raises OutOfAnswers, Declined, RelaydError, OSError."""
    is_root = os.geteuid() == 0
    vault = Vault(output.parent / "secrets", may_store=is_root, account=account)
    draft, missing = Draft(), list[Path]()
    console.say(GREETING)
    _ask_device(console, draft)
    ask_room(console, draft, output, is_system=output == MAIN_FILE)
    _ask_brokers(console, vault, draft)
    ask_cameras(console, vault, draft, missing)
    _ask_destinations(console, vault, draft)
    ask_panic(console, vault, draft)
    ask_files(console, draft)
    return _finish(console, vault, draft, missing, output, account if is_root else None)


# --- the device


def _ask_device(console: Console, draft: Draft) -> None:
    console.say()
    console.say("Who is this relay?")
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "relay"
    device: dict[str, Any] = {}

    def fits(key: str, *, is_needed: bool = False) -> Any:
        def checked(answer: str) -> str:
            if not answer and not is_needed:
                return ""
            for path, said in validate(DeviceConfig, {key: answer}, ())[1]:
                if path[:1] == (key,):
                    raise ValueError(said)
            return answer

        return checked

    fields = DeviceConfig.model_fields
    device["id"] = console.ask(
        "Device id", fits("id", is_needed=True), default=host, help_text=fields["id"].description or ""
    )
    name = console.ask("Its name, as people call it", fits("name"), default=device["id"])
    if name and name != device["id"]:
        device["name"] = name
    site = console.ask("Site that it belongs to (Enter: none)", fits("site"), help_text="For example odense.")
    if site:
        device["site"] = site
    place = console.ask(
        "Where it stands, LATITUDE, LONGITUDE (Enter: it moves, or nobody knows)",
        _location,
        help_text="In degrees, for example 55.403, 10.402. A report needs a place.",
    )
    if place is not None:
        device["location"] = place
    draft.single["device"] = device


def _location(answer: str) -> dict[str, float] | None:
    if not answer:
        return None
    parts = re.fullmatch(r"\s*(-?[0-9.]+)\s*[,; ]\s*(-?[0-9.]+)\s*", answer)
    try:
        found = {"latitude": float(parts[1]), "longitude": float(parts[2])} if parts else {}
    except ValueError:
        found = {}
    if not found or validate(DeviceConfig, {"location": found}, ())[1]:
        raise ValueError("write two numbers in degrees, for example 55.403, 10.402")
    return found


# --- brokers


def _ask_brokers(console: Console, vault: Vault, draft: Draft) -> None:
    console.say()
    console.say("MQTT: is there a broker, for a panic button, sensors, or the fleet?")
    while True:
        usual = "mqtt://127.0.0.1:1883" if not draft.broker and _listens(LOCAL_BROKER) else ""
        if usual:
            console.say("(one answers on this machine)", indent=2)
        url = console.ask(
            "Address of a broker, mqtts://HOST:PORT (- for none)"
            if usual
            else "Address of a broker, mqtts://HOST:PORT (Enter: no more)",
            _broker_url,
            default=usual,
        )
        if not url:
            break
        _ask_broker(console, vault, draft, url)
    if draft.broker and console.confirm(
        "Shall a fleet's broker see this relay (state, health, events)?", default=False
    ):
        name = next(iter(draft.broker))
        if len(draft.broker) > 1:
            name = console.choose("Which one", [(one, section["url"]) for one, section in draft.broker.items()])
        draft.single["fleet"] = {"broker": name}
        try_out(console, vault, draft, "broker", name)


def _ask_broker(console: Console, vault: Vault, draft: Draft, url: str) -> None:
    usual = "local" if "127.0.0.1" in url or "localhost" in url else "fleet"
    name = console.ask(
        "Name of this broker", lambda answer: name_checked(answer, draft.broker), default=free_name(usual, draft.broker)
    )
    given: dict[str, Any] = {"url": url}
    _ask_login(console, vault, given, name)
    while True:
        draft.broker[name] = fill_in(console, vault, BrokerConfig, given, name=name)
        outcome = try_out(console, vault, draft, "broker", name)
        if outcome != "change":
            break
        given["url"] = console.ask("Its address", _broker_url, default=given["url"])
        _ask_login(console, vault, given, name)
    if outcome == "drop":
        del draft.broker[name]


def _ask_login(console: Console, vault: Vault, given: dict[str, Any], name: str) -> None:
    username = console.ask(
        "User name there (- for no login)" if given.get("username") else "User name there (Enter: no login)",
        _username,
        default=given.pop("username", ""),
    )
    before = given.pop("password", None)
    if username:
        given["username"] = username
        given["password"] = vault.ask(console, "the password", f"{name}-password", before)


def _broker_url(answer: str) -> str:
    for path, said in validate(BrokerConfig, {"url": answer}, ())[1] if answer else ():
        if path:
            raise ValueError(said)
    return answer


def _username(answer: str) -> str:
    if not answer.isprintable():
        raise ValueError("only printable characters")
    return answer


def _listens(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=LOCAL_SECONDS):
            return True
    except OSError:
        return False


# --- destinations


def _ask_destinations(console: Console, vault: Vault, draft: Draft) -> None:
    options = [(kind, KINDS.get(kind, "")) for kind in destinations.known_types()]
    while True:
        console.say()
        console.say("Where shall things go? One at a time.")
        kind = console.choose("Kind (a number)", [*options, (DONE, "no more")], default=DONE)
        if kind == DONE:
            return
        _ask_destination(console, vault, draft, kind)


def _ask_destination(console: Console, vault: Vault, draft: Draft, kind: str) -> None:
    given: dict[str, Any] = {"type": kind}
    if kind == "mqtt":
        if not draft.broker:
            console.say("! It needs a broker, and none is named.", indent=2)
            return
        given["broker"] = console.choose(
            "Which broker", [(one, section["url"]) for one, section in draft.broker.items()]
        )
    usual = free_name("copy" if kind == "folder" else kind, draft.destination)
    name = console.ask(
        "Name of this destination", lambda answer: name_checked(answer, draft.destination), default=usual
    )
    model, outcome = destinations.models(kind).config, "change"
    while outcome == "change":
        before = draft.destination.get(name, {})
        draft.destination[name] = fill_in(console, vault, model, given, name=name, before=before)
        outcome = try_out(console, vault, draft, "destination", name)
    if outcome == "drop":
        del draft.destination[name]


# --- the end


def _finish(
    console: Console, vault: Vault, draft: Draft, missing: list[Path], output: Path, account: Account | None
) -> Written:
    content = draft.text()
    try:
        notices = draft.load(output).notices
    except ConfigError as error:
        raise RelaydError(f"what came out is no good configuration, nothing was written:\n{error}") from None
    console.say()
    for notice in notices:
        console.say(printable(notice), indent=2)
    rules = [rule["name"] for rule in draft.rule]
    console.say(f"Rules: {'; '.join(rules) or 'none'}")
    if not console.confirm(f"Write {printable(str(output))}", default=True):
        raise Declined("nothing was written")
    vault.forget_all_but(secrets_in(draft.tables()))
    remarks = list(vault.store())
    for path in missing:
        remarks.append(_made(path, account))
    smallfiles.make_folder(output.parent, mode=0o755)
    smallfiles.put(output, content.encode(), mode=0o640, group=None if account is None else account.gid)
    is_whole = not any(remark.startswith("!") for remark in remarks)
    return Written(output, tuple(remarks), tuple(vault.later), is_whole)


def _made(path: Path, account: Account | None) -> str:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if account is not None:
            os.chown(path, -1, account.gid)
            path.chmod(0o2770)
    except OSError as error:
        return f"! {printable(str(path))} could not be made: {error.strerror}"
    return f"{printable(str(path))}: made; whoever delivers files there needs the right to write"
