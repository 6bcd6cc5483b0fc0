"""How the stand-ins say no: one exception for storage (XML) and one for the RapidSOS API (JSON).

Promises: codes, statuses and messages are the documented ones, so that a client that decides by them is really tested.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from xml.sax.saxutils import escape

from aiohttp import web

STATUS_OF_CODE: Mapping[str, int] = {
    "AccessDenied": 403,
    "BadDigest": 400,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "ExpiredToken": 400,
    "IncompleteBody": 400,
    "IncorrectNumberOfFilesInPostRequest": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidPolicyDocument": 400,
    "InvalidToken": 400,
    "KeyTooLongError": 400,
    "MalformedPOSTRequest": 400,
    "MaxPostPreDataLengthExceededError": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "OperationAborted": 409,
    "PreconditionFailed": 412,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "UserKeyMustBeSpecified": 400,
}


class Refusal(ABC, Exception):
    """A request that is not done; `answer()` is what the client gets."""

    @abstractmethod
    def answer(self) -> web.Response: ...


class StorageRefusal(Refusal):
    """An S3 error document: `code` decides the status."""

    def __init__(self, code: str, message: str, *, status: int | None = None, **details: object) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status or STATUS_OF_CODE[code]
        self.details = details

    def answer(self) -> web.Response:
        parts = {"Code": self.code, "Message": self.message, **self.details}
        body = '<?xml version="1.0" encoding="UTF-8"?>\n' + xml("Error", {**parts, **request_ids(str(self))})
        response = web.Response(status=self.status, text=body, content_type="application/xml")
        response.force_close()
        return response


class ApiRefusal(Refusal):
    """A RapidSOS error: a status with a JSON body."""

    def __init__(self, status: int, body: Mapping[str, object]) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body

    @classmethod
    def malformed(cls, why: str) -> ApiRefusal:
        """400, with the reason in words."""
        return cls(400, {"message": f"Request is malformed: {why}"})

    @classmethod
    def unauthorized(cls, why: str) -> ApiRefusal:
        """401: the token is missing, unknown or expired."""
        detail = {"errorcode": "keymanagement.service.invalid_access_token", "reason": why}
        return cls(401, {"fault": {"faultstring": "Invalid Access Token", "detail": detail}})

    @classmethod
    def not_found(cls) -> ApiRefusal:
        """404."""
        return cls(404, {"message": "Not Found"})

    def answer(self) -> web.Response:
        return web.json_response(dict(self.body), status=self.status)


def xml(name: str, parts: Mapping[str, object]) -> str:
    """A flat XML element."""
    inner = "".join(f"<{key}>{escape(str(value))}</{key}>" for key, value in parts.items())
    return f"<{name}>{inner}</{name}>"


def request_ids(text: str) -> dict[str, str]:
    """The two ids that every S3 error carries."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"RequestId": digest[:16].upper(), "HostId": digest[16:]}
