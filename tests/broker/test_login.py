"""TLS, certificates, passwords and `check --online`, against a real mosquitto."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from relayd.broker import Broker
from relayd.model import Finding
from tests.broker.conftest import broker_at, running, until
from tests.broker.mosquitto import Mosquitto


class Authority:
    """A certificate authority, and what it has issued."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.own_cert, self.own_key = folder / "own.pem", folder / "own.key"
        authority.cert_pem.write_to_path(self.ca)
        for issued, cert, key in (
            (authority.issue_cert(host), self.cert, self.key),
            (authority.issue_cert("amb-0417", common_name="amb-0417"), self.own_cert, self.own_key),
        ):
            issued.private_key_pem.write_to_path(key)
            cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    """TLS, and only for those whose certificate the authority has issued."""
    options = f"certfile {authority.cert}\nkeyfile {authority.key}\ncafile {authority.ca}\nrequire_certificate true"
    broker = Mosquitto(tmp_path / "secure", options=options).start()
    yield broker
    broker.kill()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Mosquitto]:
    """Only for `amb-0417` with its password."""
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd")
    assert tool is not None
    subprocess.run([tool, "-c", "-b", str(passwords), "amb-0417", "s3cret"], check=True)
    broker = Mosquitto(tmp_path / "locked", options=f"password_file {passwords}", is_open=False).start()
    yield broker
    broker.kill()


def tls_at(secure: Mosquitto, authority: Authority, **settings: Any) -> Broker:
    files = {"ca_file": str(authority.ca), "cert_file": str(authority.own_cert), "key_file": str(authority.own_key)}
    return broker_at(f"mqtts://127.0.0.1:{secure.port}", **{**files, **settings})


async def test_a_client_certificate_opens_an_encrypted_connection(secure: Mosquitto, authority: Authority) -> None:
    async with running(tls_at(secure, authority)) as broker:
        for _ in range(20):
            assert await broker.publish("a", b"x" * 50_000) in (0, 16)


async def test_a_certificate_of_an_unknown_authority_is_a_fault_with_a_remedy(
    secure: Mosquitto, authority: Authority, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    broker = tls_at(secure, authority, ca_file=str(other))
    async with running(broker, is_awaited=False):
        await until(lambda: "unknown authority" in broker.view().reason, "the fault is said")
        assert broker.view().state == "fault"
    found = by_subject(await broker.check())
    assert "ca_file" in found["TLS"].remedy


async def test_without_the_certificate_the_broker_refuses_and_it_is_said(
    secure: Mosquitto, authority: Authority
) -> None:
    broker = tls_at(secure, authority, cert_file=None, key_file=None)
    async with running(broker, is_awaited=False):
        await until(lambda: "certificate required" in broker.view().reason, "the fault is said")
        assert broker.view().state == "fault"
    assert "cert_file" in by_subject(await broker.check())["login"].remedy


async def test_an_unreadable_certificate_is_a_fault_that_names_the_file(
    secure: Mosquitto, authority: Authority, tmp_path: Path
) -> None:
    broker = tls_at(secure, authority, cert_file=str(tmp_path / "none.pem"))
    async with running(broker, is_awaited=False):
        await until(lambda: "none.pem" in broker.view().reason, "the fault is said")
        assert broker.view().state == "fault"


async def test_a_password_is_read_at_each_connection(locked: Mosquitto, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    broker = broker_at(locked.url, username="amb-0417", password={"file": str(secret)})
    async with running(broker, is_awaited=False):
        await until(lambda: broker.view().state == "fault", "refused")
        assert "not allowed (0x87)" in broker.view().reason or "password" in broker.view().reason
        assert "wrong" not in broker.view().reason.replace("wrong user name", "")
        secret.write_text("s3cret\n")
        broker.nudge()
        await until(lambda: broker.is_connected, "the renewed password is taken")


async def test_a_missing_secret_is_a_fault_that_names_the_place(locked: Mosquitto, tmp_path: Path) -> None:
    broker = broker_at(locked.url, username="amb-0417", password={"file": str(tmp_path / "none")})
    async with running(broker, is_awaited=False):
        await until(lambda: "cannot read the secret" in broker.view().reason, "the fault is said")


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject.partition(": ")[2]: finding for finding in findings}


async def test_check_goes_from_the_name_to_the_rights(mosquitto: Mosquitto) -> None:
    running_relay = broker_at(mosquitto.url)
    async with running(running_relay):
        found = await broker_at(mosquitto.url).check(["a/#", "a/b", "c"], ["relayd/v1/rig/check"])
        assert all(finding.is_good for finding in found), found
        names = [finding.subject.partition(": ")[2] for finding in found]
        assert names == [
            "name",
            "connection",
            "login",
            "subscribe to a/#",
            "subscribe to c",
            "publish under relayd/v1/rig/check",
        ]
        assert running_relay.is_connected


async def test_check_says_what_to_do_where_nobody_listens() -> None:
    found = await broker_at("mqtt://127.0.0.1:9").check()
    assert [finding.is_good for finding in found] == [True, False]
    assert "whether the broker runs" in found[-1].remedy


async def test_check_says_what_to_do_about_an_unknown_name() -> None:
    found = await broker_at("mqtt://nobody.invalid:1883").check()
    assert [finding.is_good for finding in found] == [False]
    assert "name server" in found[0].remedy


async def test_check_says_that_the_login_is_refused(locked: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "wrong")
    found = by_subject(
        await broker_at(locked.url, username="amb-0417", password={"env": "BROKER_PASSWORD"}).check(["a"])
    )
    assert not found["login"].is_good
    assert "password" in found["login"].remedy
    assert "subscribe to a" not in found


async def test_check_says_which_topic_may_not_be_published(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    acl.chmod(0o600)
    guarded = Mosquitto(tmp_path / "guarded", options=f"acl_file {acl}").start()
    try:
        found = by_subject(await broker_at(guarded.url).check([], ["closed/a"]))
        assert not found["publish under closed/a"].is_good
        assert "access list" in found["publish under closed/a"].remedy
    finally:
        guarded.kill()
