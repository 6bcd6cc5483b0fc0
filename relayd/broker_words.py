"""What a broker's reason code means for a technician, and what to do about it.

Promises: codes below 0x80 are good ones. Codes of version 3.1.1 come translated into those of version 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from relayd.errors import DeliveryError, NotAllowed, Rejected, TryAgain, Unavailable

FIRST_BAD = 0x80
UNSUPPORTED_VERSION = 0x84


@dataclass(frozen=True, slots=True)
class Meaning:
    """`is_fault`: it does not mend itself, a person has to do something."""

    text: str
    remedy: str
    is_fault: bool


_LOGIN = "compare username, password and certificate with what the broker knows"
_RIGHTS = "let the broker's access list allow it for this user"
_LATER = "wait; if it stays so, look at the broker"

_MEANINGS = {
    0x80: Meaning("refused without a reason", "look at the broker's log and its access list", True),
    0x81: Meaning("it could not read our packet", "something between us and the broker alters packets", True),
    0x82: Meaning("protocol error", 'try protocol = "3.1.1"', True),
    0x83: Meaning("refused by a rule of its own", "look at the broker's log", True),
    0x84: Meaning("it does not speak this version of MQTT", 'set protocol = "auto"', True),
    0x85: Meaning("it does not accept the client id", "set another client_id", True),
    0x86: Meaning("wrong user name or password", _LOGIN, True),
    0x87: Meaning("not allowed", _RIGHTS, True),
    0x88: Meaning("the server is unavailable", _LATER, False),
    0x89: Meaning("the server is busy", _LATER, False),
    0x8A: Meaning("this client is banned", "ask whoever runs the broker", True),
    0x8B: Meaning("the server shuts down", _LATER, False),
    0x8C: Meaning("it wants another way of logging in", _LOGIN, True),
    0x8D: Meaning("it heard nothing from us for too long", "look at the network", False),
    0x8E: Meaning("another client took over with the same client id", "give each relay a client_id of its own", True),
    0x8F: Meaning("it does not accept the topic filter", "look at the topics", True),
    0x90: Meaning("it does not accept the topic", "look at the topic", True),
    0x91: Meaning("the packet id is in use", _LATER, False),
    0x92: Meaning("it refused the message", _RIGHTS, True),
    0x93: Meaning("it was sent more than it can take at once", _LATER, False),
    0x95: Meaning("the packet is too large for it", "send less, or raise the broker's limit", True),
    0x96: Meaning("messages come too fast for it", _LATER, False),
    0x97: Meaning("a quota is used up", "look at the broker's limits", False),
    0x98: Meaning("closed by whoever runs the broker", _LATER, False),
    0x99: Meaning("it does not accept the form of the payload", "look at the payload", True),
    0x9A: Meaning("it does not keep retained messages", "set retain = false", True),
    0x9B: Meaning("it does not support this quality of service", "set a lower qos", True),
    0x9C: Meaning("another server is to be used", "ask whoever runs the broker, and change url", True),
    0x9D: Meaning("the server has moved", "ask whoever runs the broker, and change url", True),
    0x9E: Meaning("it does not support shared subscriptions", "subscribe without $share/", True),
    0x9F: Meaning("connections come too fast for it", _LATER, False),
    0xA1: Meaning("it does not support subscription identifiers", 'set protocol = "3.1.1"', True),
    0xA2: Meaning("it does not support wildcards", "name every topic", True),
}


def meaning(code: int) -> Meaning:
    """What a reason code of 0x80 or more means."""
    return _MEANINGS.get(code, Meaning("refused", "look at the broker's log", True))


def in_words(code: int) -> str:
    """`not allowed (0x87)`"""
    return f"{meaning(code).text} (0x{code:02x})"


_NEVER = {0x90, 0x95, 0x99, 0x9A, 0x9B}
NOT_AUTHORIZED = 0x87
_OF_ITS_OWN = {0x80, 0x83, 0x87, 0x92}


def refusal(broker: str, topic: str, code: int) -> DeliveryError:
    """What a bad code in answer to a message means for its delivery."""
    text = f"broker {broker} does not take a message under {topic!a}: {in_words(code)}"
    if code in _NEVER:
        return Rejected(text)
    if code == NOT_AUTHORIZED:
        return NotAllowed(f"{text}; {meaning(code).remedy}")
    return TryAgain(f"{text}; {meaning(code).remedy}") if code in _OF_ITS_OWN else Unavailable(text)
