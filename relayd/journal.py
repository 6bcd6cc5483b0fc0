"""Log lines: one line each, no secrets, and no flood; to the journal with structured fields when systemd reads us.

Promises: whatever ends up in a message (a hostile name, a server's essay, a signed address) leaves as one printable
line with its secrets masked, and the same complaint is not written more than a few times a minute.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from relayd import clock, systemd
from relayd.files import printable
from relayd.messages import FIELDS
from relayd.secrecy import hidden

REPEATS_PER_WINDOW = 5
WINDOW_SECONDS = 600.0
KINDS_REMEMBERED = 500
LINE_LIMIT = 2000
FIELD_LIMIT = 500
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Of syslog(3), by level."""

_PARTS = ("SOURCE", "DESTINATION", "BROKER", "CAMERA")
_KEYS = (
    "(?:access_token|refresh_token|client_secret|password|passwd|api_key|token|secret|signature|policy"
    "|x-amz-[a-z-]+|awsaccesskeyid)"
)
_SECRETS = re.compile(
    r"(?i)(authorization\s*[:=]\s*(?:\w+\s+)?|bearer\s+|basic\s+"
    rf"|{_KEYS}(?:[\"']\s*[=:]|\s*=|:(?!\s))\s*[\"']?|(?<!/){_KEYS}\s*:\s*[\"']?)[^\s\"'&,;}}]+"
)
"""Keys with their values. An address that ends in `/oauth/token: ` begins a sentence: what follows it is no value."""
_QUERY = re.compile(r"(https?://[^\s?\"'>]+)\?[^\s\"'>]+")
_USERINFO = re.compile(r"(\w+://)[^/\s@]+@")


def masked(text: str) -> str:
    """The text without what is a secret, or looks like one: header values, tokens, signatures, query strings, user
    info."""
    text = _QUERY.sub(r"\1?***", hidden(text))
    text = _USERINFO.sub(r"\1***@", text)
    return _SECRETS.sub(r"\1***", text)


class OneLine(logging.Formatter):
    """Formats a record as one masked, printable line; a traceback is folded into it."""

    def format(self, record: logging.LogRecord) -> str:
        whole = super().format(record)
        place, colon, said = whole.partition(f"{record.name}: ")  # our own words: a destination may be called `secret`
        text = f"{place}{colon}{masked(said)}" if colon else masked(whole)
        lines = [printable(line) for line in text[:LINE_LIMIT].splitlines() if line.strip()]
        return " | ".join(line.strip() for line in lines)


class Calm(logging.Filter):
    """Lets a complaint through a few times per window, then says how many were left out when the next window opens.

    The same complaint: same logger, same level, same sentence before its values, about the same source, destination,
    broker or camera. News of such a part (it works again) is held back likewise, so that a part that comes and goes is
    no flood; news of items is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        parts = tuple(_parts(record))
        if record.levelno < logging.WARNING and (not parts or _is_about_an_item(record)):
            return True
        key = (record.name, record.levelno, str(record.msg), *parts)
        now = clock.monotonic()
        since, count = self._seen.pop(key, (now, 0))
        if now - since > WINDOW_SECONDS:
            left_out = count - REPEATS_PER_WINDOW
            since, count = now, 0
            if left_out > 0:
                record.msg = f"{record.msg} (and {left_out} more like it before)"
        self._seen[key] = (since, count + 1)
        if len(self._seen) > KINDS_REMEMBERED:
            self._seen.popitem(last=False)
        if count + 1 == REPEATS_PER_WINDOW:
            record.msg = f"{record.msg} (more like it are left out for {WINDOW_SECONDS / 60:.0f} min)"
        return count < REPEATS_PER_WINDOW


def _is_about_an_item(record: logging.LogRecord) -> bool:
    return "ITEM" in getattr(record, FIELDS, {})


def _parts(record: logging.LogRecord) -> Iterator[str]:
    """Which part of the relay a record is about; bounded by what is configured, unlike the names of files."""
    fields: Mapping[str, str] = getattr(record, FIELDS, {})
    return (fields[key] for key in _PARTS if key in fields)


class ToJournal(logging.Handler):
    """Hands records to the journal with their fields; where that cannot be had, a line with its priority."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        priority = PRIORITIES.get(record.levelno, 5)
        fields: Mapping[str, str] = getattr(record, FIELDS, {})
        entry = {
            "MESSAGE": text,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "relayd",
            "LOGGER": record.name,
            **{name: printable(masked(value))[:FIELD_LIMIT] for name, value in fields.items()},
        }
        if not systemd.log(entry):
            print(f"<{priority}>{text}", file=sys.stderr, flush=True)  # noqa: T201


def set_up(level: str = "INFO", *, with_time: bool | None = None) -> None:
    """Send every record to the journal if it reads us, else to standard error, with times where nobody adds them."""
    handler: logging.Handler
    if systemd.is_journal(sys.stderr.fileno()):
        handler = ToJournal()
        form = "%(name)s: %(message)s"
    else:
        handler = logging.StreamHandler(sys.stderr)
        timed = sys.stderr.isatty() if with_time is None else with_time
        form = f"{'%(asctime)s ' if timed else ''}%(levelname)s %(name)s: %(message)s"
    handler.setFormatter(OneLine(form))
    handler.addFilter(Calm())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("asyncio", "aiohttp.access", "watchfiles.main"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
