"""IncidentShare: its section of the configuration and the arguments of its actions, named as in the API's own pages.

Promises: what those pages leave open (prefixes, the token's address, the form of dates) is a setting.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.destinations.at_most_once import BudgetConfig
from relayd.destinations.base import DestinationConfig
from relayd.fields import Duration, Secret, Section, written
from relayd.httpconfig import HttpConfig

Prefix = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)*(/(index\.php)?\?rest_route=)?$", examples=["/wp-json"])]
StreamId = Annotated[str | None, Field(examples=["{{ receipt.stream_id }}"])]


class IncidentShareConfig(HttpConfig, BudgetConfig, DestinationConfig):
    """A site of IncidentShare, `https://YOUR-SITE.incidentshare.com`."""

    type: Literal["incidentshare"]
    """Always `incidentshare`."""
    client_id: Annotated[str, Field(min_length=1, examples=["relay-417"])]
    """Client id of the site's API access; with `auth = "basic"` the name of a user."""
    client_secret: Secret
    """Where its secret is; with `auth = "basic"` the user's password."""
    auth: Literal["oauth", "basic"] = "oauth"
    """`basic` sends name and password with every call: deprecated, for sites that do not know OAuth yet."""
    token_path: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/?oauth=token"  # noqa: S105 - an address
    """Where tokens are given out; no prefix is put before it."""
    path_prefix: Prefix = ""
    """Put before the paths of sms, email, media, links and channels, for sites that serve them below `/wp-json`, or,
    with plain permalinks, `/?rest_route=`."""
    media_files_prefix: Prefix | None = None
    """Put before `/v1/media-files`, for sites where that is elsewhere; absent: the same as path_prefix."""
    stream_id: Annotated[str | None, Field(min_length=1, examples=["vehicle-12"])] = None
    """The stream of this device, for media of no incident, or of one that has no stream here; absent: none."""
    mark_notes: bool = True
    """Add `[relayd …]` to the notes of a link, so that it can be found again if the answer is lost, and so that the
    stream that an email opened can be known."""
    look_for: Duration = written("20s", ge=0)
    """After a lost answer: how long the site is asked whether it has the file or the link, before it is sent again."""
    on_unknown: Literal["retry", "ask"] = "retry"
    """If the site cannot tell either: "retry" sends again, and a person may get a second message, or a file may be
    there twice; "ask" parks it until a person has looked, and `relayd retry ID` sends it again."""
    saved_date_after: Literal["seconds", "text", "off"] = "seconds"
    """How lists are asked for what is new: Unix seconds, `YYYY-MM-DD HH:MM:SS` in UTC, or whole lists."""


class MediaArguments(Section):
    """`media`: add the item to a stream."""

    stream_id: StreamId = None
    """The stream; absent: that of the incident, else that of the device."""


class _LinkArguments(Section):
    sms_template: str | None = None
    """Text of the message; absent: the site's own."""
    user_email: str | None = None
    """Send in the name of this user of the site."""
    user_login_name: str | None = None
    """Send in the name of this user of the site."""
    reference_no: str | None = None
    """Reference shown with the stream."""
    notes: str | None = None
    """Notes shown with the stream."""


class SmsArguments(_LinkArguments):
    """`sms`: send a link for live video to a phone, and open its stream."""

    phone_number: Annotated[str, Field(min_length=1, examples=["+4512345678"])]
    """Who gets the link."""
    country_code: int | None = None
    """Dialling code; absent: the site's own."""
    incident_id: str | None = None
    """Becomes the stream's id; absent: made from the incident, else from the item, the same for every try."""


class EmailArguments(_LinkArguments):
    """`email`: send a link for live video by mail, and open its stream."""

    email: Annotated[str, Field(min_length=3, examples=["reporter@example.com"])]
    """Who gets the link."""
