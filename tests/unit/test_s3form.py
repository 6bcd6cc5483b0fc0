"""The presigned form: what is sent, what is believed beforehand, and what an answer means."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from email.parser import BytesParser
from email.policy import HTTP

import pytest

from relayd import s3form
from relayd.errors import DeliveryError, Rejected, Rewind, TryAgain, Unavailable
from relayd.httpanswer import Answer
from relayd.s3form import FileBody, Form, SlotRefused

FIELDS = [("key", "uploads/a.jpg"), ("policy", "e30="), ("x-amz-signature", "00")]


def form(size: int = 5, fields: list[tuple[str, str]] = FIELDS, name: str = "a.jpg") -> Form:
    return Form(fields=fields, file_name=name, content_type="image/jpeg", size_bytes=size)


def whole(made: Form, content: bytes) -> bytes:
    body = made.body(io.BytesIO(content))
    return body if isinstance(body, bytes) else b"".join(body.chunks())


def answer(status: int, body: str = "", early: bool = False, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=named, body=body.encode(), where="storage.example/b", is_early=early)


def error(status: int, code: str, message: str = "") -> Answer:
    return answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>")


def policy(**document: object) -> list[tuple[str, str]]:
    return [("policy", base64.b64encode(json.dumps(document).encode()).decode())]


# --- the body


def test_fields_go_out_in_order_and_unchanged_and_the_file_comes_last() -> None:
    made = form(fields=[("b", "2"), ("a", "ü €"), ("Content-Type", "image/jpeg")])
    content = b"\x00\r\n--x\xff"
    made = Form(fields=made.fields, file_name="a.jpg", content_type="image/jpeg", size_bytes=len(content))
    raw = whole(made, content)
    parsed = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {made.header}\r\n\r\n".encode() + raw)
    parts = list(parsed.iter_parts())
    names = [part.get_param("name", header="content-disposition") for part in parts]
    assert names == ["b", "a", "Content-Type", "file"]
    assert [part.get_payload(decode=True) for part in parts] == [b"2", "ü €".encode(), b"image/jpeg", content]
    assert parts[-1].get_filename() == "a.jpg"
    assert parts[-1].get_content_type() == "image/jpeg"


@pytest.mark.parametrize("size", [1, 131_071, 131_072, 131_073, 1024 * 1024, 3 * 1024 * 1024 + 1])
def test_the_length_is_exact_and_only_a_big_body_is_streamed(size: int) -> None:
    made = form(size)
    body = made.body(io.BytesIO(b"x" * size))
    length = len(body) if isinstance(body, bytes) else body.length
    assert len(whole(made, b"x" * size)) == length
    assert isinstance(body, bytes) == (length <= 1024 * 1024)


def test_a_streamed_body_can_be_asked_for_again() -> None:
    body = FileBody(b"<", io.BytesIO(b"a" * 200_000), 200_000, b">")
    first = hashlib.md5(b"".join(body.chunks())).hexdigest()
    assert hashlib.md5(b"".join(body.chunks())).hexdigest() == first


def test_a_file_that_shrank_is_rejected_instead_of_sent_short() -> None:
    with pytest.raises(Rejected, match="shorter"):
        list(FileBody(b"<", io.BytesIO(b"abc"), 4, b">").chunks())


def test_a_file_that_grew_is_sent_as_it_was_accepted() -> None:
    assert b"".join(FileBody(b"<", io.BytesIO(b"abcd"), 3, b">").chunks()) == b"<abc>"


def test_a_quote_in_a_field_name_cannot_open_a_parameter() -> None:
    head = form(fields=[('a"; filename="x', "1")]).head()
    assert b'name="a%22; filename=%22x"' in head


# --- what a slot may say


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        "text",
        {"key": None},
        {"key": True},
        {"key": {"a": 1}},
        {"key": ["a"]},
        {"": "a"},
        {"a\r\nb": "1"},
        {"a": "1\r\nX: y"},
        {"a": "nul\x00"},
        {"a": "\ud800"},
        {"file": "x"},
        {"File": "x"},
    ],
)
def test_fields_that_no_form_can_carry_are_refused(fields: object) -> None:
    with pytest.raises(SlotRefused):
        s3form.read_fields(fields)


def test_numbers_among_the_fields_become_text_and_the_order_is_kept() -> None:
    assert s3form.read_fields({"z": "1", "a": 204}) == [("z", "1"), ("a", "204")]


@pytest.mark.parametrize("size", [9, 101])
def test_a_file_outside_the_length_range_is_rejected_before_sending(size: int) -> None:
    read = s3form.read_policy(policy(conditions=[["content-length-range", "10", 100], {"key": "x"}]))
    assert (read.smallest_bytes, read.largest_bytes) == (10, 100)
    s3form.check_size(form(10), read)
    with pytest.raises(Rejected, match="10 to 100 bytes"):
        s3form.check_size(form(size), read)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T00:00:00.500Z", 1767225600.5),
        ("2026-01-01T01:00:00+01:00", 1767225600.0),
        ("2026-01-01T00:00:00", 1767225600.0),
        ("tomorrow", None),
        (7, None),
        ("", None),
        (None, None),
    ],
)
def test_the_expiration_of_a_policy_is_read(text: object, seconds: float | None) -> None:
    assert s3form.read_policy(policy(expiration=text)).expires_at == seconds


@pytest.mark.parametrize("raw", ["", "%%%", "bm90IGpzb24=", "W10=", base64.b64encode(b"[" * 99999).decode(), "eyJ9"])
def test_a_policy_that_cannot_be_read_says_nothing(raw: str) -> None:
    assert s3form.read_policy([("policy", raw)]) == s3form.Policy()


@pytest.mark.parametrize("conditions", ["x", [1, None, ["content-length-range"], ["content-length-range", "a", "b"]]])
def test_conditions_of_another_shape_are_passed_over(conditions: object) -> None:
    assert s3form.read_policy(policy(conditions=conditions)) == s3form.Policy()


def test_a_file_beyond_five_gibibytes_is_rejected() -> None:
    with pytest.raises(Rejected):
        s3form.check_size(form(5 * 1024**3 + 1), s3form.Policy())


def test_a_form_beyond_twenty_kilobytes_is_rejected() -> None:
    with pytest.raises(Rejected, match="20480"):
        s3form.check_size(form(fields=[("key", "k" * 21_000)]), s3form.Policy())


# --- what an answer means

TABLE = [
    (403, "AccessDenied", "Invalid according to Policy: Policy expired.", Rewind),
    (403, "AccessDenied", 'Invalid according to Policy: Policy Condition failed: ["eq"]', Rejected),
    (403, "AccessDenied", "Invalid according to Policy: Extra input fields: x-extra", Rejected),
    (403, "AccessDenied", "Access Denied", SlotRefused),
    (400, "ExpiredToken", "", Rewind),
    (400, "InvalidToken", "", Rewind),
    (403, "SignatureDoesNotMatch", "", SlotRefused),
    (403, "InvalidAccessKeyId", "", SlotRefused),
    (400, "EntityTooLarge", "", Rejected),
    (400, "EntityTooSmall", "", Rejected),
    (400, "RequestTimeout", "", TryAgain),
    (400, "IncompleteBody", "", TryAgain),
    (400, "BadDigest", "", TryAgain),
    (411, "MissingContentLength", "", Rejected),
    (400, "MalformedPOSTRequest", "", Rejected),
    (400, "InvalidArgument", "", Rejected),
    (400, "IncorrectNumberOfFilesInPostRequest", "", Rejected),
    (400, "InvalidPolicyDocument", "", Rejected),
    (400, "MaxPostPreDataLengthExceededError", "", Rejected),
    (400, "UserKeyMustBeSpecified", "", Rejected),
    (404, "NoSuchBucket", "", SlotRefused),
    (405, "MethodNotAllowed", "", SlotRefused),
    (412, "PreconditionFailed", "", SlotRefused),
    (409, "OperationAborted", "", TryAgain),
    (500, "InternalError", "", TryAgain),
    (503, "SlowDown", "", Unavailable),
    (503, "ServiceUnavailable", "", Unavailable),
]


@pytest.mark.parametrize(("status", "code", "message", "kind"), TABLE)
def test_an_error_is_judged_by_its_code(status: int, code: str, message: str, kind: type[DeliveryError]) -> None:
    with pytest.raises(DeliveryError) as caught:
        s3form.judge(error(status, code, message), FIELDS, "slot-2")
    assert type(caught.value) is kind
    assert not isinstance(caught.value, Rewind) or caught.value.step == "slot-2"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 500])
def test_the_code_decides_and_not_the_status(status: int) -> None:
    kind = TryAgain if status == 200 else Rewind
    with pytest.raises(kind):
        s3form.judge(error(status, "ExpiredToken"), FIELDS, "slot")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, "", TryAgain),
        (400, "oops", TryAgain),
        (403, "", TryAgain),
        (403, "<html><body>Blocked by policy</body></html>", Unavailable),
        (404, "", SlotRefused),
        (412, "", SlotRefused),
        (411, "", Rejected),
        (413, "", Rejected),
        (501, "", Rejected),
        (500, "", TryAgain),
        (429, "", Unavailable),
        (502, "<html>Bad Gateway</html>", Unavailable),
        (503, "", Unavailable),
        (504, "", Unavailable),
        (511, "", Unavailable),
        (301, "", Unavailable),
        (302, "", Unavailable),
        (307, "", Unavailable),
        (303, "", Unavailable),
        (202, "", TryAgain),
        (206, "", TryAgain),
        (200, "<html>Welcome to our WiFi</html>", Unavailable),
        (200, '{"ok": true}', Unavailable),
        (200, "", Unavailable),
        (201, "", Unavailable),
        (200, "<Error><Code>InternalError</Code></Error>", TryAgain),
        (400, "<!DOCTYPE e [<!ENTITY a 'b'>]><Error><Code>EntityTooLarge</Code></Error>", TryAgain),
        (400, "<Error><Code>EntityTooLarge</Code>" + " " * 70_000 + "</Error>", TryAgain),
        (400, "<Error><Code>EntityTooLarge</Code>", TryAgain),
    ],
)
def test_an_answer_without_a_code_is_never_success(status: int, body: str, kind: type[DeliveryError]) -> None:
    with pytest.raises(DeliveryError) as caught:
        s3form.judge(answer(status, body), FIELDS, "slot")
    assert type(caught.value) is kind


def test_success_comes_in_four_forms() -> None:
    assert s3form.judge(answer(204, ETag='"abc"'), FIELDS, "slot") == '"abc"'
    assert s3form.judge(answer(200, ETag='"abc"'), FIELDS, "slot") == '"abc"'
    post = '<PostResponse xmlns="http://s3.amazonaws.com/doc"><Bucket>b</Bucket><ETag>"abc"</ETag></PostResponse>'
    assert s3form.judge(answer(201, post), FIELDS, "slot") == '"abc"'
    fields = [*FIELDS, ("success_action_redirect", "https://done.example/x")]
    done = answer(303, Location="https://done.example/x?bucket=b&key=k&etag=%22abc%22")
    assert s3form.judge(done, fields, "slot") == "abc"


def test_a_see_other_that_the_form_did_not_ask_for_is_a_captive_portal() -> None:
    with pytest.raises(Unavailable):
        s3form.judge(answer(303, Location="https://portal.example/login"), FIELDS, "slot")


def test_a_success_before_the_whole_file_was_sent_is_none() -> None:
    with pytest.raises(TryAgain, match="before it had"):
        s3form.judge(answer(204, early=True), FIELDS, "slot")


def test_an_etag_is_compared_only_when_it_is_an_md5() -> None:
    md5 = hashlib.md5(b"x").hexdigest()
    assert s3form.compared_md5(answer(204), f'"{md5.upper()}"', FIELDS) == md5
    assert s3form.compared_md5(answer(204), md5, FIELDS) == md5
    assert s3form.compared_md5(answer(204), f'"{md5}-2"', FIELDS) is None
    assert s3form.compared_md5(answer(204), "", FIELDS) is None
    kms = answer(204, x_amz_server_side_encryption="aws:kms")
    assert s3form.compared_md5(kms, md5, FIELDS) is None
    assert s3form.compared_md5(answer(204), md5, [*FIELDS, ("X-Amz-Server-Side-Encryption", "aws:kms:dsse")]) is None
    assert s3form.compared_md5(answer(204, x_amz_server_side_encryption="AES256"), md5, FIELDS) == md5


def test_what_storage_says_is_one_short_line_without_anything_long_enough_to_be_a_secret() -> None:
    signature = "0f" * 32
    with pytest.raises(Rejected) as caught:
        s3form.judge(error(400, "InvalidArgument", f"bad\n {signature} AAAA{signature}==" + "x " * 500), FIELDS, "s")
    assert signature not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
