"""The end of the process, which threads that hang do not hold up.

Promises: what was logged and printed is out before; nothing else is waited for. `at_the_latest` ends a stop that takes
too long, whatever it waits for, even the loop itself: every durable write can be cut at any point, as by a power cut.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
from typing import NoReturn

log = logging.getLogger("relayd.leaving")

LONGEST_STOP_SECONDS = 4.5
"""Promised are 5."""
CUT = "it did not stop within %.1f s: it is cut; everything that was accepted is kept, and goes on at the next start"


def leave(code: int) -> NoReturn:
    """Now, with this exit code. Threads that hang in the kernel end with the process."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def at_the_latest(code: int) -> None:
    """From now on the process has LONGEST_STOP_SECONDS to end by itself."""

    def cut() -> None:
        log.warning(CUT, LONGEST_STOP_SECONDS)
        if log.isEnabledFor(logging.DEBUG):
            faulthandler.dump_traceback(all_threads=True)
        leave(code)

    timer = threading.Timer(LONGEST_STOP_SECONDS, cut)
    timer.daemon = True
    timer.start()
