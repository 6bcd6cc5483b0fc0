"""RapidSOS Resource Manager: hosts a media file for emergency data and gives back a reference to it.

Promises: a delivery is three steps, each stored when done: `slot` (an upload form and the `uri`), `store` (the form and
the file posted to storage), `resolve` (the reference turned into an https address). A crash repeats only the one that
was under way, and each may be repeated: an unused slot is nothing, the same form overwrites the same key, resolving
changes nothing. Further steps only count: `refused` and `slot-2` (a refused slot is replaced once), `damaged-1`…
(storage holds other bytes), `unresolved-1`… (the address is only information: a stored file is delivered without it).
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, ClassVar, Literal, cast
from urllib.parse import quote

from pydantic import Field

from relayd import clock, httpcheck, s3form
from relayd.addressguard import AddressGuard, AddressRefused, parse_url
from relayd.destinations.base import Attempt, Destination, DestinationConfig, Step
from relayd.destinations.rapidsos_types import media_type
from relayd.errors import LoginRefused, Rejected, Rewind, TryAgain, Unavailable
from relayd.fields import Duration, Secret, Section, written
from relayd.files import safe_name
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.model import JSON, Finding, Receipt
from relayd.oauth import ClientCredentials
from relayd.s3form import Form, SlotRefused
from relayd.s3storage import Storage
from relayd.surroundings import Surroundings
from relayd.threads import in_own_thread

MOST_DAMAGED = 5
"""Uploads of one file that storage may hold wrongly before the delivery is given up."""
MOST_UNRESOLVED = 3
"""Answers without an address before a stored file is reported as delivered without one."""
_URI = re.compile(r"(?:ref|https?)://[!-~]{1,4096}")
_ADDRESS = re.compile(r"""https?://[^\s"'<>\\]{1,4096}""")


class RapidSOSConfig(DestinationConfig, HttpConfig):
    """`[destination.NAME]` with `type = "rapidsos"`."""

    type: Literal["rapidsos"]
    """Which API this is."""
    client_id: str = Field(min_length=1)
    """As given by RapidSOS."""
    client_secret: Secret
    """Where the secret that belongs to client_id is."""
    mode: Literal["persistent_reference", "temporary_url"] = "persistent_reference"
    """A reference that stays, or an https address that ends `expire` after the upload."""
    expire: Duration = written("1d", ge=1)
    """How long a temporary_url lives; without meaning for a persistent_reference."""
    resolve: bool = True
    """Also ask for the https address behind a persistent_reference (receipt field `resolved_url`)."""
    upload_hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")], ...] = ()
    """Domains that upload addresses must belong to, for example ["amazonaws.com"]; empty: any public host."""
    upload_private: bool = False
    """Follow upload addresses into private networks too, for storage on site."""


class UploadArguments(Section):
    """Arguments of action `upload`."""

    file_name: str | None = None
    """Name to store the file under; absent: the item's own. White space and the like are replaced."""
    mime_type: str | None = None
    """Media type to declare; absent: the item's own. What RapidSOS does not list becomes application/octet-stream."""


class RapidSOS(Destination):
    """One account at the Resource Manager."""

    Config = RapidSOSConfig
    actions: ClassVar = {"upload": UploadArguments}
    receipt_fields = frozenset({"uri", "resolved_url", "expires_at"})

    def __init__(self, name: str, config: RapidSOSConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._api = HttpClient(config)
        guard = AddressGuard(
            suffixes=config.upload_hosts,
            allow_private=config.upload_private,
            allow_plain_http=config.allow_plain_http,
        )
        self._storage = Storage(self._api, guard)
        self._login = ClientCredentials(self._api, "/oauth/token", config.client_id, config.client_secret)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Slot, store, resolve. Receipt: `uri`, `resolved_url` and `expires_at` (RFC 3339), None where unknown."""
        step = "slot" if attempt.recall("refused") is None else "slot-2"
        try:
            slot = await self._slot(attempt, step)
            stored = await attempt.step("store", self._store, attempt, slot, step)
        except SlotRefused as refusal:
            if step == "slot-2":
                raise Rejected(f"{refusal}, and refused the one before") from None
            await attempt.step("refused", _noted, str(refusal))
            raise TryAgain(f"{refusal}; asking for another one, once") from None
        resolved = await self._resolved(attempt, slot)
        note = resolved.get("note")
        return Receipt(
            proof=f"{stored['proof']}; {note}" if note else str(stored["proof"]),
            fields={"uri": slot["uri"], "resolved_url": resolved["url"], "expires_at": slot["gone_at"]},
        )

    async def check(self) -> list[Finding]:
        """Name, TCP, TLS and login, in this order; what cannot be tried any more is left out."""
        return await httpcheck.findings(self.name, self._api, self._login.log_in)

    async def close(self) -> None:
        await self._api.close()
        await self._storage.close()

    # --- slot

    async def _slot(self, attempt: Attempt, step: str) -> Step:
        """A slot that can still be used, or is used already."""
        is_new = attempt.recall(step) is None
        slot = await attempt.step(step, self._ask, attempt)
        if is_new or attempt.recall("store") is not None:
            return slot
        expires_at = slot["expires_at"]
        sent_at = self._now() + self._storage.expected_seconds(attempt.item.size_bytes)
        if isinstance(expires_at, (int, float)) and sent_at > expires_at:
            raise Rewind(step, "the upload slot of the earlier try has expired, or will before the file is sent")
        return slot

    async def _ask(self, attempt: Attempt) -> Step:
        """POST /v1/resources. Checks everything that can be known before sending, so that no bad slot is stored."""
        if attempt.item.size_bytes == 0:
            raise Rejected("the file is empty")
        attempt.open_media().close()
        content_type = media_type(str(attempt.arguments.get("mime_type") or attempt.item.content_type))
        name = safe_name(str(attempt.arguments.get("file_name") or attempt.item.name), attempt.item.id)
        request: dict[str, JSON] = {"file_name": name, "mime_type": content_type, "mode": self._config.mode}
        is_temporary = self._config.mode == "temporary_url"
        if is_temporary:
            request["expire"] = int(self._config.expire)
        answer = await self._call("POST", "/v1/resources", request)
        answer.raise_for_outage()
        if answer.status in (403, 404, 405):
            raise LoginRefused(f"{answer.refusal()}: check url and the rights of this client_id")
        if answer.status >= 400:
            raise Rejected(answer.refusal())
        uri, address, found = _read_slot(answer)
        fields = s3form.read_fields(found)
        self._storage.accept(address)
        policy = s3form.read_policy(fields)
        s3form.check_size(_form(fields, name, content_type, attempt), policy)
        server_now = self._api.server_now()
        if policy.expires_at is not None and server_now is not None and policy.expires_at <= server_now:
            raise TryAgain(f"{answer.where} gave an upload slot that has already expired by its own clock")
        return {
            "uri": uri,
            "url": address,
            "fields": [[field, value] for field, value in fields],
            "file_name": name,
            "content_type": content_type,
            "expires_at": policy.expires_at,
            "gone_at": clock.rfc3339(self._now() + int(self._config.expire)) if is_temporary else None,
        }

    def _now(self) -> float:
        """By the server's clock where it is known: it is the one that policies are checked against."""
        server_now = self._api.server_now()
        return clock.now() if server_now is None else server_now

    # --- store

    async def _store(self, attempt: Attempt, slot: Step, step: str) -> Step:
        """Post the form. Repeatable while the slot lasts: the same form overwrites the same key."""
        fields = _fields_of(slot)
        form = _form(fields, str(slot["file_name"]), str(slot["content_type"]), attempt)
        answer = await self._storage.post(str(slot["url"]), form, attempt.open_media)
        etag = s3form.judge(answer, fields, step)
        md5 = s3form.compared_md5(answer, etag, fields)
        if md5 is not None and md5 != attempt.item.md5:
            await self._damaged(attempt, answer)
        confirmed = "with the MD5 of the file" if md5 else "without an MD5 to compare"
        return {"etag": etag[:128], "proof": f"storage answered {answer.status} {confirmed}"}

    async def _damaged(self, attempt: Attempt, answer: Answer) -> None:
        """Storage holds other bytes than were accepted: find out whose fault it is, and raise."""
        spooled_md5 = await in_own_thread("md5", _md5_of_media, attempt)
        if spooled_md5 != attempt.item.md5:
            raise Rejected("the spooled file is no longer what was accepted: run `relayd spool check`")
        times = await attempt.count("damaged", MOST_DAMAGED)
        text = f"{answer.where} holds other bytes than were sent (its ETag is not the MD5), time {times}"
        if times >= MOST_DAMAGED:
            raise Rejected(f"{text}: given up")
        raise TryAgain(f"{text} of at most {MOST_DAMAGED}")

    # --- resolve

    async def _resolved(self, attempt: Attempt, slot: Step) -> Step:
        uri = str(slot["uri"])
        if not uri.startswith("ref://"):
            return {"url": uri}
        if not self._config.resolve:
            return {"url": None}
        return await attempt.step("resolve", self._resolve, attempt, uri)

    async def _resolve(self, attempt: Attempt, uri: str) -> Step:
        """The address, or None with a `note` when it cannot be had. Raises only while another try may help."""
        try:
            answer = await self._ask_address(uri)
        except LoginRefused as error:
            if await attempt.count("unresolved", MOST_UNRESOLVED) < MOST_UNRESOLVED:
                raise
            return _unresolved(str(error))
        address = self._address_in(answer) if answer.status == 200 else None
        if address is not None:
            return {"url": address}
        said = answer.refusal() if answer.status >= 400 else f"{answer.where} gave no https address"
        if answer.is_about_the_request:
            return _unresolved(said)
        if await attempt.count("unresolved", MOST_UNRESOLVED) >= MOST_UNRESOLVED:
            return _unresolved(said)
        answer.raise_for_outage()
        raise TryAgain(f"the file is stored, only its https address is missing: {said}")

    async def _ask_address(self, uri: str) -> Answer:
        """GET /v1/resources/{id}/resolve, on 400 and 404 once with the whole reference. Raises Unavailable for what a
        captive portal says, which knows nothing of the matter."""
        answer = await self._call("GET", f"/v1/resources/{quote(uri.removeprefix('ref://'), safe='')}/resolve")
        if answer.status in (400, 404):
            answer = await self._call("GET", f"/v1/resources/{quote(uri, safe='')}/resolve")
        if 300 <= answer.status < 400 or answer.status == 511:
            answer.raise_for_outage()
        if answer.status == 200 and answer.is_html:
            raise Unavailable(f"{answer.where} answered with a web page: a captive portal")
        return answer

    def _address_in(self, answer: Answer) -> str | None:
        """The first https address in an object, a JSON string or plain text; http only at the API's own host."""
        found = [match[0] for text in answer.texts() for match in _ADDRESS.finditer(text)]
        return next((address for address in found if self._is_address(address)), None)

    def _is_address(self, text: str) -> bool:
        try:
            url = parse_url(text)
        except AddressRefused:
            return False
        return url.scheme == "https" or self._storage.is_own(url)

    async def _call(self, method: str, path: str, request: Step | None = None) -> Answer:
        """One authorized call with a JSON body; any status is returned."""
        headers = {"Accept": "application/json"}
        body = b""
        if request is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(request).encode()
        return await self._login.send(method, self._api.url(path), headers=headers, body=body)


def _read_slot(answer: Answer) -> tuple[str, str, JSON]:
    """`uri`, and `url` and `fields` of `signed_request`. Raises TryAgain for an answer of another shape."""
    slot = answer.json()
    form = slot.get("signed_request") if isinstance(slot, dict) else None
    if isinstance(slot, dict) and isinstance(form, dict):
        uri, address = slot.get("uri"), form.get("url")
        if isinstance(uri, str) and isinstance(address, str) and _URI.fullmatch(uri):
            return uri, address, form.get("fields")
    raise TryAgain(f"{answer.where} answered {answer.status} with something that is no upload slot")


def _fields_of(slot: Step) -> list[tuple[str, str]]:
    """The form fields of a stored slot, in order."""
    pairs = cast("list[list[str]]", slot["fields"])
    return [(name, value) for name, value in pairs]


def _form(fields: list[tuple[str, str]], name: str, content_type: str, attempt: Attempt) -> Form:
    return Form(fields=fields, file_name=name, content_type=content_type, size_bytes=attempt.item.size_bytes)


def _md5_of_media(attempt: Attempt) -> str:
    with attempt.open_media() as media:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := media.read(s3form.CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()


async def _noted(text: str) -> Step:
    return {"text": text}


def _unresolved(reason: str) -> Step:
    return {"url": None, "note": f"its https address is unknown ({reason})"}
