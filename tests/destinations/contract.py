"""What every adapter promises the worker, tried against a stand-in whose faults are scripted and a real spool.

A test module subclasses `DestinationContract`, fills in the hooks, and gets every test below. A fault may cost a try;
it may not cost the item, nor leave anything twice at the destination, nor keep a task waiting.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from relayd import clock
from relayd.destinations.base import Destination
from relayd.errors import DeliveryError, LoginRefused, NotReady, Rejected, Unavailable
from relayd.model import Receipt
from relayd.sandbox import Sandbox
from tests.destinations.driver import Line, PowerCut, line, until

CONTENT = bytes(range(256)) * 240
LONGEST_TRY_SECONDS = 10.0

BROKEN = (
    "status 500",
    "lose",
    "mute",
    "refuse",
    "hang",
    "portal",
    "portal redirect=yes",
    "oversized",
    "schema",
    "bomb 20000000",
    "drip 0.01",
    "garbage",
    "truncate",
)
"""Faults of one answer; each may happen at every operation."""


class DeliveryContract(ABC):
    """Hooks and tests. Limits of the destination that `make` builds: at most half a second for an answer."""

    operations: ClassVar[tuple[str, ...]]
    """The operations of one delivery, in order, without logging in."""
    logins: ClassVar[tuple[str, ...]] = ()
    """Operations before those, that get a token."""
    look: ClassVar[str]
    """The operation with which `check` tries the login."""
    slow: ClassVar[str]
    """The operation that takes long on a slow link."""
    steps: ClassVar[tuple[str, ...]]
    """The stored steps, in order."""
    broken: ClassVar[tuple[str, ...]] = BROKEN
    """Those faults of an answer that this API's answers can have."""
    findable: ClassVar[tuple[str, ...]] = ()
    """Steps whose effect a later try finds at the destination instead of repeating it."""
    documented: ClassVar[Mapping[int, type[DeliveryError]]] = {}
    """What each status that the API documents means for the last operation."""

    @abstractmethod
    def make(self, sandbox: Sandbox) -> Destination:
        """A destination that delivers to the sandbox."""

    @abstractmethod
    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        """Assert that exactly this content is there, once, and that the receipt says so."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "operation" in metafunc.fixturenames:
            metafunc.parametrize("operation", (*self.logins, *self.operations))
        if "broken" in metafunc.fixturenames:
            metafunc.parametrize("broken", self.broken)
        if "step" in metafunc.fixturenames:
            metafunc.parametrize("step", self.steps)
        if "documented_status" in metafunc.fixturenames:
            metafunc.parametrize("documented_status", sorted(self.documented))

    @pytest.fixture
    async def sandbox(self) -> AsyncIterator[Sandbox]:
        async with Sandbox() as served:
            yield served

    @pytest.fixture
    async def line(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Line]:
        async with line(lambda: self.make(sandbox), tmp_path / "spool") as made:
            yield made

    # --- going well

    async def test_a_file_arrives_byte_for_byte_and_the_receipt_says_so(self, sandbox: Sandbox, line: Line) -> None:
        await line.put(CONTENT)
        self.check_delivered(sandbox, await line.deliver(tries=1), CONTENT)

    async def test_nothing_is_logged_but_by_the_worker(
        self, sandbox: Sandbox, line: Line, caplog: pytest.LogCaptureFixture
    ) -> None:
        sandbox.script(f"{self.operations[0]}#1 status 500; {self.operations[-1]}#1 lose")
        await line.put(CONTENT)
        with caplog.at_level(logging.INFO, logger="relayd"):
            await line.deliver()
        assert [record for record in caplog.records if record.name.startswith("relayd.destinations")] == []

    # --- one answer goes wrong

    async def test_a_broken_answer_costs_a_try_and_never_the_item(
        self, sandbox: Sandbox, line: Line, operation: str, broken: str
    ) -> None:
        sandbox.script(f"{operation}#1-2 {broken}")
        await line.put(CONTENT)
        async with asyncio.timeout(LONGEST_TRY_SECONDS):
            outcome = await line.attempt()
        assert isinstance(outcome, DeliveryError)
        assert not isinstance(outcome, Rejected | LoginRefused)
        sandbox.script()
        self.check_delivered(sandbox, await line.deliver(), CONTENT)

    @pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
    async def test_an_outage_pauses_the_destination_for_as_long_as_the_server_asks(
        self, sandbox: Sandbox, line: Line, operation: str, status: int
    ) -> None:
        sandbox.script(f"{operation}#1 status {status} retry_after=7")
        await line.put(CONTENT)
        outcome = await line.attempt()
        assert isinstance(outcome, Unavailable)
        assert outcome.retry_after_seconds == 7
        self.check_delivered(sandbox, await line.deliver(), CONTENT)

    async def test_a_captive_portal_everywhere_pauses_and_is_named(self, sandbox: Sandbox, line: Line) -> None:
        sandbox.script("any portal")
        await line.put(CONTENT)
        outcome = await line.attempt()
        assert isinstance(outcome, Unavailable)
        assert "captive portal" in str(outcome)
        sandbox.script()
        self.check_delivered(sandbox, await line.deliver(), CONTENT)

    async def test_a_link_that_is_down_pauses(self, sandbox: Sandbox, line: Line) -> None:
        await line.put(CONTENT)
        url = sandbox.url
        await sandbox.close()
        outcome = await line.attempt()
        assert isinstance(outcome, Unavailable)
        assert url.removeprefix("http://") in str(outcome)

    async def test_a_slow_answer_is_waited_for_while_it_moves(self, sandbox: Sandbox, line: Line) -> None:
        sandbox.script(f"{self.slow} slow 400000")
        await line.put(CONTENT)
        self.check_delivered(sandbox, await line.deliver(tries=1), CONTENT)

    async def test_a_documented_status_means_what_the_api_says_it_means(
        self, sandbox: Sandbox, line: Line, documented_status: int
    ) -> None:
        sandbox.script(f"{self.operations[-1]} status {documented_status}")
        await line.put(CONTENT)
        outcome = await line.attempt()
        assert type(outcome) is self.documented[documented_status], outcome
        assert sandbox.count(self.operations[-1], effect=True) == 0

    # --- crashes

    async def test_a_crash_after_a_step_repeats_nothing_before_it(
        self, sandbox: Sandbox, line: Line, step: str
    ) -> None:
        await line.put(CONTENT)
        with pytest.raises(PowerCut):
            await line.attempt(dies_at=step)
        await line.restart()
        self.check_delivered(sandbox, await line.deliver(tries=1), CONTENT)
        assert [sandbox.count(operation) for operation in self.operations] == [1] * len(self.operations)

    async def test_a_crash_before_a_step_is_stored_repeats_only_that_step(
        self, sandbox: Sandbox, line: Line, step: str
    ) -> None:
        await line.put(CONTENT)
        with pytest.raises(PowerCut):
            await line.attempt(dies_at=step, is_stored=False)
        await line.restart()
        self.check_delivered(sandbox, await line.deliver(tries=1), CONTENT)
        repeated = "" if step in self.findable else self.operations[self.steps.index(step)]
        counts = {operation: sandbox.count(operation) for operation in self.operations}
        assert counts == {operation: 1 + (operation == repeated) for operation in self.operations}

    async def test_cancelling_a_try_ends_it_at_once_and_loses_nothing(
        self, sandbox: Sandbox, line: Line, operation: str
    ) -> None:
        sandbox.script(f"{operation}#1 hang")
        await line.put(CONTENT)
        task = asyncio.create_task(line.attempt())
        await until(lambda: sandbox.count(operation) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.check_delivered(sandbox, await line.deliver(), CONTENT)

    # --- for people

    async def test_check_finds_nothing_wrong_and_leaves_no_trace(self, sandbox: Sandbox, line: Line) -> None:
        findings = await line.destination.check()
        assert findings
        assert all(finding.is_good and not finding.remedy for finding in findings), findings
        assert [sandbox.count(operation) for operation in self.operations] == [0] * len(self.operations)

    async def test_check_stops_at_what_is_wrong_and_says_what_to_do(self, sandbox: Sandbox, line: Line) -> None:
        sandbox.script(f"{self.look} status 401")
        findings = await line.destination.check()
        assert [finding.is_good for finding in findings] == [True] * (len(findings) - 1) + [False]
        assert findings[-1].subject.endswith("login")
        assert findings[-1].remedy
        await sandbox.close()
        findings = await line.destination.check()
        assert not findings[-1].is_good
        assert findings[-1].subject.endswith("connection")
        assert findings[-1].remedy


class Uptime:
    """How much longer the machine is up than it really is, for what waits in doubt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        real, now = clock.since_boot, clock.now
        monkeypatch.setattr(clock, "since_boot", lambda: real() + self.seconds)
        monkeypatch.setattr(clock, "now", lambda: now() + self.seconds)


class LookingContract(DeliveryContract):
    """The same for an API that does twice what it is asked twice, and that is looked at before it is asked again. The
    last of `operations` is the one that must not be there twice."""

    @abstractmethod
    def make_patient(self, sandbox: Sandbox) -> Destination:
        """As `make`, but in doubt it waits 20 s."""

    @pytest.fixture
    async def patient(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Line]:
        async with line(lambda: self.make_patient(sandbox), tmp_path / "patient") as made:
            yield made

    @pytest.mark.parametrize("status", [504, 502, 500, 0])
    async def test_a_request_that_goes_on_after_it_was_given_up_is_waited_for_and_not_repeated(
        self, sandbox: Sandbox, patient: Line, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        uptime, effect = Uptime(monkeypatch), self.operations[-1]
        sandbox.script(f"{effect}#1 outlast 3600 status={status}")
        await patient.put(CONTENT)
        assert isinstance(await patient.attempt(), DeliveryError)
        for _ in range(3):
            assert isinstance(await patient.attempt(), NotReady)
            uptime.seconds += 1
        await patient.restart()
        await sandbox.finish()
        self.check_delivered(sandbox, await patient.deliver(tries=1), CONTENT)
        assert sandbox.count(effect) == 1


class UndoingContract(LookingContract):
    """The same for an API that lets one take back what came twice."""

    @abstractmethod
    def check_once(self, sandbox: Sandbox) -> None:
        """Assert that the effect is there once; one that came twice is taken back."""

    async def test_a_request_that_goes_on_longer_than_we_wait_leaves_one_effect(
        self, sandbox: Sandbox, patient: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uptime, effect = Uptime(monkeypatch), self.operations[-1]
        sandbox.script(f"{effect}#1 outlast 3600")
        await patient.put(CONTENT)
        assert isinstance(await patient.attempt(), DeliveryError)
        uptime.seconds += 20
        assert isinstance(await patient.attempt(), NotReady)
        assert sandbox.count(effect, effect=True) == 1
        await sandbox.finish()
        await patient.restart()
        uptime.seconds += 20
        await patient.deliver(tries=1)
        self.check_once(sandbox)

    async def test_a_repeat_that_never_was_needed_is_no_delivery_before_it_was_looked_at_once_more(
        self, sandbox: Sandbox, patient: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uptime, effect = Uptime(monkeypatch), self.operations[-1]
        sandbox.script(f"{effect}#1 refuse; {effect}#2 lose")
        await patient.put(CONTENT)
        assert isinstance(await patient.attempt(), DeliveryError)
        uptime.seconds += 20
        assert isinstance(await patient.attempt(), DeliveryError)
        uptime.seconds += 20
        assert isinstance(await patient.attempt(), NotReady)
        uptime.seconds += 20
        self.check_delivered(sandbox, await patient.deliver(tries=1), CONTENT)


class DestinationContract(DeliveryContract):
    """The same for an API where one logs in first, for a token that serves many calls."""

    login: ClassVar[str]
    """The sandbox's name of the operation that gets a token."""
    authorized: ClassVar[str]
    """The first operation that carries the token."""

    def __init_subclass__(cls) -> None:
        cls.logins, cls.look = (cls.login,), cls.login
        cls.slow = cls.operations[min(1, len(cls.operations) - 1)]

    async def test_one_login_serves_many_deliveries_at_once(self, sandbox: Sandbox, line: Line) -> None:
        for number in range(6):
            await line.put(CONTENT + bytes([number]))
        outcomes = await asyncio.gather(*(line.attempt() for _ in range(6)))
        assert [type(outcome) for outcome in outcomes] == [Receipt] * 6
        assert sandbox.count(self.login) == 1

    async def test_a_token_that_is_no_longer_honoured_is_renewed_once_without_costing_a_try(
        self, sandbox: Sandbox, line: Line
    ) -> None:
        await line.put(CONTENT)
        await line.deliver(tries=1)
        sandbox.revoke_tokens()
        await line.put(CONTENT + b"2")
        await line.deliver(tries=1)
        assert sandbox.count(self.login) == 2

    async def test_a_second_401_means_that_the_login_is_refused(self, sandbox: Sandbox, line: Line) -> None:
        sandbox.script(f"{self.authorized} status 401")
        await line.put(CONTENT)
        assert isinstance(await line.attempt(), LoginRefused)
        assert sandbox.count(self.login) == 2
        assert sandbox.count(self.authorized) == 2
        sandbox.script()
        self.check_delivered(sandbox, await line.deliver(), CONTENT)

    @pytest.mark.parametrize("status", [400, 401, 403])
    async def test_credentials_that_are_refused_keep_the_item(self, sandbox: Sandbox, line: Line, status: int) -> None:
        sandbox.script(f"{self.login} status {status}")
        await line.put(CONTENT)
        assert isinstance(await line.attempt(), LoginRefused)
        sandbox.script()
        self.check_delivered(sandbox, await line.deliver(), CONTENT)
