"""What holds for every test."""

from __future__ import annotations

import signal

# A shell that runs the tests in the background ignores SIGINT for them, and so for every relay that they start; then no
# Ctrl-C that a test sends would do anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
