"""Which texts are secrets, so that nobody repeats them: a server may say back what it was told, in an error or in an
answer that becomes a receipt.

Promises: a secret is known from the moment it is read or sent, in every form in which it travels, and is not in a text
that was passed through `hidden`. Only what is shorter than 6 letters is left alone: to hide `on` would hide half of
every sentence. What is known is bounded; the secrets used last stay known.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections import OrderedDict
from typing import Any

SHORTEST = 6
MOST_KNOWN = 400
"""Forms of secrets; a token is renewed every hour or so."""


class _Known:
    """The secrets of this process; asked from several threads."""

    def __init__(self) -> None:
        self._forms: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        forms = _forms(secret)
        with self._lock:
            if secret not in self._forms:
                self._pattern = None
            for form in forms:
                self._forms[form] = None
                self._forms.move_to_end(form)
            while len(self._forms) > MOST_KNOWN:
                self._forms.popitem(last=False)

    def pattern(self) -> re.Pattern[str] | None:
        with self._lock:
            if self._pattern is None and self._forms:
                longest_first = sorted(self._forms, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            return self._pattern


_KNOWN = _Known()


def remember(secret: str) -> str:
    """From now on this is a secret; returns it."""
    if len(secret) >= SHORTEST:
        _KNOWN.add(secret)
    return secret


def hidden(text: str) -> str:
    """The text with every secret in it replaced by `***`."""
    pattern = _KNOWN.pattern()
    return text if pattern is None else pattern.sub("***", text)


def hidden_in(document: Any) -> Any:
    """The same for every text and every key of a JSON document."""
    if isinstance(document, str):
        return hidden(document)
    if isinstance(document, dict):
        return {hidden(key): hidden_in(value) for key, value in document.items()}
    return [hidden_in(value) for value in document] if isinstance(document, list) else document


def _forms(secret: str) -> set[str]:
    """As it is, as it stands in an address or a form, and within a JSON text."""
    quoted = json.dumps(secret)[1:-1]
    return {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret), quoted}
