"""Why there is no connection to a broker, in words."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from relayd import tls
from relayd.broker_config import BrokerConfig
from relayd.broker_settings import ConnectionLost
from relayd.broker_words import in_words, meaning
from relayd.errors import RelaydError
from relayd.resolver import NoAnswer


@dataclass(frozen=True, slots=True)
class Trouble:
    """`is_fault`: it does not mend itself. `was_connected`: it came after the login."""

    text: str
    is_fault: bool
    remedy: str = ""
    try_again_at_once: bool = False
    was_connected: bool = False

    @property
    def in_full(self) -> str:
        """With what a person has to do, if it is a fault."""
        return f"{self.text}; {self.remedy}" if self.is_fault and self.remedy else self.text


def trouble_of(error: BaseException, config: BrokerConfig) -> Trouble:
    """What ended a connection, or kept it from coming about."""
    place = f"{config.host} port {config.port}"
    match error:
        case ConnectionLost(is_tls=True):
            remedy = "set cert_file and key_file to the certificate that the broker knows"
            return Trouble(f"{place}: {error}", is_fault=True, remedy=remedy)
        case ConnectionLost(code=0x87):
            return Trouble(f"{place}: {error}: {in_words(0x87)}", is_fault=True, remedy=meaning(0x86).remedy)
        case ConnectionLost(code=None):
            return Trouble(f"{place}: {error}", is_fault=False, remedy="look at the broker's log", was_connected=True)
        case ConnectionLost(code=int(code)):
            told = meaning(code)
            return Trouble(f"{place}: {error}: {in_words(code)}", told.is_fault, told.remedy)
        case ssl.SSLError():
            text, remedy = tls.words(error)
            return Trouble(f"{place}: {text}", is_fault=True, remedy=remedy)
        case NoAnswer():
            return Trouble(str(error), False, "check the network and its name server")
        case socket.gaierror() | UnicodeError():
            return Trouble(f"{config.host} has no address", False, "check url, the network and its name server")
        case TimeoutError():
            remedy = "look for a firewall on the way, and whether the network is up"
            return Trouble(f"{place} does not answer", is_fault=False, remedy=remedy)
        case OSError():
            reason = error.strerror or type(error).__name__
            remedy = "check url and port, and whether the broker runs"
            return Trouble(f"no connection to {place}: {reason}", is_fault=False, remedy=remedy)
        case tls.NoAuthorities() | RelaydError():
            return Trouble(str(error), is_fault=True)
        case _:
            return Trouble(f"unexpected {type(error).__name__}: {error}", is_fault=True)


def not_taken(error: BaseException) -> Trouble:
    """Somebody here could not take a message, so the connection was dropped."""
    why = str(error) if isinstance(error, RelaydError) else f"{type(error).__name__}: {error}"
    return Trouble(f"a message could not be taken and stays at the broker: {why}", is_fault=False)
