"""Log lines: one line, masked, calm."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.journal import REPEATS_PER_WINDOW, Calm, OneLine, masked


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
    ],
)
def test_a_secret_never_reaches_the_log(leak: str) -> None:
    assert "s3cr3t-value" not in line("server said %s", leak)
    assert "s3cr3t-value" not in masked(leak)


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


def test_information_is_not_held_back() -> None:
    calm = Calm()
    records = [logging.LogRecord("a", logging.INFO, "x", 1, "delivered %s", ("x",), None) for _ in range(50)]
    assert all(calm.filter(record) for record in records)
