"""The RapidSOS Resource Manager stand-in: token, upload slot, resolve; after its OpenAPI contract.

Promises: requests are taken exactly as the contract writes them: closed MIME list, no white space in names, no `expire`
with `persistent_reference`, no unknown property, no property given twice, no other spelling of `Bearer`.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, unquote

from aiohttp import web

from relayd.sandbox.exchange import Exchange
from relayd.sandbox.policy import slot_fields
from relayd.sandbox.refusal import ApiRefusal
from relayd.sandbox.settings import Settings
from relayd.sandbox.shelf import Shelf

_BODY_LIMIT = 64 * 1024
_FILE_NAME = re.compile(r"[^\s\x00-\x1f\x7f]+")
_MIME_TYPE = re.compile(
    r"(application/(pdf|msword|rtf|octet-stream)|text/(markdown|rtf|plain)|(video|audio|image)/[a-z0-9][a-z0-9.+-]*)"
)
_FORM = "application/x-www-form-urlencoded"


class ResourceManager:
    """Three operations and the tokens that are good now."""

    def __init__(self, settings: Settings, shelf: Shelf) -> None:
        self._settings = settings
        self._shelf = shelf
        self._tokens: dict[str, float] = {}

    def revoke(self) -> None:
        """From now on no token issued so far is honoured."""
        self._tokens.clear()

    async def token(self, exchange: Exchange) -> web.StreamResponse:
        """POST /oauth/token"""
        if "Authorization" in exchange.request.headers:
            raise ApiRefusal.malformed("the token request carries an Authorization header")
        given = await self._read_credentials(exchange)
        if set(given) != {"client_id", "client_secret", "grant_type"}:
            raise ApiRefusal.malformed(f"properties {sorted(given)}")
        if given["grant_type"] != "client_credentials":
            raise ApiRefusal(400, {"ErrorCode": "unsupported_grant_type", "Error": "grant_type is not supported"})
        wanted = (self._settings.client_id, self._settings.client_secret)
        if (given["client_id"], given["client_secret"]) != wanted:
            raise ApiRefusal(401, {"ErrorCode": "invalid_client", "Error": "ClientId is Invalid"})
        return self._issue_token(exchange)

    async def slot(self, exchange: Exchange) -> web.StreamResponse:
        """POST /v1/resources"""
        self._authorize(exchange)
        if exchange.request.content_type != "application/json":
            raise ApiRefusal.malformed("Content-Type is not application/json")
        wish = _read_wish(await exchange.read(_BODY_LIMIT))
        reference = str(uuid.uuid4())
        key = f"uploads/{reference}/{wish['file_name']}"
        fault = exchange.fault
        life = fault.amount if fault is not None and exchange.meets("expired") else None
        fields = slot_fields(self._settings, key, str(wish["mime_type"]), exchange.now, life)
        uri = f"ref://{reference}"
        if wish["mode"] == "temporary_url":
            uri = f"{self._address(exchange, key)}?X-Amz-Expires={wish.get('expire', 600)}&X-Amz-Signature=00"
        exchange.entry.has_effect = True
        exchange.entry.key = key
        signed = {"url": f"{exchange.origin}/s3/{self._settings.bucket}", "fields": fields}
        return web.json_response({"uri": uri, "signed_request": signed})

    async def resolve(self, exchange: Exchange, reference: str) -> web.StreamResponse:
        """GET /v1/resources/{reference}/resolve; `reference` still percent-encoded."""
        self._authorize(exchange)
        if "/" in reference:
            raise ApiRefusal.not_found()
        name = unquote(reference)
        is_whole = name.startswith("ref://")
        if is_whole != (self._settings.resolve_form == "reference"):
            raise ApiRefusal(self._settings.resolve_refusal, {"message": "Not Found"})
        stored = self._shelf.of_reference(name.removeprefix("ref://"))
        if stored is None:
            raise ApiRefusal.not_found()
        exchange.entry.has_effect = True
        exchange.entry.key = stored.key
        return self._resolved(self._address(exchange, stored.key))

    async def _read_credentials(self, exchange: Exchange) -> dict[str, str]:
        kind = exchange.request.content_type
        wanted = self._settings.token_body
        if kind not in (_FORM, "application/json") or (wanted != "any" and (kind == _FORM) != (wanted == "form")):
            raise ApiRefusal(self._settings.token_refusal, {"message": f"Content-Type {kind} is not understood"})
        body = await exchange.read(_BODY_LIMIT)
        if kind == "application/json":
            found = _read_object(body)
            if not all(isinstance(value, str) for value in found.values()):
                raise ApiRefusal.malformed("a property is no string")
            return {name: str(value) for name, value in found.items()}
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        except ValueError:
            raise ApiRefusal.malformed("the form cannot be read") from None
        return {name: str(value) for name, value in _unique(pairs).items()}

    def _issue_token(self, exchange: Exchange) -> web.Response:
        settings = self._settings
        fault = exchange.fault
        life = fault.amount if fault is not None and exchange.meets("expired") else settings.token_seconds
        token = secrets.token_urlsafe(24)
        self._tokens[token] = exchange.now + life
        exchange.entry.has_effect = True
        claim = int(settings.token_seconds if settings.token_claim is None else settings.token_claim)
        issued_at = int(exchange.now * 1000)
        if settings.token_shape == "numbers":  # noqa: S105
            shape = {"token_type": "Bearer", "issued_at": issued_at, "expires_in": claim}
        else:
            shape = {"token_type": "BearerToken", "issued_at": str(issued_at), "expires_in": str(claim)}
        return web.json_response({"access_token": token, **shape})

    def _authorize(self, exchange: Exchange) -> None:
        given = exchange.request.headers.getall("Authorization", [])
        if len(given) != 1 or not given[0].startswith("Bearer "):
            raise ApiRefusal.unauthorized("exactly one `Authorization: Bearer TOKEN` is needed")
        ends_at = self._tokens.get(given[0].removeprefix("Bearer "))
        if ends_at is None:
            raise ApiRefusal.unauthorized("unknown token")
        if ends_at <= exchange.now:
            raise ApiRefusal.unauthorized("expired token")

    def _address(self, exchange: Exchange, key: str) -> str:
        """Always https, as the contract says; served as such only where the sandbox has TLS."""
        return f"https://{exchange.request.host}/s3/{self._settings.bucket}/{quote(key)}"

    def _resolved(self, address: str) -> web.Response:
        shape = self._settings.resolve_shape
        if shape == "text":
            return web.Response(text=address + "\n")
        return web.json_response(address if shape == "string" else {shape: address})


def _read_wish(body: bytes) -> dict[str, object]:
    """The checked body of createResource."""
    wish = _read_object(body)
    mode = wish.get("mode")
    allowed = {"file_name", "mime_type", "mode"} | ({"expire"} if mode == "temporary_url" else set())
    if mode not in ("temporary_url", "persistent_reference"):
        raise ApiRefusal.malformed(f"mode {mode!r}")
    if set(wish) - allowed:
        raise ApiRefusal.malformed(f"unexpected {', '.join(sorted(set(wish) - allowed))} with mode {mode}")
    for name, pattern in (("file_name", _FILE_NAME), ("mime_type", _MIME_TYPE)):
        value = wish.get(name)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise ApiRefusal.malformed(f"{name} {value!r}")
    if "expire" in wish and (type(wish["expire"]) is not int or wish["expire"] < 1):
        raise ApiRefusal.malformed(f"expire {wish['expire']!r}")
    return wish


def _read_object(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError:
        raise ApiRefusal.malformed("the body is not JSON") from None
    if not isinstance(found, dict):
        raise ApiRefusal.malformed("the body is not an object")
    return found


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ApiRefusal.malformed("a property is given twice")
    return dict(pairs)


def _no_constant(name: str) -> object:
    raise ValueError(name)
