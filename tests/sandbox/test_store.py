"""The storage stand-in, rule by rule, judged by clients that share no code with it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relayd.sandbox import Sandbox, read_objects
from tests.sandbox import peers
from tests.sandbox.peers import Answer, Pairs, form, form_of, multipart, post, signed_fields, slot

CONTENT = b"\xff\xd8" + bytes(range(256)) * 40 + b"\r\n--almost-a-boundary\r\n" + b"\xff\xd9"
FIELDS: Pairs = [("key", "uploads/1/still.jpg"), ("Content-Type", "image/jpeg")]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(access_key=peers.ACCESS_KEY, secret_key=peers.SECRET_KEY) as sandbox:
        yield sandbox


async def posted(sandbox: Sandbox, body: bytes, *more: str, content_type: str | None = None) -> Answer:
    url = f"{sandbox.url}/s3/{sandbox.settings.bucket}"
    return await post(url, body, multipart() if content_type is None else content_type, *more)


def own(**changes: Any) -> bytes:
    """A right form with an own policy, but for the changes."""
    content = changes.pop("content", CONTENT)
    return form(signed_fields(fields=changes.pop("fields", FIELDS), **changes), content)


async def refused(sandbox: Sandbox, body: bytes, *more: str, content_type: str | None = None) -> tuple[int, str]:
    """Status and code; and nothing may be stored."""
    answer = await posted(sandbox, body, *more, content_type=content_type)
    assert not sandbox.objects
    assert list((sandbox.folder / "incoming").iterdir()) == []
    assert answer.headers["content-type"].startswith("application/xml")
    return answer.status, answer.code


# --- what is right is stored


async def test_the_form_of_a_slot_posted_by_curl_is_stored_byte_for_byte(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "still.jpg"
    file.write_bytes(CONTENT)
    code, output = await peers.curl("-i", *peers.curl_form(await slot(sandbox.url), file))
    assert code == 0
    assert "204 No Content" in output
    assert f'ETag: "{hashlib.md5(CONTENT).hexdigest()}"' in output
    (stored,) = read_objects(sandbox.folder).values()
    assert Path(stored.file).read_bytes() == CONTENT
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert (stored.content_type, stored.stored, stored.name) == ("image/jpeg", 1, "still.jpg")


async def test_an_own_signature_after_the_aws_document_is_taken(sandbox: Sandbox) -> None:
    answer = await posted(sandbox, own())
    assert answer.status == 204, answer


async def test_the_example_of_the_aws_document_is_taken() -> None:
    policy = (Path(__file__).parent / "aws_example_policy.txt").read_text(encoding="ascii").strip()
    fields: Pairs = [
        ("key", "user/user1/picture.jpg"),
        ("acl", "public-read"),
        ("success_action_redirect", "http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html"),
        ("Content-Type", "image/jpeg"),
        ("x-amz-meta-uuid", "14365123651274"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-credential", "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-date", "20151229T000000Z"),
        ("x-amz-meta-tag", ""),
        ("policy", policy),
        ("x-amz-signature", "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"),
    ]
    switches: dict[str, Any] = {"access_key": peers.ACCESS_KEY, "secret_key": peers.SECRET_KEY, "keep_order": False}
    async with Sandbox(bucket="sigv4examplebucket", **switches) as sandbox:
        sandbox.advance(datetime(2015, 12, 29, 1, tzinfo=UTC).timestamp() - sandbox.now())
        answer = await posted(sandbox, form(fields, CONTENT))
        assert answer.status == 303
        assert answer.headers["location"].startswith(
            "http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html?"
        )
        sandbox.advance(2 * 86400)
        answer = await posted(sandbox, form(fields, CONTENT))
        assert (answer.status, answer.message) == (403, "Invalid according to Policy: Policy expired.")


async def test_a_signature_of_version_2_is_made_and_checked() -> None:
    async with Sandbox(signature="v2", secret_key=peers.SECRET_KEY) as sandbox:
        given = await slot(sandbox.url)
        fields = given["signed_request"]["fields"]
        assert "x-amz-signature" not in fields
        digest = hmac.digest(peers.SECRET_KEY.encode(), fields["policy"].encode(), "sha1")
        assert fields["signature"] == base64.b64encode(digest).decode()
        assert (await posted(sandbox, form_of(given, CONTENT))).status == 204
        fields["signature"] = base64.b64encode(bytes(20)).decode()
        assert (await posted(sandbox, form_of(given, CONTENT))).code == "SignatureDoesNotMatch"


async def test_the_same_form_again_overwrites_the_same_key_and_is_counted(sandbox: Sandbox) -> None:
    given = await slot(sandbox.url)
    for content in (CONTENT, CONTENT):
        assert (await posted(sandbox, form_of(given, content))).status == 204
    (stored,) = sandbox.objects.values()
    assert (stored.stored, stored.is_altered) == (2, False)
    await posted(sandbox, form_of(given, b"other"))
    (stored,) = sandbox.objects.values()
    assert (stored.stored, stored.is_altered, stored.size_bytes) == (3, True, 5)


@pytest.mark.parametrize(("wanted", "status"), [("200", 200), ("201", 201), ("204", 204), ("202", 204)])
async def test_success_action_status_decides_the_answer(wanted: str, status: int) -> None:
    async with Sandbox(success_action_status=wanted) as sandbox:
        answer = await posted(sandbox, form_of(await slot(sandbox.url), CONTENT))
        assert answer.status == status
        assert (b"<PostResponse><Location>" in answer.body) == (status == 201)


async def test_success_action_redirect_answers_303_after_storing() -> None:
    async with Sandbox(success_action_redirect="https://portal.example.org/done") as sandbox:
        answer = await posted(sandbox, form_of(await slot(sandbox.url), CONTENT))
        assert answer.status == 303
        assert answer.headers["location"].startswith("https://portal.example.org/done?bucket=sandbox-media&key=uploads")
        assert len(sandbox.objects) == 1


@pytest.mark.parametrize(("etag", "is_md5"), [("md5", True), ("kms", False), ("opaque", False), ("none", False)])
async def test_the_etag_is_what_the_switch_says(etag: str, is_md5: bool) -> None:
    async with Sandbox(etag=etag) as sandbox:
        answer = await posted(sandbox, form_of(await slot(sandbox.url), CONTENT))
        assert (answer.headers.get("etag") == f'"{hashlib.md5(CONTENT).hexdigest()}"') == is_md5
        assert ("etag" in answer.headers) == (etag != "none")


async def test_an_empty_file_and_one_that_ends_like_a_boundary_are_stored_whole(sandbox: Sandbox) -> None:
    for content in (b"", b"\r\n", f"\r\n--{peers.BOUNDARY[:-1]}".encode(), b"\r\n--" * 50_000):
        assert (await posted(sandbox, form_of(await slot(sandbox.url), content))).status == 204
        stored = list(sandbox.objects.values())[-1]
        assert Path(stored.file).read_bytes() == content


async def test_what_is_stored_can_be_fetched(sandbox: Sandbox) -> None:
    answer = await posted(sandbox, form_of(await slot(sandbox.url), CONTENT))
    fetched = await peers.get(answer.headers["location"])
    assert (fetched.status, fetched.body, fetched.headers["content-type"]) == (200, CONTENT, "image/jpeg")
    missing = await peers.get(f"{sandbox.url}/s3/{sandbox.settings.bucket}/uploads/no/such")
    assert (missing.status, missing.code) == (404, "NoSuchKey")


# --- signature, session, expiry


async def test_a_wrong_signature_is_refused(sandbox: Sandbox) -> None:
    fields = dict(signed_fields(fields=FIELDS))
    fields["x-amz-signature"] = peers.sign(fields["policy"], "20200101")
    assert await refused(sandbox, form(list(fields.items()), CONTENT)) == (403, "SignatureDoesNotMatch")


async def test_a_policy_altered_after_signing_is_refused(sandbox: Sandbox) -> None:
    fields = dict(signed_fields(fields=FIELDS))
    document = json.loads(base64.b64decode(fields["policy"]))
    document["expiration"] = "2099-01-01T00:00:00.000Z"
    fields["policy"] = base64.b64encode(json.dumps(document).encode()).decode()
    assert await refused(sandbox, form(list(fields.items()), CONTENT)) == (403, "SignatureDoesNotMatch")


async def test_an_unknown_access_key_is_refused(sandbox: Sandbox) -> None:
    fields = dict(signed_fields(fields=FIELDS))
    fields["x-amz-credential"] = fields["x-amz-credential"].replace(peers.ACCESS_KEY, "AKIAUNKNOWN")
    assert await refused(sandbox, form(list(fields.items()), CONTENT)) == (403, "InvalidAccessKeyId")


async def test_an_expired_policy_is_refused(sandbox: Sandbox) -> None:
    answer = await posted(sandbox, own(lives_seconds=-2))
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.message == "Invalid according to Policy: Policy expired."
    assert not sandbox.objects


async def test_a_policy_expires_by_the_clock_of_the_sandbox(sandbox: Sandbox) -> None:
    given = await slot(sandbox.url)
    sandbox.advance(sandbox.settings.slot_seconds + 1)
    answer = await posted(sandbox, form_of(given, CONTENT))
    assert (answer.status, answer.message) == (403, "Invalid according to Policy: Policy expired.")


async def test_a_session_ends_before_the_policy() -> None:
    async with Sandbox(session_seconds=60, slot_seconds=600) as sandbox:
        given = await slot(sandbox.url)
        sandbox.advance(61)
        assert await refused(sandbox, form_of(given, CONTENT)) == (400, "ExpiredToken")


async def test_a_forged_session_token_is_refused(sandbox: Sandbox) -> None:
    fields: Pairs = [*FIELDS, ("x-amz-security-token", base64.b64encode(b"9999999999/00").decode())]
    assert await refused(sandbox, own(fields=fields)) == (400, "InvalidToken")


async def test_a_form_without_a_policy_is_refused(sandbox: Sandbox) -> None:
    assert await refused(sandbox, form(FIELDS, CONTENT)) == (403, "AccessDenied")


@pytest.mark.parametrize("missing", ["x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"])
async def test_a_form_without_a_part_of_the_signature_is_refused(sandbox: Sandbox, missing: str) -> None:
    fields = [pair for pair in signed_fields(fields=FIELDS) if pair[0] != missing]
    assert await refused(sandbox, form(fields, CONTENT)) == (400, "InvalidArgument")


@pytest.mark.parametrize(
    "policy",
    [
        b"no JSON",
        ["a list"],
        {"expiration": "2099-01-01T00:00:00.000Z"},
        {"expiration": "2099-01-01 00:00", "conditions": []},
        {"expiration": "2099-01-01T00:00:00Z", "conditions": [["matches", "$key", ".*"]]},
        {"expiration": "2099-01-01T00:00:00Z", "conditions": [["content-length-range", "1", 2]]},
        {"expiration": "2099-01-01T00:00:00Z", "conditions": {}},
    ],
)
async def test_a_policy_that_cannot_be_read_is_refused(sandbox: Sandbox, policy: object) -> None:
    assert await refused(sandbox, own(policy=policy)) == (400, "InvalidPolicyDocument")


# --- conditions


@pytest.mark.parametrize(
    "condition",
    [{"key": "uploads/2/still.jpg"}, ["eq", "$key", "UPLOADS/1/still.jpg"], ["starts-with", "$key", "private/"]],
)
async def test_a_failed_condition_is_refused(sandbox: Sandbox, condition: object) -> None:
    answer = await posted(sandbox, own(conditions=[condition, ["starts-with", "$Content-Type", ""]]))
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.message.startswith("Invalid according to Policy: Policy Condition failed: [")
    assert not sandbox.objects


async def test_a_field_left_out_is_refused(sandbox: Sandbox) -> None:
    given = await slot(sandbox.url)
    del given["signed_request"]["fields"]["Content-Type"]
    assert await refused(sandbox, form_of(given, CONTENT)) == (403, "AccessDenied")


async def test_a_field_in_another_spelling_is_refused(sandbox: Sandbox) -> None:
    given = await slot(sandbox.url)
    fields = [(name.replace("Content-Type", "content-type"), value) for name, value in
              given["signed_request"]["fields"].items()]  # fmt: skip
    assert await refused(sandbox, form(fields, CONTENT)) == (403, "AccessDenied")


async def test_an_extra_field_is_refused_unless_it_is_to_be_ignored(sandbox: Sandbox) -> None:
    answer = await posted(sandbox, form_of(await slot(sandbox.url), CONTENT, ("x-extra", "1")))
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.message == "Invalid according to Policy: Extra input fields: x-extra"
    assert not sandbox.objects
    answer = await posted(sandbox, form_of(await slot(sandbox.url), CONTENT, ("x-ignore-this", "1")))
    assert answer.status == 204


@pytest.mark.parametrize(("size", "code"), [(9, "EntityTooSmall"), (10, None), (20, None), (21, "EntityTooLarge")])
async def test_the_content_length_range_holds_to_the_byte(size: int, code: str | None) -> None:
    async with Sandbox(min_bytes=10, max_bytes=20) as sandbox:
        answer = await posted(sandbox, form_of(await slot(sandbox.url), b"x" * size))
        assert answer.status == (204 if code is None else 400)
        assert code is None or answer.code == code
        assert len(sandbox.objects) == (1 if code is None else 0)


async def test_more_than_five_gigabytes_are_refused_before_they_come(sandbox: Sandbox) -> None:
    head = ["POST PATH HTTP/1.1", f"Content-Type: {multipart()}", "Content-Length: 5368709121"]
    answer = await peers.send(f"{sandbox.url}/s3/{sandbox.settings.bucket}", head)
    assert (answer.status, answer.code) == (400, "EntityTooLarge")


# --- the shape of the form


async def test_fields_out_of_order_are_refused(sandbox: Sandbox) -> None:
    fields = list((await slot(sandbox.url))["signed_request"]["fields"].items())
    assert await refused(sandbox, form([*fields[1:], fields[0]], CONTENT)) == (400, "InvalidArgument")
    assert await refused(sandbox, form(sorted(fields), CONTENT)) == (400, "InvalidArgument")


async def test_a_field_given_twice_is_refused(sandbox: Sandbox) -> None:
    given = signed_fields(fields=FIELDS)
    assert await refused(sandbox, form([given[0], *given], CONTENT)) == (400, "InvalidArgument")


async def test_a_form_without_a_file_is_refused(sandbox: Sandbox) -> None:
    answer = await posted(sandbox, own(content=None))
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert answer.message == "POST requires exactly one file upload per request."


async def test_two_files_are_refused(sandbox: Sandbox) -> None:
    second = form([], b"second", closing=b"")
    body = form(signed_fields(fields=FIELDS), CONTENT, after=second)
    assert await refused(sandbox, body) == (400, "IncorrectNumberOfFilesInPostRequest")


async def test_a_field_after_the_file_is_refused(sandbox: Sandbox) -> None:
    late = form([("x-ignore-late", "1")], None, closing=b"")
    body = form(signed_fields(fields=FIELDS), CONTENT, after=late)
    assert await refused(sandbox, body) == (400, "MalformedPOSTRequest")


async def test_a_file_before_the_fields_is_refused(sandbox: Sandbox) -> None:
    fields = form(signed_fields(fields=FIELDS), None, closing=b"")
    assert await refused(sandbox, form([], CONTENT, after=fields)) == (400, "UserKeyMustBeSpecified")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"--{peers.BOUNDARY}--\r\n", ""),
        (f"--{peers.BOUNDARY}--\r\n", f"--{peers.BOUNDARY}\r\n"),
        (f"--{peers.BOUNDARY}--\r\n", f"--{peers.BOUNDARY}--\r\nepilogue"),
        (f"--{peers.BOUNDARY}\r\n", f"preamble\r\n--{peers.BOUNDARY}\r\n"),
        ('; filename="f.jpg"', ""),
        ('; filename="f.jpg"', "; filename*=UTF-8''f.jpg"),
        ('form-data; name="key"', "attachment; name=key"),
        ("Content-Type: image/jpeg", "Content-Transfer-Encoding: binary"),
        ("\r\n", "\n"),
    ],
)
async def test_a_sloppy_form_is_refused(sandbox: Sandbox, before: str, after: str) -> None:
    body = own(content=b"content")
    altered = body.replace(before.encode(), after.encode(), -1 if before == "\r\n" else 1)
    assert altered != body
    assert await refused(sandbox, altered) == (400, "MalformedPOSTRequest")


async def test_a_preamble_of_more_than_20_kb_is_refused(sandbox: Sandbox) -> None:
    fits = signed_fields(
        fields=[*FIELDS, ("x-ignore-pad", "x" * 17_000)], conditions=[{name: value} for name, value in FIELDS]
    )
    assert (await posted(sandbox, form(fits, CONTENT))).status == 204
    answer = await posted(sandbox, own(fields=[("key", "k"), ("x-ignore-pad", "x" * 21_000)]))
    assert (answer.status, answer.code) == (400, "MaxPostPreDataLengthExceededError")


async def test_a_form_without_a_key_is_refused(sandbox: Sandbox) -> None:
    assert await refused(sandbox, own(fields=FIELDS[1:])) == (400, "UserKeyMustBeSpecified")
    assert await refused(sandbox, own(fields=[("key", "")])) == (400, "UserKeyMustBeSpecified")
    assert await refused(sandbox, own(fields=[("key", "k" * 1025)])) == (400, "KeyTooLongError")


# --- the headers of the request


async def test_a_chunked_form_is_refused(sandbox: Sandbox) -> None:
    head = ["POST PATH HTTP/1.1", f"Content-Type: {multipart()}", "Transfer-Encoding: chunked"]
    url = f"{sandbox.url}/s3/{sandbox.settings.bucket}"
    answer = await peers.send(url, head, b"4\r\n--ab\r\n0\r\n\r\n")
    assert (answer.status, answer.code) == (411, "MissingContentLength")


async def test_curl_from_a_pipe_is_refused_for_want_of_a_length(sandbox: Sandbox) -> None:
    fields = ["-F", "key=k", "-F", "file=<-;filename=f.jpg"]
    url = f"{sandbox.url}/s3/{sandbox.settings.bucket}"
    code, output = await peers.curl("-H", "Transfer-Encoding: chunked", *fields, url)
    assert code == 0
    assert "MissingContentLength" in output


async def test_an_authorization_header_is_refused(sandbox: Sandbox) -> None:
    answer = await posted(sandbox, own(), "Authorization: Bearer token")
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert answer.message.startswith("Only one auth mechanism allowed")
    assert not sandbox.objects


async def test_another_enclosure_type_is_refused(sandbox: Sandbox) -> None:
    assert await refused(sandbox, own(), content_type="application/json") == (412, "PreconditionFailed")
    assert await refused(sandbox, own(), content_type="multipart/form-data") == (400, "MalformedPOSTRequest")


async def test_an_encoded_body_is_refused(sandbox: Sandbox) -> None:
    assert await refused(sandbox, own(), "Content-Encoding: gzip") == (400, "InvalidArgument")


async def test_another_bucket_and_another_method_are_refused(sandbox: Sandbox) -> None:
    answer = await post(f"{sandbox.url}/s3/other", own(), multipart())
    assert (answer.status, answer.code) == (404, "NoSuchBucket")
    answer = await peers.send(f"{sandbox.url}/s3/{sandbox.settings.bucket}", ["PUT PATH HTTP/1.1", "Content-Length: 0"])
    assert (answer.status, answer.code) == (405, "MethodNotAllowed")


async def test_a_refusal_saves_sending_the_body_when_the_client_asks_first(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "big.bin"
    file.write_bytes(bytes(3_000_000))
    given = await slot(sandbox.url)
    fields = ["-H", "Expect: 100-continue", *peers.curl_form(given, file)]
    assert (await peers.curl("-w", "%{http_code}", *fields))[1] == "204"
    given["signed_request"]["url"] += "x"
    assert "NoSuchBucket" in (await peers.curl(*["-H", "Expect: 100-continue", *peers.curl_form(given, file)]))[1]
    assert sandbox.log[-1].received_bytes == 0


# --- never partly


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(sandbox: Sandbox) -> None:
    body = own(content=bytes(500_000))
    url = f"{sandbox.url}/s3/{sandbox.settings.bucket}"
    head = ["POST PATH HTTP/1.1", f"Content-Type: {multipart()}", f"Content-Length: {len(body)}"]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await peers.send(url, head, body[:-10], is_half_closed=True)
    await sandbox.wait_for(lambda: sandbox.log[-1].outcome != "open")
    assert sandbox.log[-1].outcome == "client left"
    assert not sandbox.objects
    assert list((sandbox.folder / "incoming").iterdir()) == []


async def test_a_client_that_stops_sending_gets_request_timeout() -> None:
    async with Sandbox(idle_seconds=0.2, access_key=peers.ACCESS_KEY, secret_key=peers.SECRET_KEY) as sandbox:
        body = own()
        head = ["POST PATH HTTP/1.1", f"Content-Type: {multipart()}", f"Content-Length: {len(body)}"]
        answer = await peers.send(f"{sandbox.url}/s3/{sandbox.settings.bucket}", head, body[:-10])
        assert (answer.status, answer.code) == (400, "RequestTimeout")
        assert not sandbox.objects


async def test_what_was_stored_is_known_after_a_restart(tmp_path: Path) -> None:
    async with Sandbox(state=tmp_path) as sandbox:
        given = await slot(sandbox.url)
        await posted(sandbox, form_of(given, CONTENT))
        before = dict(sandbox.objects)
    (tmp_path / "incoming" / "stray").write_bytes(b"half")
    with (tmp_path / "index.jsonl").open("a") as index:
        index.write('{"a torn line')
    async with Sandbox(state=tmp_path) as sandbox:
        assert sandbox.objects == before
        assert not list((tmp_path / "incoming").iterdir())
        answer = await posted(sandbox, form_of(given, CONTENT))
        assert answer.status == 204
        assert [each.stored for each in read_objects(tmp_path).values()] == [2]
