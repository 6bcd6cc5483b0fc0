"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from relayd import clock

# A shell that runs the tests in the background ignores SIGINT for them, and so for every relay that they start; then no
# Ctrl-C that a test sends would do anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How quickly examples are made, and how long one takes, says nothing of relayd: a busy machine must not miss it.
hypothesis.settings.register_profile(
    "relayd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("relayd")

CLOCK = (clock.now, clock.monotonic, clock.since_boot)


@pytest.fixture(autouse=True)
def _no_clock_stays_stopped() -> Iterator[None]:
    """A test that leaves a clock of its own behind fails here, not another one an hour later."""
    yield
    left = (clock.now, clock.monotonic, clock.since_boot) != CLOCK
    clock.now, clock.monotonic, clock.since_boot = CLOCK
    assert not left, "this test has replaced relayd's clock and not put it back"
