"""POST policies: the form fields of an upload slot, and the judgement of a form by them (AWS S3 API, POST policy).

Promises: signatures are real (Signature Version 4, or 2 by switch); every field must be covered by a condition, in the
very spelling of the slot; nothing is let through because a check is missing.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relayd.sandbox.refusal import StorageRefusal
from relayd.sandbox.settings import Settings

_UNCOVERED = frozenset({"policy", "file", "x-amz-signature", "signature", "AWSAccessKeyId"})
_V4_FIELDS = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
_V2_FIELDS = ("AWSAccessKeyId", "signature")


@dataclass(frozen=True, slots=True)
class SizeRange:
    """What `content-length-range` allows, in bytes."""

    smallest: int = 0
    largest: int = 5 * 2**30

    def check_start(self, announced: int) -> None:
        """Refuse as soon as more has come than will ever be allowed."""
        if announced > self.largest:
            raise StorageRefusal(
                "EntityTooLarge",
                "Your proposed upload exceeds the maximum allowed size",
                ProposedSize=announced,
                MaxSizeAllowed=self.largest,
            )

    def check_end(self, size_bytes: int) -> None:
        """Refuse what turned out too small."""
        self.check_start(size_bytes)
        if size_bytes < self.smallest:
            raise StorageRefusal(
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
                ProposedSize=size_bytes,
                MinSizeAllowed=self.smallest,
            )


def slot_fields(
    settings: Settings, key: str, content_type: str, now: float, life_seconds: float | None = None
) -> dict[str, str]:
    """The ordered form fields of one upload slot."""
    life = settings.slot_seconds if life_seconds is None else life_seconds
    moment = _utc(now)
    fields = {"key": key}
    if settings.content_type_field:
        fields["Content-Type"] = content_type
    if settings.success_action_status is not None:
        fields["success_action_status"] = settings.success_action_status
    if settings.success_action_redirect is not None:
        fields["success_action_redirect"] = settings.success_action_redirect
    if settings.signature == "v4":
        fields["x-amz-algorithm"] = "AWS4-HMAC-SHA256"
        fields["x-amz-credential"] = f"{settings.access_key}/{moment:%Y%m%d}/{settings.region}/s3/aws4_request"
        fields["x-amz-date"] = f"{moment:%Y%m%dT%H%M%SZ}"
    if settings.session_seconds is not None:
        fields["x-amz-security-token"] = session_token(settings, now + settings.session_seconds)
    conditions: list[object] = [{"bucket": settings.bucket}]
    conditions += [{name: value} for name, value in fields.items()]
    conditions.append(["content-length-range", settings.min_bytes, settings.max_bytes])
    expiration = f"{_utc(now + life):%Y-%m-%dT%H:%M:%S}.{_utc(now + life).microsecond // 1000:03}Z"
    document = json.dumps({"expiration": expiration, "conditions": conditions})
    if settings.signature == "v2":
        fields["AWSAccessKeyId"] = settings.access_key
    fields["policy"] = base64.b64encode(document.encode()).decode()
    if settings.signature == "v4":
        fields["x-amz-signature"] = _sign_v4(settings.secret_key, fields["x-amz-credential"], fields["policy"])
    else:
        fields["signature"] = _sign_v2(settings.secret_key, fields["policy"])
    return fields


def judge(fields: Mapping[str, str], settings: Settings, now: float) -> SizeRange:
    """Check signature, session, expiry and conditions of a form, in the order of S3; raises StorageRefusal."""
    if "policy" not in fields:
        raise StorageRefusal("AccessDenied", "Access Denied")
    _check_signature(fields, settings)
    _check_session(fields, settings, now)
    document = _read_policy(fields["policy"])
    if _expiration(document) <= now:
        raise StorageRefusal("AccessDenied", "Invalid according to Policy: Policy expired.")
    sizes, covered = _check_conditions(document["conditions"], fields, settings.bucket)
    if settings.keep_order:
        _check_order(covered, list(fields), settings)
    return sizes


def session_token(settings: Settings, ends_at: float) -> str:
    """A session token that carries its own end, so that a restarted sandbox still knows it."""
    text = f"{ends_at:.3f}"
    proof = hmac.new(settings.secret_key.encode(), b"session" + text.encode(), hashlib.sha256).hexdigest()
    return base64.b64encode(f"{text}/{proof}".encode()).decode()


def _check_signature(fields: Mapping[str, str], settings: Settings) -> None:
    needed = _V4_FIELDS if settings.signature == "v4" else _V2_FIELDS
    for name in needed:
        if name not in fields:
            message = f"Bucket POST must contain a field named '{name}'.  If it is specified, please check the order."
            raise StorageRefusal("InvalidArgument", message, ArgumentName=name, ArgumentValue="")
    if settings.signature == "v4":
        _check_scope(fields, settings)
        right = _sign_v4(settings.secret_key, fields["x-amz-credential"], fields["policy"])
        given = fields["x-amz-signature"]
    else:
        if fields["AWSAccessKeyId"] != settings.access_key:
            raise _unknown_key(fields["AWSAccessKeyId"])
        right, given = _sign_v2(settings.secret_key, fields["policy"]), fields["signature"]
    if not hmac.compare_digest(right.encode(), given.encode()):
        message = (
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method."
        )
        raise StorageRefusal("SignatureDoesNotMatch", message, SignatureProvided=given)


def _check_scope(fields: Mapping[str, str], settings: Settings) -> None:
    if fields["x-amz-algorithm"] != "AWS4-HMAC-SHA256":
        raise StorageRefusal("InvalidArgument", "x-amz-algorithm must be AWS4-HMAC-SHA256")
    parts = fields["x-amz-credential"].split("/")
    if len(parts) != 5 or parts[2:] != [settings.region, "s3", "aws4_request"]:
        raise StorageRefusal("InvalidArgument", "x-amz-credential is not KEY/DATE/REGION/s3/aws4_request")
    if parts[0] != settings.access_key:
        raise _unknown_key(parts[0])
    if not fields["x-amz-date"].startswith(parts[1] + "T"):
        raise StorageRefusal("InvalidArgument", "x-amz-date is not of the date of x-amz-credential")


def _unknown_key(key: str) -> StorageRefusal:
    message = "The AWS Access Key Id you provided does not exist in our records."
    return StorageRefusal("InvalidAccessKeyId", message, AWSAccessKeyId=key)


def _check_session(fields: Mapping[str, str], settings: Settings, now: float) -> None:
    token = fields.get("x-amz-security-token")
    if token is None:
        return
    invalid = StorageRefusal("InvalidToken", "The provided token is malformed or otherwise invalid.")
    try:
        ends_at = float(base64.b64decode(token, validate=True).split(b"/")[0])
    except (ValueError, binascii.Error):
        raise invalid from None
    if not hmac.compare_digest(session_token(settings, ends_at), token):
        raise invalid
    if ends_at <= now:
        raise StorageRefusal("ExpiredToken", "The provided token has expired.")


def _read_policy(text: str) -> dict[str, Any]:
    try:
        document = json.loads(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        raise _invalid("Invalid Policy: Invalid JSON.") from None
    if not isinstance(document, dict) or set(document) != {"expiration", "conditions"}:
        raise _invalid("Invalid Policy: a policy is an object of expiration and conditions.")
    if not isinstance(document["conditions"], list):
        raise _invalid("Invalid Policy: conditions must be a list.")
    return document


def _expiration(document: Mapping[str, Any]) -> float:
    text = document["expiration"]
    try:
        if not text.endswith("Z"):
            raise ValueError
        return datetime.datetime.fromisoformat(text.removesuffix("Z") + "+00:00").timestamp()
    except (ValueError, AttributeError):
        raise _invalid(f"Invalid Policy: Invalid 'expiration' value: '{text}'") from None


def _check_conditions(conditions: list[object], fields: Mapping[str, str], bucket: str) -> tuple[SizeRange, list[str]]:
    """The allowed sizes, and the covered names in the order of the policy."""
    given = {**fields, "bucket": bucket}
    covered: list[str] = []
    sizes = SizeRange()
    for condition in conditions:
        kind, name, wanted = _read_condition(condition)
        if kind == "content-length-range":
            sizes = SizeRange(int(name), int(wanted))
            continue
        covered.append(name)
        value = given.get(name, "")
        if not (value == wanted if kind == "eq" else value.startswith(wanted)):
            shown = json.dumps([kind, f"${name}", wanted])
            raise StorageRefusal("AccessDenied", f"Invalid according to Policy: Policy Condition failed: {shown}")
    known = _UNCOVERED.union(covered)
    extra = [name for name in fields if not (name in known or name.startswith("x-ignore-"))]
    if extra:
        raise StorageRefusal("AccessDenied", f"Invalid according to Policy: Extra input fields: {', '.join(extra)}")
    return sizes, covered


def _check_order(covered: list[str], given: list[str], settings: Settings) -> None:
    """Slots are issued in the order of their policy, then the policy and what signs it."""
    tail = ["policy", "x-amz-signature"] if settings.signature == "v4" else ["AWSAccessKeyId", "policy", "signature"]
    wanted = [name for name in dict.fromkeys(covered) if name in given] + tail
    found = [name for name in given if name in wanted]
    if found != wanted:
        message = f"The fields are not in the order of the slot: {', '.join(found)} instead of {', '.join(wanted)}"
        raise StorageRefusal("InvalidArgument", message, ArgumentName="order")


def _read_condition(condition: object) -> tuple[str, str, str]:
    if isinstance(condition, dict) and len(condition) == 1:
        name, wanted = next(iter(condition.items()))
        if isinstance(wanted, str):
            return "eq", name, wanted
    if isinstance(condition, list) and len(condition) == 3:
        kind, name, wanted = condition
        if kind == "content-length-range" and type(name) is int and type(wanted) is int:
            return kind, str(name), str(wanted)
        if kind in ("eq", "starts-with") and isinstance(name, str) and name[:1] == "$" and isinstance(wanted, str):
            return kind, name[1:], wanted
    raise _invalid(f"Invalid Policy: Invalid condition: {json.dumps(condition)}")


def _invalid(message: str) -> StorageRefusal:
    return StorageRefusal("InvalidPolicyDocument", message)


def _sign_v4(secret: str, credential: str, policy: str) -> str:
    _, date, region, service, terminator = credential.split("/")
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, terminator):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, policy.encode(), hashlib.sha256).hexdigest()


def _sign_v2(secret: str, policy: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), policy.encode(), hashlib.sha1).digest()).decode()


def _utc(unix_seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix_seconds, tz=datetime.UTC)
