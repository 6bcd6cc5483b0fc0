"""How far one gets with a broker, and what to do about it; for `check --online`.

Promises: a running relay is not disturbed; nothing is kept at the broker; what fails is a finding with its remedy.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from relayd import resolver, tls
from relayd.broker_config import BrokerConfig
from relayd.broker_paho import Events
from relayd.broker_settings import ConnectionLost, Settings, Welcome
from relayd.broker_trouble import trouble_of
from relayd.broker_wire import Wire
from relayd.broker_words import FIRST_BAD, UNSUPPORTED_VERSION, in_words, meaning
from relayd.errors import SecretMissing
from relayd.model import Finding
from relayd.threads import in_own_thread


class SettingsFor(Protocol):
    """Settings of a connection that only looks."""

    def __call__(self, *, is_version_5: bool) -> Settings: ...


def context(config: BrokerConfig) -> ssl.SSLContext:
    """Verified TLS as everywhere, with our own certificate if there is one. Raises NoAuthorities, OSError, SSLError."""
    made = tls.client_context(config.ca_file, protocol=None)
    if config.cert_file is not None:
        try:
            made.load_cert_chain(config.cert_file, config.key_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or getattr(error, "reason", None) or type(error).__name__
            raise tls.NoAuthorities(
                f"cannot use the certificate in {config.cert_file} with the key in {config.key_file}: {reason}; "
                "both must be PEM files that belong together"
            ) from None
    return made


async def findings(
    name: str, config: BrokerConfig, settings: SettingsFor, *, filters: Sequence[str], topics: Sequence[str]
) -> list[Finding]:
    """Name, connection, TLS and login, then one line for each filter and topic; ends where nothing further can work."""
    trial = _Trial(f"broker {name}", config)
    if not (await trial.resolve() and await trial.connect()):
        return trial.found
    wire = await trial.log_in(settings)
    if wire is None:
        return trial.found
    try:
        for pattern in filters:
            await trial.subscribe(wire, pattern)
        for topic in topics:
            await trial.publish(wire, topic)
    except (ConnectionLost, TimeoutError) as error:
        trouble = trouble_of(error, config)
        trial.bad("rights", trouble.text, trouble.remedy or "the broker ends the connection: look at its log")
    finally:
        await wire.leave()
    return trial.found


class _Trial:
    def __init__(self, subject: str, config: BrokerConfig) -> None:
        self._subject = subject
        self._config = config
        self._is_version_5 = config.protocol != "3.1.1"
        self.found: list[Finding] = []

    def good(self, what: str, text: str) -> bool:
        self.found.append(Finding(subject=f"{self._subject}: {what}", is_good=True, text=text))
        return True

    def bad(self, what: str, text: str, remedy: str) -> bool:
        self.found.append(Finding(subject=f"{self._subject}: {what}", is_good=False, text=text, remedy=remedy))
        return False

    async def resolve(self) -> bool:
        host, port = self._config.host, self._config.port
        try:
            infos = await resolver.addresses(host, port, self._config.connect_timeout)
        except resolver.NoAnswer as error:
            return self.bad("name", str(error), "check the network and its name server (`resolvectl status`)")
        except (OSError, UnicodeError):
            return self.bad("name", f"{host} has no address", "check url, the network and its name server")
        return self.good("name", f"{host} is {', '.join(sorted({str(info[4][0]) for info in infos})[:4])}")

    async def connect(self) -> bool:
        host, port = self._config.host, self._config.port
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                _, writer = await asyncio.open_connection(host, port)
        except OSError as error:  # TimeoutError is one
            trouble = trouble_of(error, self._config)
            return self.bad("connection", trouble.text, trouble.remedy)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
        return self.good("connection", f"{host} port {port} answers")

    async def log_in(self, settings: SettingsFor) -> Wire | None:
        """TLS and login in one; None if that fails."""
        try:
            wire, welcome = await self._open(settings)
        except (ssl.SSLError, tls.NoAuthorities) as error:
            trouble = trouble_of(error, self._config)
            self.bad("TLS", trouble.text, trouble.remedy or "set ca_file, cert_file and key_file to readable PEM files")
        except SecretMissing as error:
            self.bad("login", str(error), "put the secret there, readable for relayd")
        except (ConnectionLost, OSError) as error:
            trouble = trouble_of(error, self._config)
            self.bad("login", trouble.text, trouble.remedy or "look at the broker's log")
        else:
            if self._config.is_encrypted:
                self.good("TLS", "the certificate is good")
            self.good("login", f"accepted, MQTT {'5' if self._is_version_5 else '3.1.1'}")
            del welcome
            return wire
        return None

    async def _open(self, settings: SettingsFor) -> tuple[Wire, Welcome]:
        try:
            return await self._open_once(settings)
        except ConnectionLost as error:
            if self._config.protocol != "auto" or error.code not in (None, UNSUPPORTED_VERSION):
                raise
        self._is_version_5 = False
        return await self._open_once(settings)

    async def _open_once(self, settings: SettingsFor) -> tuple[Wire, Welcome]:
        made = await in_own_thread("settings", lambda: settings(is_version_5=self._is_version_5))
        wire = Wire(made, _NOBODY)
        return wire, await wire.open()

    async def subscribe(self, wire: Wire, pattern: str) -> None:
        what = f"subscribe to {pattern}"
        code = await wire.ask_for(pattern, qos=1, identifier=None, retain_handling=2)
        if code >= FIRST_BAD:
            self.bad(what, in_words(code), meaning(code).remedy)
        else:
            self.good(what, "allowed" if code else "allowed, but only with QoS 0: messages may be lost on the way")

    async def publish(self, wire: Wire, topic: str) -> None:
        what = f"publish under {topic}"
        code = await wire.send(topic, b"", qos=1, retain=False)
        if code >= FIRST_BAD:
            self.bad(what, in_words(code), meaning(code).remedy)
        elif self._is_version_5:
            self.good(what, "allowed")
        else:
            self.good(what, "acknowledged; with MQTT 3.1.1 a broker cannot say whether that is allowed")


def _ignore(*_: object) -> None:
    return


_ignored: Callable[..., None] = _ignore
_NOBODY = Events(arrived=_ignored, too_large=_ignored, confirmed=_ignored)
