"""IncidentShare: media files of a stream, and links for live video by SMS or mail. So far its configuration only.

Arguments are named as in the API's own pages; texts are templates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.destinations import Models
from relayd.destinations.base import DestinationConfig
from relayd.fields import Secret, Section
from relayd.httpconfig import HttpConfig


class IncidentShareConfig(HttpConfig, DestinationConfig):
    """A site of IncidentShare, `https://YOUR-SITE.incidentshare.com`."""

    type: Literal["incidentshare"]
    """Always `incidentshare`."""
    client_id: Annotated[str, Field(min_length=1, examples=["relay-417"])]
    """Client id of the site's API access."""
    client_secret: Secret
    """Where its secret is."""
    path_prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)*$", examples=["/wp-json"])] = ""
    """Put before every path of the API, for sites that serve it below `/wp-json`."""


class MediaArguments(Section):
    """`media`: add the item to a stream."""

    stream_id: str | None = None
    """The stream; absent: that of the incident."""


class SmsArguments(Section):
    """`sms`: send a link for live video to a phone, and open its stream."""

    phone_number: Annotated[str, Field(min_length=1, examples=["+4512345678"])]
    """Who gets the link."""
    country_code: int | None = None
    """Dialling code; absent: the site's own."""
    incident_id: str | None = None
    """Becomes the stream's id; absent: chosen by relayd, the same for every try."""
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


class EmailArguments(Section):
    """`email`: send a link for live video by mail."""

    email: Annotated[str, Field(min_length=3, examples=["reporter@example.com"])]
    """Who gets the link."""
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


PLANNED = Models(
    config=IncidentShareConfig,
    actions={"media": MediaArguments, "sms": SmsArguments, "email": EmailArguments},
    receipt=frozenset({"stream_id", "id"}),
)
