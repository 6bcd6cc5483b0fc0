"""Signs upload forms the way S3 documents it (POST policies, signature versions 2 and 4), independently of relayd."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

REGION = "us-east-1"


def policy_document(bucket: str, fields: Mapping[str, str], conditions: Sequence[object], lives_seconds: float) -> str:
    """The base64 of a policy that allows exactly `fields` and the further `conditions`."""
    ends = datetime.now(UTC) + timedelta(seconds=lives_seconds)
    document = {
        "expiration": ends.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "conditions": [{"bucket": bucket}, *({name: value} for name, value in fields.items()), *conditions],
    }
    return b64encode(json.dumps(document).encode()).decode()


def signed_v4(
    access: str,
    secret: str,
    bucket: str,
    fields: Mapping[str, str],
    *,
    conditions: Sequence[object] = (),
    lives_seconds: float = 600,
) -> dict[str, str]:
    """All form fields of an upload, in the order in which they are to be sent."""
    day = datetime.now(UTC)
    scope = f"{day:%Y%m%d}/{REGION}/s3/aws4_request"
    covered = {
        **fields,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{access}/{scope}",
        "x-amz-date": f"{day:%Y%m%dT%H%M%SZ}",
    }
    policy = policy_document(bucket, covered, conditions, lives_seconds)
    key = b"AWS4" + secret.encode()
    for part in (*scope.split("/"), policy):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return {**covered, "policy": policy, "x-amz-signature": key.hex()}


def signed_v2(
    access: str,
    secret: str,
    bucket: str,
    fields: Mapping[str, str],
    *,
    conditions: Sequence[object] = (),
    lives_seconds: float = 600,
) -> dict[str, str]:
    """The older form: `AWSAccessKeyId` and `signature`."""
    policy = policy_document(bucket, fields, conditions, lives_seconds)
    signature = b64encode(hmac.new(secret.encode(), policy.encode(), hashlib.sha1).digest()).decode()
    return {**fields, "AWSAccessKeyId": access, "policy": policy, "signature": signature}
