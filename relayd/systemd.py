"""Talks to systemd by way of systemd-python, when systemd started us; otherwise every call does nothing.

Promises: importing this needs no systemd-python; a service manager that waits for READY without the library being
there is told in the log, once, since the start would otherwise time out without a word.
"""

from __future__ import annotations

import importlib
import logging
import os

log = logging.getLogger("relayd.systemd")


def notify(*lines: str) -> None:
    """Send state lines such as `READY=1` or `STATUS=delivering`; see sd_notify(3)."""
    if "NOTIFY_SOCKET" not in os.environ:
        return
    try:
        daemon = importlib.import_module("systemd.daemon")
    except ImportError:
        log.warning("systemd waits for a message, but systemd-python is missing: install python3-systemd")
        os.environ.pop("NOTIFY_SOCKET")
        return
    daemon.notify("\n".join(lines))


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from us (`WatchdogSec=`), or None."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None
