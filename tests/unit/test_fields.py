"""Sizes, durations and secrets as a technician writes them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayd.config.words import duration_text, size_text
from relayd.errors import SecretMissing
from relayd.fields import Duration, Secret, Section, Size, parse_duration, parse_size, written


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("500MB", 500_000_000),
        ("2GiB", 2_147_483_648),
        ("1kB", 1000),
        ("0B", 0),
        ("1.5 MB", 1_500_000),
        (" 1TB ", 10**12),
    ],
)
def test_a_size_is_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["500", "-1MB", "1 potato", "MB", "", "1e3MB", "٣MB", 5, None, True, "1MB/s", "9" * 400 + "B"]
)
def test_what_is_no_size_is_refused_with_the_remedy(text: object) -> None:
    with pytest.raises(ValueError, match='write for example "500MB"'):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("10m", 600), ("7d", 604_800), ("1h30m", 5400), ("2w", 1_209_600)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", "-1s", "1y", "s", "", 30, None, "1s ago", "1,5s"])
def test_what_is_no_duration_is_refused_with_the_remedy(text: object) -> None:
    with pytest.raises(ValueError, match='write for example "250ms"'):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_a_size_written_out_is_read_as_the_same_size(size_bytes: int) -> None:
    assert parse_size(size_text(size_bytes)) == size_bytes


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_written_out_is_read_as_the_same_duration(seconds: int) -> None:
    assert parse_duration(duration_text(seconds)) == seconds


@given(st.text())
def test_any_text_is_a_size_and_a_duration_or_refused(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ValueError):
            assert 0 <= parse(text) < 1e40


class _Example(Section):
    room: Size = written("20GB", gt=0)
    wait: Duration = written("30s")
    key: Secret | None = None


def test_defaults_are_written_as_text_and_are_numbers_inside() -> None:
    assert _Example().room == 20_000_000_000
    assert _Example().wait == pytest.approx(30)


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(ValidationError):
        _Example.model_validate({"rom": "1GB"})


def test_a_plain_secret_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        _Example.model_validate({"key": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "never written in the configuration itself" in str(caught.value)


def test_a_secret_is_in_exactly_one_place() -> None:
    for places in ({}, {"env": "A", "file": "/x"}):
        with pytest.raises(ValidationError, match="exactly one place"):
            Secret.model_validate(places)


def test_a_secret_prints_as_stars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "secret"
    place.write_text("hunter2\n")
    monkeypatch.setenv("RELAYD_TEST_SECRET", "hunter3")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for secret, value in (
        (Secret(file=place), "hunter2"),
        (Secret(env="RELAYD_TEST_SECRET"), "hunter3"),
        (Secret(credential="secret"), "hunter2"),
    ):
        assert secret.reveal() == value
        assert value not in f"{secret!r} {secret} {secret.place} {secret.model_dump()}"


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for secret in (Secret(file=tmp_path / "no"), Secret(env="RELAYD_NOT_SET"), Secret(credential="no")):
        with pytest.raises(SecretMissing):
            secret.reveal()
