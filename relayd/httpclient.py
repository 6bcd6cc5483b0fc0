"""HTTP as relayd speaks it: one small client per destination, and every way a call can fail sorted once, here.

Promises: nothing waits without a limit and nothing is read without one; a slow upload lives as long as bytes flow. No
redirect is followed, no cookie kept, no environment variable looked at, no compressed answer expanded past its limit.
Errors name host and path, never a query string, a header or a body that carries a secret.

How a failed call is sorted:
* nobody there (DNS, refused, no route, TLS, no connection in time): Unavailable, the destination pauses;
* the connection broke or stood still after the request was on its way (the answer may be lost): TryAgain, this
  delivery backs off alone, so that one poisonous upload cannot pause the rest; five in a row pause the destination all
  the same;
* 408 425 429 502 503 504 and their kin, a captive portal (511, a redirect, HTML where JSON was promised): Unavailable;
* 500 and other 5xx, an answer that is too large, broken or no JSON: TryAgain;
* any other 4xx is the adapter's to judge (`refusal` puts it into words).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from relayd import addressguard, clock, secrecy
from relayd.httpanswer import Answer, parse_date
from relayd.httpconfig import HttpConfig
from relayd.httpflow import Body

if TYPE_CHECKING:
    from yarl import URL

    from relayd.httpwire import Wire

__all__ = ["HttpClient", "HttpConfig"]


class HttpClient:
    """Calls to one API. Connections are made at the first call and kept for the next; `close` ends them."""

    def __init__(self, config: HttpConfig, *, guard: addressguard.AddressGuard | None = None) -> None:
        """With `guard`, connections go only to the addresses that it lets through."""
        self.config = config
        self._guard = guard
        self._wire: Wire | None = None
        self._skew: tuple[float, float] | None = None

    def url(self, path: str) -> URL:
        """An address of this API: the configured base plus `path`, which is already percent-encoded."""
        return addressguard.parse_url(self.config.url + path)

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body = b"",
        is_repeatable: bool = True,
    ) -> Answer:
        """One exchange; any status is returned. If a kept connection turns out to be dead, a request that
        `is_repeatable` is sent once more on a fresh one; any other ends in a TryAgain, since it may have had its
        effect. Raises Unavailable or TryAgain; `nothing_happened` says where it never left this machine as a whole."""
        if self._wire is None:
            from relayd.httpwire import Wire  # aiohttp is 14 MB and 0.1 s, which only those pay who send

            self._wire = Wire(self.config, self._guard)
        if headers and "Authorization" in headers:
            secrecy.remember(headers["Authorization"].partition(" ")[2])
        answer = await self._wire.exchange(method, url, headers or {}, body, is_repeatable=is_repeatable)
        date = parse_date(answer.headers.get("Date", ""))
        if date is not None:
            self._skew = (date, clock.monotonic())
        return answer

    def server_now(self) -> float | None:
        """Unix seconds by the server's clock, as its last answer told; None before the first. Good to a few seconds."""
        if self._skew is None:
            return None
        date, at = self._skew
        return date + clock.monotonic() - at

    async def close(self) -> None:
        """End every connection."""
        if self._wire is not None:
            await self._wire.close()
            self._wire = None
