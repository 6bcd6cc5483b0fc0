"""What holds for every test."""

from __future__ import annotations

import signal

import hypothesis

# A shell that runs the tests in the background ignores SIGINT for them, and so for every relay that they start; then no
# Ctrl-C that a test sends would do anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How quickly examples are made, and how long one takes, says nothing of relayd: a busy machine must not miss it.
hypothesis.settings.register_profile(
    "relayd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("relayd")
