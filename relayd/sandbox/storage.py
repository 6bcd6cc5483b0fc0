"""The storage stand-in: S3 POST Object behind the presigned form of an upload slot.

Promises: an object appears only when the whole form, closing boundary included, has come and every rule was kept; the
same form again overwrites the same key; errors carry the documented codes.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote, unquote, urlencode, urlsplit

from aiohttp import web

from relayd.sandbox.exchange import Exchange
from relayd.sandbox.form import Form, boundary_of
from relayd.sandbox.policy import SizeRange, judge
from relayd.sandbox.refusal import StorageRefusal, request_ids, xml
from relayd.sandbox.settings import Settings
from relayd.sandbox.shelf import Incoming, Shelf, StoredObject

_LARGEST_POST = 5 * 2**30
_KEY_LIMIT = 1024


class Storage:
    """Two operations over one shelf: store, and fetch for a person who follows the resolved address."""

    def __init__(self, settings: Settings, shelf: Shelf) -> None:
        self._settings = settings
        self._shelf = shelf

    async def store(self, exchange: Exchange, bucket: str) -> web.StreamResponse:
        """POST /s3/{bucket}"""
        _check_headers(exchange.request)
        if bucket != self._settings.bucket:
            raise StorageRefusal("NoSuchBucket", "The specified bucket does not exist", BucketName=bucket)
        form = Form(exchange.chunks(self._settings.idle_seconds), boundary_of(_content_type(exchange.request)))
        fields = dict(await form.fields())
        sizes = self._check_fields(fields, exchange)
        fault = exchange.fault
        incoming = self._shelf.open_incoming(is_corrupted=exchange.meets("corrupt"))
        try:
            await _receive(form, incoming, sizes)
            content_type = fields.get("Content-Type", "binary/octet-stream")
            stored = self._shelf.keep(incoming, bucket, fields["key"], content_type, exchange.now)
        finally:
            incoming.discard()
        exchange.entry.has_effect = True
        is_denied = fault is not None and exchange.meets("corrupt") and "silent" in fault.options
        return self._stored(exchange, stored, fields, incoming.md5_sent if is_denied else stored.md5)

    async def fetch(self, exchange: Exchange, bucket: str, key: str) -> web.StreamResponse:
        """GET /s3/{bucket}/{key}"""
        stored = self._shelf.objects.get(unquote(key))
        if bucket != self._settings.bucket or stored is None:
            raise StorageRefusal("NoSuchKey", "The specified key does not exist.", Key=unquote(key))
        exchange.entry.has_effect = True
        exchange.entry.key = stored.key
        return web.FileResponse(stored.file, headers={"Content-Type": stored.content_type})

    def _check_fields(self, fields: dict[str, str], exchange: Exchange) -> SizeRange:
        key = fields.get("key", "")
        if not key:
            message = "The bucket POST must contain the specified field name. If it is specified, check the order."
            raise StorageRefusal("UserKeyMustBeSpecified", message, ArgumentName="key")
        exchange.entry.key = key
        if len(key.encode()) > _KEY_LIMIT:
            raise StorageRefusal("KeyTooLongError", "Your key is too long", MaxSizeAllowed=_KEY_LIMIT)
        if exchange.meets("expired"):
            raise StorageRefusal("AccessDenied", "Invalid according to Policy: Policy expired.")
        return judge(fields, self._settings, exchange.now)

    def _stored(self, exchange: Exchange, stored: StoredObject, fields: dict[str, str], md5: str) -> web.StreamResponse:
        location = f"{exchange.origin}/s3/{stored.bucket}/{quote(stored.key)}"
        etag = self._etag(md5)
        headers = {"Location": location, "x-amz-request-id": request_ids(stored.key)["RequestId"]}
        if etag is not None:
            headers["ETag"] = etag
        if self._settings.etag == "kms":
            headers["x-amz-server-side-encryption"] = "aws:kms"
        target = fields.get("success_action_redirect", "")
        if urlsplit(target).scheme in ("http", "https"):
            query = urlencode({"bucket": stored.bucket, "key": stored.key, "etag": etag or ""})
            return web.Response(status=303, headers={**headers, "Location": f"{target}?{query}"})
        wanted = fields.get("success_action_status")
        if wanted == "201":
            parts = {"Location": location, "Bucket": stored.bucket, "Key": stored.key, "ETag": etag or ""}
            body = '<?xml version="1.0" encoding="UTF-8"?>\n' + xml("PostResponse", parts)
            return web.Response(status=201, headers=headers, text=body, content_type="application/xml")
        return web.Response(status=200 if wanted == "200" else 204, headers=headers)

    def _etag(self, md5: str) -> str | None:
        if self._settings.etag == "none":
            return None
        if self._settings.etag == "kms":
            return f'"{hashlib.sha256(md5.encode()).hexdigest()[:32]}"'
        return f'"{md5}"' if self._settings.etag == "md5" else '"not-a-digest-2"'


def _check_headers(request: web.BaseRequest) -> None:
    if "Authorization" in request.headers:
        message = (
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
            "parameter or the Authorization header should be specified"
        )
        raise StorageRefusal("InvalidArgument", message, ArgumentName="Authorization", ArgumentValue="***")
    length = request.headers.get("Content-Length")
    if "Transfer-Encoding" in request.headers or length is None:
        raise StorageRefusal("MissingContentLength", "You must provide the Content-Length HTTP header.")
    SizeRange(largest=_LARGEST_POST).check_start(int(length))
    if "Content-Encoding" in request.headers:
        raise StorageRefusal("InvalidArgument", "Content-Encoding is not understood here")


def _content_type(request: web.BaseRequest) -> str:
    return request.headers.get("Content-Type", "")


async def _receive(form: Form, incoming: Incoming, sizes: SizeRange) -> None:
    async for chunk in form.content():
        incoming.write(chunk)
        sizes.check_start(incoming.size_bytes)
    sizes.check_end(incoming.size_bytes)
