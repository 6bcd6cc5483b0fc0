"""The language in which faults are scripted, and the script that decides which request meets which fault.

One rule: `OPERATION[WHICH] FAULT [AMOUNT] [NAME=VALUE…]`; rules are separated by `;` or new lines, `--` starts a
comment.

    store#2 lose                       the second upload: done, then the connection is closed without an answer
    slot#1-3 status 429 retry_after=5  the first three
    store#4+ slow 20000                from the fourth on, at 20,000 bytes a second
    report#1 outlast 8                 a gateway's 504 at once, and the report made 8 seconds later
    any%3 status 500                   3 % of all requests, drawn from the seed
    any portal                         every request meets a captive portal

Promises: calls are counted per operation from the moment the script was given; the first rule that fits decides; the
same seed gives the same faults whatever the order of different operations.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

OPERATIONS = (
    *("token", "slot", "store", "resolve", "fetch"),
    *("webhook", "look"),
    *("categories", "report", "message", "image"),
    *("signin", "profile", "organizations", "folders", "presets", "activate", "activation"),
    *("stream", "save", "ptz", "reboot", "tell", "episodes"),
    *("ping", "incidents", "incident", "shown", "edit", "updates", "update", "amend", "components", "component"),
    *("sharetoken", "sms", "email", "media", "links", "files", "latest", "channels"),
    "any",
)

ACTIONS: Mapping[str, tuple[float | None, frozenset[str], str]] = {
    # name: (default amount, options, what it does); an amount of NaN must be given
    "status": (float("nan"), frozenset({"retry_after", "code", "message"}), "answer this status; nothing is done"),
    "lose": (None, frozenset(), "do it, then close the connection without an answer"),
    "mute": (None, frozenset(), "do it, then never answer"),
    "outlast": (30.0, frozenset({"status"}), "answer 504 (0: not at all) at once, and do it so many seconds later"),
    "spoil": (500.0, frozenset({"as"}), "do it, then answer this status with as=json, text, page or warning"),
    "truncate": (None, frozenset(), "do it, then close the connection in the middle of the answer"),
    "cut": (float("nan"), frozenset(), "close the connection after so many bytes of the request body"),
    "refuse": (None, frozenset(), "close the connection at once"),
    "hang": (3600.0, frozenset(), "read nothing and answer nothing for so many seconds"),
    "slow": (float("nan"), frozenset(), "read the request and write the answer at so many bytes a second"),
    "portal": (None, frozenset({"redirect"}), "a captive portal: 200 and a login page, or a redirect to it"),
    "redirect": (307.0, frozenset({"to"}), "a redirect with this status; storage moves to another address by default"),
    "expired": (0.0, frozenset(), "a token, slot or policy that ends so many seconds after it was made"),
    "oversized": (100e6, frozenset(), "an answer of so many bytes"),
    "schema": (None, frozenset(), "a 200 of the right type and the wrong shape"),
    "bomb": (100e6, frozenset(), "a small gzip answer that grows to so many bytes"),
    "drip": (0.1, frozenset(), "an answer without end, one byte each so many seconds"),
    "garbage": (None, frozenset(), "bytes that are not HTTP, and the end"),
    "corrupt": (None, frozenset({"silent"}), "store one byte altered; with silent=yes the ETag denies it"),
}

_RULE = re.compile(
    r"(?P<operation>[a-z]+)(?:#(?P<first>\d+)(?P<range>-(?P<last>\d+)|\+)?|%(?P<percent>\d+(?:\.\d+)?))?"
    r"\s+(?P<action>[a-z]+)(?P<rest>(?:\s+\S+)*)"
)


class FaultError(ValueError):
    """A rule that cannot be read; the text says what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One rule. `first` to `last` are call numbers from 1; `percent` draws instead."""

    text: str
    operation: str
    action: str
    first: int = 1
    last: float = float("inf")
    percent: float | None = None
    amount: float = 0.0
    options: Mapping[str, str] = field(default_factory=dict)

    def fits(self, operation: str) -> bool:
        """Whether the rule speaks of this operation at all."""
        return self.operation in ("any", operation)


class Script:
    """The rules in force, and the calls counted since they came into force."""

    def __init__(self, text: str = "", seed: int = 0) -> None:
        self.faults = parse(text)
        self._seed = seed
        self._calls: Counter[str] = Counter()

    def next(self, operation: str) -> Fault | None:
        """Count one call of `operation`; the fault it meets, if any."""
        self._calls[operation] += 1
        self._calls["any"] += 1
        return next((fault for fault in self.faults if self._strikes(fault, operation)), None)

    def _strikes(self, fault: Fault, operation: str) -> bool:
        if not fault.fits(operation):
            return False
        if fault.percent is None:
            return fault.first <= self._calls[fault.operation] <= fault.last
        draw = random.Random(f"{self._seed}/{operation}/{self._calls[operation]}/{fault.text}")
        return draw.random() * 100 < fault.percent


def parse(text: str) -> tuple[Fault, ...]:
    """Rules of a script, in order. Raises FaultError for the first that cannot be read."""
    lines = (line.split("--")[0] for line in text.splitlines())
    rules = (rule.strip() for line in lines for rule in line.split(";"))
    return tuple(_parse_rule(rule) for rule in rules if rule)


def _parse_rule(text: str) -> Fault:
    match = _RULE.fullmatch(text)
    if match is None:
        raise FaultError(f"{text!r} is no rule, write for example `store#2 lose` or `any%5 status 500`")
    operation, action = match["operation"], match["action"]
    if operation not in OPERATIONS:
        raise FaultError(f"{operation!r} is no operation, write one of {', '.join(OPERATIONS)}")
    if action not in ACTIONS:
        raise FaultError(f"{action!r} is no fault, write one of {', '.join(ACTIONS)}")
    first = int(match["first"] or 1)
    last = float(match["last"]) if match["last"] else (float("inf") if match["range"] or not match["first"] else first)
    amount, options = _parse_arguments(text, action, match["rest"].split())
    percent = float(match["percent"]) if match["percent"] else None
    return Fault(
        text=text,
        operation=operation,
        action=action,
        first=first,
        last=last,
        percent=percent,
        amount=amount,
        options=options,
    )


def _parse_arguments(text: str, action: str, words: list[str]) -> tuple[float, dict[str, str]]:
    default, known, _ = ACTIONS[action]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    unknown = sorted(options.keys() - known)
    if unknown:
        raise FaultError(
            f"{text!r}: {action} has no option {unknown[0]!r}, known: {', '.join(sorted(known)) or 'none'}"
        )
    if default is None and plain:
        raise FaultError(f"{text!r}: {action} takes no number")
    if len(plain) > 1:
        raise FaultError(f"{text!r}: {action} takes one number")
    if not plain:
        if default is not None and math.isnan(default):
            raise FaultError(f"{text!r}: {action} needs a number")
        return (default or 0.0), options
    try:
        return float(plain[0]), options
    except ValueError:
        raise FaultError(f"{text!r}: {plain[0]!r} is not a number") from None
