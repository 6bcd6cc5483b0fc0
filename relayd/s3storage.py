"""Posts presigned forms to wherever the server that gave them says: the way to storage, and how fast it is.

Promises: an address is followed only if the guard lets it through, or if it is the API's own host; storage never sees
the API's Authorization header. A form is repeated at most once, where storage itself says so (307).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from relayd import clock
from relayd.addressguard import AddressGuard, AddressRefused, parse_url
from relayd.errors import Unavailable
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.s3form import Form

if TYPE_CHECKING:
    from yarl import URL

ASSUMED_BYTES_PER_SECOND = 125_000.0
"""Until a first upload has been timed: 1 Mbit/s."""
TIMED_FROM_BYTES = 256 * 1024
SPARE_SECONDS = 10.0
"""Added to every expected transfer."""


class Storage:
    """The storage behind one API. `api` is the client that speaks to the API's own host; it stays the caller's."""

    def __init__(self, api: HttpClient, guard: AddressGuard) -> None:
        self._api = api
        self._guard = guard
        self._others = HttpClient(api.config, guard=guard)
        self._bytes_per_second = ASSUMED_BYTES_PER_SECOND

    async def close(self) -> None:
        await self._others.close()

    def is_own(self, url: URL) -> bool:
        """Whether this is the API's own host, as safe as the API itself."""
        api = self._api.url("")
        return url.raw_host == api.raw_host and url.scheme in ("https", api.scheme)

    def accept(self, address: str) -> None:
        """Raise Unavailable for an address that is not followed: it is the server's or the configuration's fault, or a
        captive portal's, never the item's."""
        self._client_for(address)

    def expected_seconds(self, size_bytes: int) -> float:
        """How long an upload will probably take."""
        return size_bytes / self._bytes_per_second + SPARE_SECONDS

    async def post(self, address: str, form: Form, open_media: Callable[[], BinaryIO]) -> Answer:
        """Send the form with the file, a second time if storage says where (307); the answer is not judged yet."""
        began = clock.monotonic()
        answer = await self._post(address, form, open_media)
        if answer.status == 307:
            began = clock.monotonic()
            answer = await self._post(answer.headers.get("Location", ""), form, open_media)
        self._learn(form.size_bytes, clock.monotonic() - began, answer)
        return answer

    async def _post(self, address: str, form: Form, open_media: Callable[[], BinaryIO]) -> Answer:
        client, url = self._client_for(address)
        with open_media() as media:
            return await client.send("POST", url, headers={"Content-Type": form.header}, body=form.body(media))

    def _client_for(self, address: str) -> tuple[HttpClient, URL]:
        try:
            url = parse_url(address)
            if self.is_own(url):
                return self._api, url
            return self._others, self._guard.parse(address)
        except AddressRefused as refusal:
            raise Unavailable(
                f"upload address refused: {refusal} (see the options upload_hosts and upload_private)"
            ) from None

    def _learn(self, size_bytes: int, seconds: float, answer: Answer) -> None:
        """The newest upload counts a third."""
        if size_bytes >= TIMED_FROM_BYTES and seconds > 0 and answer.status < 300 and not answer.is_early:
            self._bytes_per_second += (size_bytes / seconds - self._bytes_per_second) / 3
