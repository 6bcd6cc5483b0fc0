"""The webhook stand-in: an address that takes an item as JSON and keeps each Idempotency-Key once.

Promises: strict about what relayd documents: the shape of the body, the key, the bearer token and the signature where
they are set. The same key with another body is an error (422), the same one with the same body is answered again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass

from aiohttp import web

from relayd.sandbox.exchange import Exchange
from relayd.sandbox.refusal import ApiRefusal
from relayd.sandbox.settings import Settings

PATH = "/webhook"
_BODY_LIMIT = 4 * 1024 * 1024
_MUST_HAVE = {"item", "payload", "device", "incident"}
_TOLERANCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What was posted under one key; `document` is the body read as JSON."""

    body: bytes
    document: dict[str, object]


class Hook:
    """One address, and everything that it has taken, by Idempotency-Key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.taken: dict[str, Taken] = {}

    async def post(self, exchange: Exchange) -> web.StreamResponse:
        """POST /webhook"""
        headers = exchange.request.headers
        token = self._settings.webhook_token
        if token is not None and not hmac.compare_digest(headers.get("Authorization", ""), f"Bearer {token}"):
            raise ApiRefusal(401, {"message": "no such token"})
        if exchange.request.content_type != "application/json":
            raise ApiRefusal.malformed("Content-Type is not application/json")
        body = await exchange.read(_BODY_LIMIT)
        key = headers.get("Idempotency-Key", "")
        if not key:
            raise ApiRefusal.malformed("no Idempotency-Key")
        self._check_signature(exchange, key, body)
        document = _read(body)
        known = self.taken.get(key)
        if known is not None and known.body != body:
            raise ApiRefusal(422, {"message": "this Idempotency-Key came with another body before"})
        exchange.entry.key = key
        if known is None:
            self.taken[key] = Taken(body, document)
            exchange.entry.has_effect = True
        return web.json_response({"received": len(self.taken), "key": key})

    def _check_signature(self, exchange: Exchange, key: str, body: bytes) -> None:
        """As Standard Webhooks writes it."""
        if self._settings.webhook_secret is None:
            return
        headers = exchange.request.headers
        timestamp = headers.get("webhook-timestamp", "")
        mac = hmac.new(self._settings.webhook_secret.encode(), f"{key}.{timestamp}.".encode() + body, hashlib.sha256)
        wanted = "v1," + base64.b64encode(mac.digest()).decode()
        if headers.get("webhook-id") != key or wanted not in headers.get("webhook-signature", "").split():
            raise ApiRefusal(403, {"message": "the signature does not fit"})
        if not timestamp.isdigit() or abs(int(timestamp) - exchange.now) > _TOLERANCE_SECONDS:
            raise ApiRefusal(403, {"message": "the timestamp is too far from now"})


def _read(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except ValueError:
        raise ApiRefusal.malformed("the body is no JSON") from None
    if not isinstance(document, dict) or not set(document) >= _MUST_HAVE:
        raise ApiRefusal.malformed(f"the body has not all of {sorted(_MUST_HAVE)}")
    return document
