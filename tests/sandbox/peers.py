"""Independent clients of the sandbox: a raw HTTP client over a socket, an own signature, and curl.

Nothing here comes from relayd: forms are written and signed from the AWS document "Authenticating Requests:
Browser-Based Uploads Using POST (AWS Signature Version 4)".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.patience import PATIENT_SECONDS

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
BOUNDARY = "----boundary-of-a-test"
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The `<Code>` of an S3 error."""
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        assert found is not None, self.body
        return found[1].decode()

    @property
    def message(self) -> str:
        found = re.search(rb"<Message>(.*?)</Message>", self.body)
        assert found is not None, self.body
        return found[1].decode().replace("&quot;", '"')

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def send(
    url: str,
    head: Sequence[str],
    *bodies: bytes,
    tls: ssl.SSLContext | None = None,
    is_half_closed: bool = False,
) -> Answer:
    """Exactly these bytes; the answer, read to the end of the connection or of Content-Length."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [head[0].replace("PATH", path), f"Host: {parts.netloc}", *head[1:]]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for body in bodies:
            writer.write(body)
        if is_half_closed:
            writer.write_eof()
        return await asyncio.wait_for(_read_answer(reader), 20)
    finally:
        writer.transport.abort()


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split(" ", 2)[1])
        if status != 100:
            break
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
    length = headers.get("content-length")
    if status == 204:
        return Answer(status, headers, b"")
    return Answer(status, headers, await (reader.read() if length is None else reader.readexactly(int(length))))


async def post(url: str, body: bytes, content_type: str, *more: str) -> Answer:
    head = ["POST PATH HTTP/1.1", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *more]
    return await send(url, head, body)


async def get(url: str, *more: str) -> Answer:
    return await send(url, ["GET PATH HTTP/1.1", *more])


async def token(url: str) -> str:
    """The Authorization line for the sandbox's default client."""
    body = b"grant_type=client_credentials&client_id=sandbox&client_secret=sandbox-secret"
    answer = await post(f"{url}/oauth/token", body, "application/x-www-form-urlencoded")
    assert answer.status == 200, answer
    return f"Authorization: Bearer {answer.json['access_token']}"


async def slot(url: str, name: str = "still.jpg", mode: str = "persistent_reference") -> dict[str, Any]:
    """A new upload slot."""
    wish = json.dumps({"file_name": name, "mime_type": "image/jpeg", "mode": mode}).encode()
    answer = await post(f"{url}/v1/resources", wish, "application/json", await token(url))
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def form_of(slot: dict[str, Any], content: bytes, *extra: tuple[str, str]) -> bytes:
    """The form of a slot, as it should be; `extra` fields before the file."""
    return form([*slot["signed_request"]["fields"].items(), *extra], content)


def form(fields: Pairs, content: bytes | None, *, after: bytes = b"", closing: bytes | None = None) -> bytes:
    """A multipart body; `after` are raw further parts, `closing` replaces the end."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    if content is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f.jpg"\r\n'
        parts.append(f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + content + b"\r\n")
    end = f"--{BOUNDARY}--\r\n".encode() if closing is None else closing
    return b"".join(parts) + after + end


def multipart(boundary: str = BOUNDARY) -> str:
    return f"multipart/form-data; boundary={boundary}"


def sign(policy: str, date: str, region: str = "us-east-1", secret: str = SECRET_KEY) -> str:
    """Signature Version 4 of a base64 policy, as the AWS document writes it."""
    date_key = hmac.digest(f"AWS4{secret}".encode(), date.encode(), "sha256")
    region_key = hmac.digest(date_key, region.encode(), "sha256")
    service_key = hmac.digest(region_key, b"s3", "sha256")
    signing_key = hmac.digest(service_key, b"aws4_request", "sha256")
    return hmac.new(signing_key, policy.encode(), hashlib.sha256).hexdigest()


def signed_fields(
    *, fields: Pairs, conditions: list[Any] | None = None, lives_seconds: float = 600, policy: object = None
) -> Pairs:
    """A whole set of form fields with an own policy: by default exactly what `fields` say."""
    moment = datetime.now(UTC)
    date = f"{moment:%Y%m%d}"
    scope: Pairs = [
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-credential", f"{ACCESS_KEY}/{date}/us-east-1/s3/aws4_request"),
        ("x-amz-date", f"{moment:%Y%m%dT%H%M%SZ}"),
    ]
    wanted = [{name: value} for name, value in fields] if conditions is None else conditions
    ends = datetime.fromtimestamp(time.time() + lives_seconds, UTC)
    document = {
        "expiration": f"{ends:%Y-%m-%dT%H:%M:%S}.000Z",
        "conditions": [{"bucket": "sandbox-media"}, *wanted, *({name: value} for name, value in scope)],
    }
    text = policy if isinstance(policy, bytes) else json.dumps(document if policy is None else policy).encode()
    encoded = base64.b64encode(text).decode()
    return [*fields, *scope, ("policy", encoded), ("x-amz-signature", sign(encoded, date))]


async def until(holds: Callable[[], bool], timeout_seconds: float = PATIENT_SECONDS) -> None:
    """Wait for a state that nobody announces."""
    async with asyncio.timeout(timeout_seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def curl(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the real curl; it does not look at the user's configuration."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-q", "--noproxy", "*", "-sS", "--max-time", "20", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


def curl_form(slot: dict[str, Any], file: Path) -> list[str]:
    """The arguments with which curl posts a file into a slot."""
    fields = slot["signed_request"]["fields"].items()
    given = [word for name, value in fields for word in ("--form-string", f"{name}={value}")]
    return [*given, "-F", f"file=@{file};type=image/jpeg", slot["signed_request"]["url"]]
