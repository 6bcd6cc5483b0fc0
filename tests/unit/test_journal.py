"""Log lines: one line, masked, calm; and entries of the journal, with fields."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import systemd
from relayd.journal import REPEATS_PER_WINDOW, Calm, OneLine, ToJournal, masked
from relayd.messages import Message, about


def line(message: str, *args: object, exception: BaseException | None = None) -> str:
    info = None if exception is None else (type(exception), exception, exception.__traceback__)
    record = logging.LogRecord("relayd.test", logging.WARNING, "x.py", 1, message, args, info)
    return OneLine("%(levelname)s %(name)s: %(message)s").format(record)


@given(text=st.text())
def test_whatever_a_stranger_calls_a_file_the_log_stays_one_printable_line(text: str) -> None:
    out = line("took %s", text)
    assert len(out.splitlines()) <= 1
    assert "\x1b" not in out
    assert "\r" not in out


@pytest.mark.parametrize(
    "leak",
    [
        "Authorization: Bearer s3cr3t-value",
        "authorization=Basic s3cr3t-value",
        "https://bucket.example/x?X-Amz-Signature=s3cr3t-value&a=1",
        "client_secret=s3cr3t-value",
        '{"client_secret": "s3cr3t-value"}',
        '{"access_token":"s3cr3t-value","x":1}',
        "password: s3cr3t-value",
        "mqtts://user:s3cr3t-value@broker.example",
        "'x-amz-security-token': 's3cr3t-value'",
        "policy=s3cr3t-value",
        "client_secret:s3cr3t-value",
        "client_secret : s3cr3t-value",
        "sessionToken: s3cr3t-value",
        "X-Auth-Token: s3cr3t-value",
        "https://api.example/oauth/token?client_secret=s3cr3t-value",
        "api.example/oauth/token=s3cr3t-value",
    ],
)
def test_a_secret_never_reaches_the_log(leak: str) -> None:
    assert "s3cr3t-value" not in line("server said %s", leak)
    assert "s3cr3t-value" not in masked(leak)


@pytest.mark.parametrize(
    "sentence",
    [
        "no login: 127.0.0.1:8490/oauth/token: the connection broke before the answer came",
        "api.example/oauth/token: its name is unknown",
        "client_secret cannot be had: there is no credential rapidsos: run `relayd credential add rapidsos`",
        "topic wildcards are fine: site/+/panic",
    ],
)
def test_what_tells_a_technician_what_is_wrong_is_not_masked_away(sentence: str) -> None:
    assert line("rapidsos pauses: %s", sentence).endswith(sentence)


def test_a_destination_may_be_called_secret() -> None:
    record = logging.LogRecord("relayd.worker.my-secret", logging.WARNING, "x.py", 1, "it pauses: %s", ("so",), None)
    assert (
        OneLine("%(levelname)s %(name)s: %(message)s").format(record)
        == "WARNING relayd.worker.my-secret: it pauses: so"
    )


def test_a_traceback_is_folded_into_its_line_and_masked() -> None:
    try:
        raise RuntimeError("token=s3cr3t-value\nsecond line")
    except RuntimeError as error:
        out = line("failed", exception=error)
    assert "s3cr3t-value" not in out
    assert "RuntimeError" in out
    assert len(out.splitlines()) == 1


def test_ten_thousand_equal_complaints_are_a_few_lines() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(message)s"))
    handler.addFilter(Calm())
    logger = logging.getLogger("relayd.flood")
    logger.propagate = False
    logger.addHandler(handler)
    for number in range(10_000):
        logger.warning("item %d is dead", number)
    lines = stream.getvalue().splitlines()
    assert len(lines) == REPEATS_PER_WINDOW
    assert "left out" in lines[-1]


def test_complaints_about_different_parts_do_not_hold_back_each_other() -> None:
    calm = Calm()

    def is_shown(source: str, file: str) -> bool:
        record = logging.LogRecord("relayd.sources", logging.WARNING, "x.py", 1, "source %s broke", (source,), None)
        record.__dict__.update(about(source=source, file=file))
        return calm.filter(record)

    assert all(is_shown(f"camera-{number}", "a") for number in range(20))
    shown = [is_shown("camera-1", f"{number}.jpg") for number in range(20)]
    assert shown.count(True) == REPEATS_PER_WINDOW - 1, "names of files are no parts: a flood of them is one complaint"


def test_information_is_not_held_back() -> None:
    calm = Calm()
    records = [logging.LogRecord("a", logging.INFO, "x", 1, "delivered %s", ("x",), None) for _ in range(50)]
    assert all(calm.filter(record) for record in records)


def test_a_part_that_comes_and_goes_is_no_flood_and_every_delivered_item_is_shown() -> None:
    calm = Calm()

    def shown(text: str, level: int, **fields: str) -> bool:
        record = logging.LogRecord("relayd.worker.there", level, "x.py", 1, text, ("there",), None)
        record.__dict__.update(about(**fields))
        return calm.filter(record)

    flaps = [
        (
            shown("%s pauses", logging.WARNING, destination="there"),
            shown("%s answers again", logging.INFO, destination="there"),
            shown("delivered to %s", logging.INFO, destination="there", item="01m8"),
        )
        for _ in range(100)
    ]
    assert [column.count(True) for column in zip(*flaps, strict=True)] == [REPEATS_PER_WINDOW, REPEATS_PER_WINDOW, 100]


# --- the journal


class Journal:
    """A journal's socket of our own; `entries` reads what came, field by field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._door.bind(str(path))
        self._door.setblocking(False)

    def close(self) -> None:
        self._door.close()

    def entry(self) -> dict[str, str]:
        rest, fields = self._door.recv(65536), {}
        while rest:
            name, _, rest = rest.partition(b"\n")
            (size,) = struct.unpack_from("<Q", rest)
            fields[name.decode()] = rest[8 : 8 + size].decode()
            assert rest[8 + size : 9 + size] == b"\n"
            rest = rest[9 + size :]
        return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    monkeypatch.setattr(systemd.log, "__defaults__", (str(made.path),))
    yield made
    made.close()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    handler = ToJournal()
    handler.setFormatter(OneLine("%(name)s: %(message)s"))
    made = logging.getLogger("relayd.journal-test")
    made.propagate = False
    made.addHandler(handler)
    yield made
    made.removeHandler(handler)


def test_an_entry_says_what_it_is_about_in_fields(journal: Journal, logger: logging.Logger) -> None:
    logger.warning("%s is dead", "a.jpg", extra=about(Message.ITEM_DEAD, item="01abc", destination="rapidsos"))
    assert journal.entry() == {
        "MESSAGE": "relayd.journal-test: a.jpg is dead",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "relayd",
        "LOGGER": "relayd.journal-test",
        "MESSAGE_ID": Message.ITEM_DEAD.value,
        "ITEM": "01abc",
        "DESTINATION": "rapidsos",
    }


@given(text=st.text())
def test_no_field_can_be_broken_out_of(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "j")
        try:
            assert systemd.log({"MESSAGE": text, "FILE": text, "ITEM": "x"}, str(journal.path))
            entry = journal.entry()
            assert entry.keys() == {"MESSAGE", "FILE", "ITEM"}
            assert entry["ITEM"] == "x"
        finally:
            journal.close()


def test_no_secret_gets_into_any_field(journal: Journal, logger: logging.Logger) -> None:
    try:
        raise RuntimeError("token=s3cr3t-value")
    except RuntimeError:
        logger.exception("failed: %s", "password: s3cr3t-value", extra=about(file="x?secret=s3cr3t-value"))
    entry = journal.entry()
    assert "s3cr3t-value" not in str(entry)
    assert "***" in entry["FILE"]
    assert "RuntimeError" in entry["MESSAGE"]


def test_where_the_journal_cannot_be_had_a_line_with_its_priority_is_left(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(systemd.log, "__defaults__", (str(tmp_path / "nowhere"),))
    logger.error("the disk\nis full")
    assert capsys.readouterr().err == "<3>relayd.journal-test: the disk | is full\n"


def test_the_journal_is_known_by_its_stream_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("wb") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert systemd.is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not systemd.is_journal(stream.fileno())
