"""Webhook: the item as JSON, posted to an address of one's own.

Promises: every try of a delivery carries the same `Idempotency-Key`, so a server that keeps the keys it has seen takes
each delivery once. Nothing proves that one does, unless it says so: by the configuration (`keeps_keys`, `already`), or
by a 409. Any other sees a delivery again when an answer is lost, `most_unknown` times at most; then a person looks.
With `secret`, body, key and time are signed after Standard Webhooks (`webhook-id`, `webhook-timestamp`,
`webhook-signature`): the MAC is base64(HMAC-SHA256(secret, "KEY.TIMESTAMP.BODY")). No redirect is followed. Media
travels as what is known of it, never as its content.

How an answer is sorted, besides what `httpclient` says: 401, 403 and 405 are a fault of the configuration, 409 means
that an earlier try is still being worked on (both wait), any other 4xx refuses this very item.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from relayd import clock, httpcheck, incidents, rendering
from relayd.destinations.at_most_once import BudgetConfig, once
from relayd.destinations.base import Attempt, Destination, DestinationConfig, Step
from relayd.errors import DeliveryError, LoginRefused, Rejected, SecretMissing, TryAgain
from relayd.fields import Secret, Section
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.model import JSON, Finding, Item, Receipt

if TYPE_CHECKING:
    from relayd.surroundings import Surroundings

LARGEST_RECEIPT_BYTES = 16 * 1024
"""A longer answer proves as much, but is not kept."""
STANDARD_SECRET = "whsec_"  # noqa: S105 - how such a secret begins
_UNPROCESSED = frozenset({407, 425, 429, 503, 511})
"""Statuses by which a server, or the network before it, says that it has not begun."""
_VISIBLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OURS = re.compile(
    r"content-.*|idempotency-key|webhook-.*|host|connection|transfer-encoding|te|trailer|upgrade|expect|keep-alive"
    r"|proxy-.*|accept-encoding",
    re.IGNORECASE,
)
_SECRETLIKE = re.compile(r"authorization|cookie|.*(?:key|token|secret|password|auth)", re.IGNORECASE)


class WebhookConfig(HttpConfig, BudgetConfig, DestinationConfig):
    """An address that takes `{"item": {…}, "payload": …, "device": {…}, "incident": …, "location": …}` by POST."""

    type: Literal["webhook"]
    """Always `webhook`."""
    secret: Secret | None = None
    """Where the key is that signs each body (Standard Webhooks; what begins with `whsec_` is base64); absent: not
    signed."""
    token: Secret | None = None
    """Where the token is that is sent as `Authorization: Bearer`; absent: none."""
    headers: Annotated[
        Mapping[str, str | Secret] | None,
        Field(max_length=32, examples=[{"X-Site": "odense", "X-Api-Key": {"credential": "hook-key"}}]),
    ] = None
    """Headers of one's own; what looks like a secret by its name must be one."""
    proof: Literal["json", "status"] = "json"
    """What proves that it was taken: a 2xx with JSON or nothing in it, or any 2xx that brings no web page."""
    already: Annotated[tuple[Annotated[int, Field(ge=400, le=499)], ...], Field(max_length=16, examples=[[409]])] = ()
    """Statuses by which this server says that it has taken this Idempotency-Key before: delivered."""

    keeps_keys: bool = False
    """This server remembers each Idempotency-Key and takes it once: whatever answer is lost, the post is repeated until
    it is answered. Set it only if that is so; `already` implies it."""

    @field_validator("url")
    @classmethod
    def _is_base_address(cls, value: str) -> str:
        """As everywhere, but sent exactly as written: `/hook` and `/hook/` are two addresses to many servers."""
        super()._is_base_address(value)
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: Mapping[str, str | Secret] | None) -> Mapping[str, str | Secret] | None:
        for name, text in (value or {}).items():
            if _HEADER_NAME.fullmatch(name) is None:
                raise ValueError(f"{name!a} cannot be the name of a header, write for example X-Site")
            if _OURS.fullmatch(name):
                raise ValueError(f"{name} is set by relayd itself, leave it out")
            if isinstance(text, str) and _SECRETLIKE.fullmatch(name):
                raise ValueError(f'{name} is a secret, write {{ credential = "name" }} or {{ file = "/path" }}')
            if isinstance(text, str) and _VISIBLE.fullmatch(text) is None:
                raise ValueError(f"the value of {name} must be printable ASCII without blanks around it")
        return value

    @model_validator(mode="after")
    def _has_one_login(self) -> WebhookConfig:
        if self.token is not None and "authorization" in {name.lower() for name in self.headers or {}}:
            raise ValueError("token and headers both set Authorization, write one of them")
        return self

    @property
    def is_keyed(self) -> bool:
        """Whether what comes again is known to be taken once."""
        return self.keeps_keys or bool(self.already)


class PostArguments(Section):
    """`post`: there is nothing to say; the same message has the same Idempotency-Key at every try."""


class Webhook(Destination):
    """One address."""

    Config = WebhookConfig
    actions: ClassVar = {"post": PostArguments}
    receipt_fields = None

    def __init__(self, name: str, config: WebhookConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._client = HttpClient(config)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post once. The receipt's fields are the server's JSON object, empty if it gave none."""

        async def send(doubts: int) -> Step:
            return await self._post(attempt, doubts)

        if self._config.is_keyed:
            sent = await attempt.step("post", self._post, attempt, 0)
        else:
            sent = await once(attempt, "post", send, terms=self._config.budget("the receiver", attempt))
        fields = sent["fields"]
        return Receipt(proof=str(sent["proof"]), fields=fields if isinstance(fields, dict) else {})

    async def _post(self, attempt: Attempt, doubts: int) -> Step:
        body = body_of(attempt)
        key = attempt.key("post")
        login, secrets = self._login_headers()
        headers = {
            **login,
            "Accept": "application/json",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            **self._signature(key, body),
        }
        answer = await self._client.send(
            "POST", self._client.url(""), headers=headers, body=body, is_repeatable=self._config.is_keyed
        )
        proof, fields = self._taken(answer, secrets)
        if doubts:
            proof += f"; {doubts} earlier answer(s) were lost, so the receiver may have got it twice"
        return {"proof": proof, "fields": fields}

    async def check(self) -> list[Finding]:
        """Name, TCP, TLS, and a HEAD with the login, which no server takes for a message."""
        remedy = "compare token, headers and url with what the server's owner gave"
        return await httpcheck.findings(self.name, self._client, self._look, remedy=remedy)

    async def close(self) -> None:
        await self._client.close()

    # --- asking

    def _login_headers(self) -> tuple[dict[str, str], list[str]]:
        """The headers of the configuration, and the secrets in them. Raises LoginRefused for one that is no use."""
        named: dict[str, str | Secret] = dict(self._config.headers or {})
        headers = {name: text for name, text in named.items() if isinstance(text, str)}
        secrets = []
        if self._config.token is not None:
            secrets.append(_revealed("token", self._config.token))
            headers["Authorization"] = f"Bearer {secrets[0]}"
        for name, text in named.items():
            if isinstance(text, Secret):
                headers[name] = _revealed(f"headers.{name}", text)
                secrets.append(headers[name])
        return headers, secrets

    def _signature(self, key: str, body: bytes) -> dict[str, str]:
        if self._config.secret is None:
            return {}
        timestamp = str(int(clock.now()))
        signed = f"{key}.{timestamp}.".encode() + body
        mac = hmac.new(signing_key(_revealed("secret", self._config.secret)), signed, hashlib.sha256).digest()
        return {
            "webhook-id": key,
            "webhook-timestamp": timestamp,
            "webhook-signature": "v1," + base64.b64encode(mac).decode(),
        }

    async def _look(self) -> None:
        """Any answer of a server that is not out of order will do: few take a HEAD where they take a POST."""
        headers, secrets = self._login_headers()
        if self._config.secret is not None:
            signing_key(_revealed("secret", self._config.secret))
        answer = await self._client.send("HEAD", self._client.url(""), headers=headers)
        answer.raise_for_outage()
        if answer.status in (401, 403):
            raise LoginRefused(_without(answer.refusal(), secrets))

    # --- judging

    def _taken(self, answer: Answer, secrets: list[str]) -> tuple[str, dict[str, JSON]]:
        """What proves that it was taken, and what was answered."""
        if answer.status in self._config.already:
            return f"{answer.where} answered {answer.status}: it has this Idempotency-Key already", {}
        try:
            answer.raise_for_outage()
        except DeliveryError as error:
            if answer.status in _UNPROCESSED or 300 <= answer.status < 400:
                raise error.harmless() from None
            raise
        if answer.status >= 400:
            raise _refusal(answer.status, _without(answer.refusal(), secrets)).harmless()
        said = answer.body.strip()
        fields: JSON = None
        if said:
            try:
                fields = answer.json()
            except TryAgain as error:
                if self._config.proof == "json":
                    raise TryAgain(f'{error}; if that is how it says yes, set proof = "status"') from None
        is_kept = isinstance(fields, dict) and len(said) <= LARGEST_RECEIPT_BYTES
        what = "JSON" if fields is not None else "text" if said else "an empty answer"
        proof = f"{answer.where} answered {answer.status} with {what}"
        return proof, fields if is_kept and isinstance(fields, dict) else {}


def body_of(attempt: Attempt) -> bytes:
    """The body of every try: ASCII JSON, the same as long as the device's description stays the same.

    `payload` is the message as JSON, or its text if it is none; bytes that are neither are in `payload_base64`, and
    then `payload` is null, as it is for media.
    """
    seen = rendering.context(attempt.item, attempt.device)
    document: dict[str, Any] = {name: seen[name] for name in ("item", "payload", "device", "incident", "location")}
    if attempt.incident is not None:  # its remote ids come later: a body must stay the same under one Idempotency-Key
        document["incident"] = incidents.document(attempt.incident)
    document.update(_as_bytes(attempt.item, seen["payload"]))
    try:
        return _compact(document)
    except (ValueError, RecursionError):  # numbers beyond all JSON (1e999), or too deep to be written again
        payload = attempt.item.payload or b""
        return _compact({**document, "payload": payload.decode("utf-8", "replace")})


def signing_key(secret: str) -> bytes:
    """The key that a secret stands for: after `whsec_` base64, as Standard Webhooks writes it, else the text itself."""
    if not secret.startswith(STANDARD_SECRET):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(STANDARD_SECRET), validate=True)
    except (binascii.Error, ValueError):
        raise LoginRefused(
            f"secret: it begins with {STANDARD_SECRET} but goes on with what is no base64"
        ).harmless() from None


def _as_bytes(item: Item, payload: JSON) -> Iterator[tuple[str, str]]:
    if payload is None and item.payload and item.payload.strip() != b"null":
        yield "payload_base64", base64.b64encode(item.payload).decode()


def _compact(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _revealed(key: str, secret: Secret) -> str:
    try:
        value = secret.reveal()
    except SecretMissing as error:
        raise LoginRefused(f"{key} cannot be had: {error}").harmless() from None
    if _VISIBLE.fullmatch(value) is None:
        raise LoginRefused(
            f"{key} cannot be used: the secret in {secret.place} has characters that are not printable ASCII"
        ).harmless()
    return value


def _refusal(status: int, said: str) -> LoginRefused | Rejected | TryAgain:
    if status in (401, 403):
        return LoginRefused(f"{said}; check token, secret and headers")
    if status in (404, 405, 410):
        return LoginRefused(f"{said}; check url: nothing takes a POST there")
    if status == 409:
        return TryAgain(f"{said}; an earlier try is still being worked on (if it means done, set already = [409])")
    return Rejected(said)


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
