"""Secrets that were read or sent are in no text that is shown."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import secrecy


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrecy, "_KNOWN", secrecy._Known())


@given(secret=st.text(min_size=secrecy.SHORTEST), before=st.text(), after=st.text())
def test_a_secret_is_hidden_in_every_form_in_which_it_travels(secret: str, before: str, after: str) -> None:
    try:
        forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    except UnicodeEncodeError:
        return
    secrecy.remember(secret)
    for form in forms:
        assert form not in secrecy.hidden(f"{before} {form} {after}").replace("***", "")


def test_a_longer_secret_is_hidden_whole_where_a_shorter_one_is_part_of_it() -> None:
    secrecy.remember("secret-1")
    secrecy.remember("secret-1-and-more")
    assert secrecy.hidden("said secret-1-and-more and secret-1") == "said *** and ***"


def test_a_document_keeps_its_shape_and_loses_the_secret_in_keys_and_texts() -> None:
    secrecy.remember("s3cr3t!")
    said = {"id": 7, "s3cr3t!": ["my s3cr3t!", None, {"deep": "s3cr3t!"}], "ok": True}
    assert secrecy.hidden_in(said) == {"id": 7, "***": ["my ***", None, {"deep": "***"}], "ok": True}


def test_what_is_too_short_to_be_a_secret_hides_no_sentence() -> None:
    secrecy.remember("on")
    assert secrecy.hidden("it goes on") == "it goes on"


def test_what_is_known_is_bounded_and_the_one_used_last_stays() -> None:
    for number in range(1000):
        secrecy.remember(f"token-{number}")
        secrecy.remember("the-password")
    assert secrecy.hidden("the-password token-999 token-0") == "*** *** token-0"
