"""Uploads to a storage server that really checks POST policies: right forms are stored, wrong ones refused by name."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from relayd.addressguard import AddressGuard
from relayd.errors import Rejected, Rewind
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.s3form import ONE_BODY_LIMIT_BYTES, Form, SlotRefused, compared_md5, judge
from relayd.s3storage import Storage as Poster
from tests.system.conftest import BUCKET
from tests.system.post_policy import signed_v2, signed_v4
from tests.system.radosgw import ACCESS_KEY, SECRET_KEY, Storage

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

CONTENT = b"\xff\xd8" + bytes(range(256)) * 40 + b"\xff\xd9"
Sign = Callable[..., dict[str, str]]

both_signatures = pytest.mark.parametrize("sign", [signed_v4, signed_v2])


def slot(
    sign: Sign, key: str = "uploads/a.jpg", *, more: Mapping[str, str] | None = None, **changes: object
) -> dict[str, str]:
    """The form fields of a slot, signed as the owner of the bucket would."""
    fields = {"key": key, "Content-Type": "image/jpeg", **(more or {})}
    signing = {"conditions": [["content-length-range", 1, 100_000_000]], **changes}
    return sign(ACCESS_KEY, SECRET_KEY, BUCKET, fields, **signing)


async def post(storage: Storage, fields: Mapping[str, str], content: bytes = CONTENT) -> tuple[Answer, Form]:
    """Post the form the way the adapter does."""
    api = HttpClient(HttpConfig(url=storage.url))
    poster = Poster(api, AddressGuard())
    form = Form(fields=list(fields.items()), file_name="a.jpg", content_type="image/jpeg", size_bytes=len(content))
    try:
        return await poster.post(f"{storage.url}/{BUCKET}", form, lambda: io.BytesIO(content)), form
    finally:
        await poster.close()
        await api.close()


@both_signatures
@pytest.mark.parametrize("size", [1, 5_000, ONE_BODY_LIMIT_BYTES, 3 * ONE_BODY_LIMIT_BYTES + 17])
async def test_a_right_form_is_stored_byte_for_byte(storage: Storage, sign: Sign, size: int) -> None:
    content = hashlib.shake_256(str(size).encode()).digest(size)
    key = f"uploads/{sign.__name__}/{size}.jpg"

    answer, form = await post(storage, slot(sign, key), content)
    judge(answer, form.fields, "slot")

    assert answer.status == 204
    assert storage.read(BUCKET, key) == content


@both_signatures
@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"success_action_status": "200"}, 200),
        ({"success_action_status": "201"}, 201),
        ({"success_action_redirect": "https://api.example.org/stored"}, 303),
    ],
)
async def test_every_way_of_saying_stored_is_understood(
    storage: Storage, sign: Sign, wish: dict[str, str], status: int
) -> None:
    key = f"uploads/{sign.__name__}/{status}.jpg"

    answer, form = await post(storage, slot(sign, key, more=wish))
    etag = judge(answer, form.fields, "slot")

    assert answer.status == status
    assert storage.read(BUCKET, key) == CONTENT
    if status != 200:
        assert compared_md5(answer, etag, form.fields) == hashlib.md5(CONTENT).hexdigest()


async def test_the_same_form_posted_twice_is_one_object(storage: Storage) -> None:
    fields = slot(signed_v4, "uploads/twice.jpg")

    for _ in range(2):
        answer, form = await post(storage, fields)
        judge(answer, form.fields, "slot")

    assert storage.read(BUCKET, "uploads/twice.jpg") == CONTENT
    _, listing = storage.request("GET", f"/{BUCKET}", "?prefix=uploads/twice")
    assert listing.count(b"<Key>") == 1


@dataclass(frozen=True)
class Refusal:
    """A form that storage must refuse: what is wrong with it, the code it answers, and what relayd makes of that."""

    fields: Callable[[Sign], dict[str, str]]
    code: str
    becomes: type[Exception]


def changed(name: str, change: Callable[[str], str]) -> Callable[[Sign], dict[str, str]]:
    def fields(sign: Sign) -> dict[str, str]:
        right = slot(sign, "uploads/refused.jpg")
        found = name if name in right else "signature"
        return {**right, found: change(right[found])}

    return fields


REFUSALS = {
    "an expired policy": Refusal(
        lambda sign: slot(sign, "uploads/refused.jpg", lives_seconds=-60), "AccessDenied: Policy expired", Rewind
    ),
    "a file above the range": Refusal(
        lambda sign: slot(sign, "uploads/refused.jpg", conditions=[["content-length-range", 1, len(CONTENT) - 1]]),
        "EntityTooLarge",
        Rejected,
    ),
    "a file below the range": Refusal(
        lambda sign: slot(sign, "uploads/refused.jpg", conditions=[["content-length-range", len(CONTENT) + 1, 10**9]]),
        "EntityTooSmall",
        Rejected,
    ),
    "another key": Refusal(changed("key", lambda _: "uploads/refused-other.jpg"), "AccessDenied", SlotRefused),
    "another content type": Refusal(changed("Content-Type", lambda _: "image/png"), "AccessDenied", SlotRefused),
    "a field that no condition covers": Refusal(
        lambda sign: {"x-extra": "1", **slot(sign, "uploads/refused.jpg")}, "AccessDenied", SlotRefused
    ),
    "another signature": Refusal(changed("x-amz-signature", lambda old: old[::-1]), "AccessDenied", SlotRefused),
    "another policy than was signed": Refusal(
        changed("policy", lambda _: slot(signed_v4, "uploads/refused.jpg", lives_seconds=9999)["policy"]),
        "AccessDenied",
        SlotRefused,
    ),
    "no key": Refusal(
        lambda sign: sign(ACCESS_KEY, SECRET_KEY, BUCKET, {"Content-Type": "image/jpeg"}), "InvalidArgument", Rejected
    ),
}


@both_signatures
@pytest.mark.parametrize("wrong", REFUSALS)
async def test_a_wrong_form_is_refused_and_the_refusal_understood(storage: Storage, sign: Sign, wrong: str) -> None:
    refusal = REFUSALS[wrong]

    answer, form = await post(storage, refusal.fields(sign))
    with pytest.raises(refusal.becomes, match=refusal.code):
        judge(answer, form.fields, "slot")

    assert storage.read(BUCKET, "uploads/refused.jpg") is None
    assert storage.read(BUCKET, "uploads/refused-other.jpg") is None


def test_what_was_refused_is_right_but_for_one_thing(storage: Storage, tmp_path: Path) -> None:
    """The control: curl, which knows nothing of relayd, has the unchanged form accepted and the expired one refused."""

    media = tmp_path / "a.jpg"
    media.write_bytes(CONTENT)
    statuses = []
    for lives_seconds in (600, -60):
        fields = slot(signed_v4, "uploads/curl.jpg", lives_seconds=lives_seconds)
        form = [word for name, value in fields.items() for word in ("--form-string", f"{name}={value}")]
        command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *form]
        done = subprocess.run(
            [*command, "--form", f"file=@{media};type=image/jpeg", f"{storage.url}/{BUCKET}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        statuses.append(done.stdout)

    assert statuses == ["204", "403"]
