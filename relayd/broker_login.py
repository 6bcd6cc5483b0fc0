"""How this relay presents itself to a broker, and which version of MQTT it speaks there.

Promises: a renewed password or certificate counts from the next connection. Version 5 is tried first, then 3.1.1,
unless the configuration says which; once the broker has taken a connection, its version stays.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from relayd import broker_check
from relayd.broker_config import BrokerConfig
from relayd.broker_settings import ConnectionLost, Settings, Will
from relayd.broker_trouble import Trouble
from relayd.broker_words import UNSUPPORTED_VERSION

log = logging.getLogger("relayd.broker")


class Login:
    """One relay's at one broker."""

    def __init__(self, name: str, config: BrokerConfig, client_id: str, *, keeps_session: bool) -> None:
        self.client_id = client_id
        self.is_version_5 = config.protocol != "3.1.1"
        self._name = name
        self._config = config
        self._keeps_session = keeps_session
        self._is_version_known = config.protocol != "auto"

    def settings(self, will: Will | None) -> Settings:
        """As of now. Raises SecretMissing, NoAuthorities, OSError, ssl.SSLError."""
        config = self._config
        return Settings(
            host=config.host,
            port=config.port,
            client_id=self.client_id,
            is_version_5=self.is_version_5,
            username=config.username,
            password=None if config.password is None else config.password.reveal(),
            tls=broker_check.context(config) if config.is_encrypted else None,
            will=will,
            keepalive_seconds=max(1, round(config.keepalive)),
            timeout_seconds=config.connect_timeout,
            keeps_session=self._keeps_session,
            session_expiry_seconds=min(round(config.session_expiry), 0xFFFFFFFE),
            receive_maximum=config.receive_maximum,
            max_packet_bytes=config.max_packet,
        )

    def settings_for_check(self, *, is_version_5: bool) -> Settings:
        """Under a client id of its own, leaving nothing behind."""
        return replace(
            self.settings(None), client_id=f"{self.client_id}-check", is_version_5=is_version_5, keeps_session=False
        )

    def accepted(self) -> None:
        """The broker has taken a connection: it speaks this version."""
        self._is_version_known = True

    def other_version(self, error: Exception) -> Trouble | None:
        """Whether the other version should be tried, at once."""
        if self._is_version_known:
            return None
        is_about_version = (
            isinstance(error, ConnectionLost) and not error.is_tls and error.code in (None, UNSUPPORTED_VERSION)
        )
        if not is_about_version:
            return None
        self.is_version_5 = not self.is_version_5
        if self.is_version_5:
            return None
        log.info("broker %s does not take MQTT 5: trying 3.1.1", self._name)
        return Trouble(str(error), is_fault=False, try_again_at_once=True)
