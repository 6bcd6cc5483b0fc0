"""Where a request may go when a server, not the technician, names the address.

Promises: the address is judged where it is final, at the socket, after every alias, encoding and DNS answer; a name
that merely looks public helps nobody. Link-local addresses (the metadata services of clouds), multicast, tunnels that
hide another address, and everything reserved are refused whatever the configuration says.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from yarl import URL

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, _SocketAddress]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
"""A last label that begins with a digit makes a name that resolvers read as a number (`0x7f.1`)."""
_VISIBLE = re.compile(r"[!-\[\]-~]{1,8192}")
"""Visible ASCII without the backslash, which parsers disagree about."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# The tables are spelled out because `is_global` changed its mind between Python's patch releases.
_NOT_PUBLIC_4 = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_NOT_PUBLIC_6 = tuple(ipaddress.ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_ON_SITE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)


class AddressRefused(Exception):
    """This address may not be used; the text says why, without query strings."""


class SocketRefused(OSError):
    """What the connecting side understands: no connection to this address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressGuard:
    """Which addresses from a server are followed.

    `suffixes`: host names must end in one of them; empty: any. `allow_private`: private, shared and loopback addresses
    and any port too, for on-site servers. `allow_plain_http`: with `allow_private`, no TLS demanded of them.
    """

    suffixes: tuple[str, ...] = ()
    allow_private: bool = False
    allow_plain_http: bool = False

    def parse(self, text: str) -> URL:
        """The address as a URL that is sent exactly as written. Raises AddressRefused."""
        url = parse_url(text)
        host = str(url.raw_host).lower()
        if not self._takes_scheme(url.scheme, host):
            raise AddressRefused(f"{where(url)} is not https")
        if not self.allow_private and url.port != 443:
            raise AddressRefused(f"{where(url)} has port {url.port} instead of 443")
        if is_literal(host):
            self._judge(host)
        elif _HOST_NAME.fullmatch(host.removesuffix(".")) is None:
            raise AddressRefused(f"{host!a} is no host name")
        if not self._is_listed(host):
            raise AddressRefused(f"{host} is not in upload_hosts")
        return url

    def open_socket(self, info: AddressInfo) -> socket.socket:
        """The `socket_factory` of a guarded connector: called with each final address. Raises SocketRefused."""
        family, kind, protocol, _, address = info
        try:
            self._judge(address[0])
        except AddressRefused as refusal:
            raise SocketRefused(str(refusal)) from None
        return socket.socket(family, kind, protocol)

    def _takes_scheme(self, scheme: str, host: str) -> bool:
        return scheme == "https" or (self.allow_private and (self.allow_plain_http or is_loopback(host)))

    def _is_listed(self, host: str) -> bool:
        name = host.removesuffix(".")
        return not self.suffixes or any(
            name == suffix or name.endswith("." + suffix) for suffix in (s.strip(".").lower() for s in self.suffixes)
        )

    def _judge(self, text: str) -> None:
        address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
        if is_public(address) or (self.allow_private and _is_in(address, _ON_SITE)):
            return
        raise AddressRefused(f"{text} is not a public address")


def parse_url(text: str) -> URL:
    """An http or https URL with a host and no user name, taken literally. Raises AddressRefused."""
    from yarl import URL

    if _VISIBLE.fullmatch(text) is None:
        raise AddressRefused("an address with blanks, control, non-ASCII or backslash characters, or an endless one")
    try:
        url = URL(text, encoded=True)
        port = url.port
    except ValueError:
        raise AddressRefused("an address that cannot be read") from None
    if url.scheme not in ("http", "https") or not url.raw_host or port is None:
        raise AddressRefused(f"an address of scheme {url.scheme!a} instead of https")
    if url.raw_user is not None or url.raw_password is not None:
        raise AddressRefused(f"{url.raw_host!a} comes with a user name")
    return url


def where(url: URL) -> str:
    """Host and path, all that may be said of a URL: queries carry signatures, and so may very long paths."""
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{url.raw_host}{port}{url.raw_path[:200]}"


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address in its usual form (`0x7f.1` is not: that is a name until a resolver reads it)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host`, as written, is this machine."""
    return host == "localhost" or (is_literal(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)


def is_public(address: _Address) -> bool:
    """Whether an address belongs to the public Internet, seen through mapped and NAT64 forms."""
    address = _unwrapped(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not _is_in(address, _NOT_PUBLIC_4)
    return address in _GLOBAL_UNICAST and not _is_in(address, _NOT_PUBLIC_6)


def _unwrapped(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for, where the network really sends it there."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_in(address: _Address, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
