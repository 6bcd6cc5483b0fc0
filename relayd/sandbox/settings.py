"""The switches of the sandbox: which of the documented variants of the APIs it plays, and how strictly.

Promises: the defaults are the strictest documented behaviour; every switch can be set from the command line
(`--set NAME=VALUE`) and from tests by keyword.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """One set of switches, fixed for the life of a sandbox."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    client_id: str = "sandbox"
    client_secret: str = "sandbox-secret"  # noqa: S105 - a stand-in guards nothing
    token_body: Literal["any", "form", "json"] = "any"  # noqa: S105
    """Which encoding of the token request is understood."""
    token_refusal: Literal[400, 415] = 415
    """The status for the encoding that is not."""
    token_shape: Literal["strings", "numbers"] = "strings"  # noqa: S105
    """Whether `expires_in` and `issued_at` are strings (as documented) or numbers (as seen)."""
    token_seconds: float = Field(default=3599, gt=0)
    """How long a token is honoured."""
    token_claim: float | None = None
    """The `expires_in` that is said; absent: the truth."""

    slot_seconds: float = 3600
    """How long the policy of an upload slot is good; negative: issued already expired."""
    session_seconds: float | None = 7200
    """How long the session token behind a slot lives; absent: slots carry none."""
    signature: Literal["v4", "v2"] = "v4"
    """Shape of the form fields: `x-amz-*`, or `AWSAccessKeyId` and `signature`."""
    content_type_field: bool = True
    """Whether the slot has a `Content-Type` field."""
    success_action_status: str | None = None
    success_action_redirect: str | None = None
    min_bytes: int = Field(default=0, ge=0)
    max_bytes: int = Field(default=5_000_000_000, ge=0)
    """The `content-length-range` of the policy."""
    keep_order: bool = True
    """Refuse a form whose fields are not in the order of the slot; real storage does not mind, the contract does."""
    etag: Literal["md5", "kms", "opaque", "none"] = "md5"
    """What the answer to an upload says: the MD5, 32 hex digits that are none (KMS), something else, nothing."""

    resolve_form: Literal["bare", "reference"] = "bare"
    """Whether the path takes the id alone, or only the percent-encoded whole `ref://` reference."""
    resolve_refusal: Literal[400, 404] = 404
    """The status for the other form."""
    resolve_shape: Literal["uri", "url", "string", "text"] = "uri"
    """The answer: an object with `uri` or with `url`, a JSON string, or plain text."""

    webhook_token: str | None = None
    """The bearer token that the webhook asks for; absent: none."""
    webhook_secret: str | None = None
    """The key that must have signed what comes to the webhook; absent: none."""

    sayvu_key: str = "ak_sandbox"
    """The key of the control center."""
    sayvu_links: Literal["links", "link"] = "links"
    """How its answers spell what holds the public address."""
    sayvu_data: Literal["inner", "rooted"] = "inner"
    """Whether the part `data` of an image holds the inner object, or that below a root `data`."""
    sayvu_image_bytes: int = Field(default=10_000_000, ge=0)
    """The largest upload of an image."""
    sayvu_reporter: bool = True
    """Whether a reporter is linked to the key; if not, a report without one is refused."""

    watcher_login: str = "gateway"
    watcher_password: str = "sandbox-password"  # noqa: S105
    watcher_token_seconds: float = Field(default=900, gt=0)
    """How long an access token is honoured."""
    watcher_refresh: Literal["rotate", "same", "none"] = "rotate"
    """Whether a refresh token is good once, for ever, or there is none."""
    watcher_organizations: int = Field(default=2, ge=1, le=3)
    """How many organizations the user belongs to; with one, it need not be named."""
    watcher_page: int = Field(default=1, ge=1)
    """How many entries a page of a list has at most."""
    watcher_ids: Literal["numbers", "strings"] = "numbers"
    """How ids are written in lists and streams."""
    watcher_provisioned: Literal["stream_name", "camera_name"] = "stream_name"
    """What an activated token calls its stream."""
    watcher_rights: str = "can_edit_streams can_use_ptz can_use_actions can_send_messages"
    """What the user may do."""

    cachet_token: str = "1|sandbox"  # noqa: S105
    """The token of the status page."""
    cachet_abilities: str = "incidents.manage incident-updates.manage components.manage"
    """What that token may do."""
    cachet_rights: Literal["last", "first"] = "last"
    """Whether rights are looked at after the body, as the real one does, or before everything else."""
    cachet_enabled: bool = True
    """Whether the API is switched on; if not, every call is answered 404."""
    cachet_protected: bool = False
    """Whether reading needs the token too."""
    cachet_version: Literal["2025-12-02", "2026-06-25", "2026-08-22"] = "2026-08-22"
    """Of which day its Cachet is: what one can sort and filter by, and who sees what, differs."""
    cachet_bodies: Literal["strict", "lenient"] = "strict"
    """Whether a body that the contract does not know is refused, or read as the real one reads it."""
    cachet_mail: bool = True
    """Whether mail can be sent; if not, an incident with notifications is kept, and answered 500."""
    cachet_rate_limit: int = Field(default=300, ge=1)
    """Requests a minute: as many reads from one address, and as many writes by one user."""

    share_token_body: Literal["any", "form", "json"] = "any"  # noqa: S105
    """IncidentShare: which encoding of the token request is understood; the other one is refused with token_refusal."""
    share_basic: bool = False
    """Whether Basic with client_id and client_secret is taken too."""
    share_rights: bool = True
    """Whether client_id has the permission; without it every call is answered 401, however good the token."""
    share_prefix: str = ""
    """What stands before every path but those of media files."""
    share_files_prefix: str = ""
    """What stands before the paths of media files."""
    share_channels: str = "vehicle-12"
    """Streams that are always there, separated by commas."""
    share_refuses: str | None = None
    """Answer sms, email and media with 200, `success` false and this message; absent: do what is asked."""
    share_email_stream: bool = False
    """Whether the answer to email names the stream, which the contract does not promise."""
    share_lists_empty: bool = True
    """Whether a link without a file yet is listed."""
    share_lag_seconds: float = Field(default=0, ge=0)
    """How long what has come is not listed yet."""
    share_names: Literal["kept", "wordpress"] = "kept"
    """How files are called once they are there: as sent, or in lower case and numbered where a name is taken."""
    share_dates: Literal["seconds", "text", "off"] = "seconds"
    """What `saved_date_after` is read as: Unix seconds, `YYYY-MM-DD HH:MM:SS` in UTC, or nothing that is understood."""
    share_page: int | None = Field(default=None, ge=1)
    """How many groups one page of a list has; absent: all of them."""
    share_file_bytes: int = Field(default=200_000_000, ge=0)
    """The largest upload of a file."""

    bucket: str = "sandbox-media"
    region: str = "us-east-1"
    access_key: str = "SANDBOXKEYID00000000"
    secret_key: str = "sandbox/secret/key/that/signs/nothing/else"  # noqa: S105
    idle_seconds: float = Field(default=20, gt=0)
    """A client that sends nothing for so long gets RequestTimeout."""
