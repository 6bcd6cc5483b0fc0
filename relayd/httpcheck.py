"""What a technician wants to know of an HTTP API: how far one gets on the way to a login, and what to do about it.

Promises: leaves no trace at the server but a login; every trial has a time limit; a failed one ends the list, since all
further ones would fail for the same reason.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from relayd import clock, resolver, tls
from relayd.errors import DeliveryError, LoginRefused
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.model import Finding

CLOCK_TOLERANCE_SECONDS = 120.0
RENEW_DAYS = 14


async def findings(
    name: str,
    client: HttpClient,
    log_in: Callable[[], Awaitable[None]],
    *,
    remedy: str = "compare client_id and client_secret with what the provider gave",
) -> list[Finding]:
    """Name, connection, TLS and login of the API that `client` speaks to, then the clock, as far as one gets.

    `remedy` is for a login that is refused.
    """
    config = client.config
    found: list[Finding] = []
    trials = [
        ("name", _resolve(config)),
        ("connection", _connect(config)),
        ("TLS", _handshake(config)),
        ("login", _log_in(log_in, remedy)),
        ("clock", _compare_clocks(client)),
    ]
    for what, trial in trials:
        if found and not found[-1].is_good:
            trial.close()
            continue
        is_good, text, advice = await trial
        found.append(Finding(subject=f"{name}: {what}", is_good=is_good, text=text, remedy=advice))
    return found


async def _resolve(config: HttpConfig) -> tuple[bool, str, str]:
    host, port = _host_port(config)
    try:
        infos = await resolver.addresses(host, port, config.connect_timeout)
    except resolver.NoAnswer as error:
        return False, str(error), "check the network and its name server (`resolvectl status`)"
    except (OSError, UnicodeError):
        return False, f"{host} has no address", "check url, the network and its name server"
    addresses = sorted({str(info[4][0]) for info in infos})
    return True, f"{host} is {', '.join(addresses[:4])}", ""


async def _connect(config: HttpConfig) -> tuple[bool, str, str]:
    host, port = _host_port(config)
    try:
        async with asyncio.timeout(config.connect_timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return (
            False,
            f"{host} port {port} does not answer",
            "look for a firewall on the way, and whether the network is up",
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return (
            False,
            f"no connection to {host} port {port}: {reason}",
            "check url and port, and whether the server runs",
        )
    writer.transport.abort()
    return True, f"{host} port {port} answers", ""


async def _handshake(config: HttpConfig) -> tuple[bool, str, str]:
    host, port = _host_port(config)
    if urlsplit(config.url).scheme == "http":
        return True, "not used: url is http", ""
    try:
        context = tls.client_context(config.ca_file)
        async with asyncio.timeout(config.connect_timeout):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except tls.NoAuthorities as error:
        return False, str(error), "set ca_file, or install the package ca-certificates"
    except TimeoutError:
        return False, f"{host} port {port} takes connections but speaks no TLS", "check the port in url"
    except OSError as error:
        text, remedy = tls.words(error)
        return False, f"{host}: {text}", remedy
    handshake: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate, version = handshake.getpeercert() or {}, handshake.version()
    writer.transport.abort()
    until = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    day = datetime.datetime.fromtimestamp(until, tz=datetime.UTC).date()
    remedy = f"renew the server's certificate before {day}" if until - clock.now() < RENEW_DAYS * 86400 else ""
    return True, f"{version}, certificate valid until {day}", remedy


async def _log_in(log_in: Callable[[], Awaitable[None]], remedy: str) -> tuple[bool, str, str]:
    try:
        await log_in()
    except LoginRefused as error:
        return False, str(error), error.remedy or remedy
    except DeliveryError as error:
        return False, str(error), "check url; if it is right, wait for the provider"
    return True, "accepted", ""


async def _compare_clocks(client: HttpClient) -> tuple[bool, str, str]:
    server_now = client.server_now()
    if server_now is None:
        return True, "the server does not tell its time", ""
    ahead = clock.now() - server_now
    if abs(ahead) <= CLOCK_TOLERANCE_SECONDS:
        return True, "agrees with the server's", ""
    side = "ahead of" if ahead > 0 else "behind"
    text = f"this machine is {datetime.timedelta(minutes=round(abs(ahead) / 60))} {side} the server"
    return False, text, "set the clock: is time synchronisation running (timedatectl)?"


def _host_port(config: HttpConfig) -> tuple[str, int]:
    parts = urlsplit(config.url)
    return str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
