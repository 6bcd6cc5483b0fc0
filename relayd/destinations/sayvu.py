"""SayVU: reports in an emergency control center, chat lines and images to them. So far its configuration only.

Arguments are named as in the API's own pages; texts are templates. The paths of the API are not published: settings.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.destinations import Models
from relayd.destinations.base import DestinationConfig
from relayd.fields import Secret, Section
from relayd.httpconfig import HttpConfig

ReportId = Annotated[int | str | None, Field(examples=["{{ receipt.report_id }}"])]


class SayVUConfig(HttpConfig, DestinationConfig):
    """A control center that takes SayVU reports."""

    type: Literal["sayvu"]
    """Always `sayvu`."""
    api_key: Secret
    """Where the key is; it begins with `ak_`."""
    mode: Literal["training", "live"]
    """`training` for drills and tests; `live` reaches the people on duty."""
    reports_path: Annotated[str, Field(pattern=r"^/\S+$")] = "/reports"
    """Path that opens a report."""
    messages_path: Annotated[str, Field(pattern=r"^/\S+$")] = "/reports/{report_id}/chat/messages"
    """Path that takes chat lines of a report."""
    images_path: Annotated[str, Field(pattern=r"^/\S+$")] = "/reports/{report_id}/images"
    """Path that takes images of a report."""
    categories_path: Annotated[str, Field(pattern=r"^/\S+$")] = "/categories"
    """Path that lists the categories."""


class Reporter(Section):
    """On whose behalf a report is made."""

    name: str | None = None
    """Name of the reporter."""
    phone: Annotated[str | None, Field(examples=["+4512345678"])] = None
    """Phone in international form."""


class Coordinates(Section):
    """A place as the API writes it."""

    x: Annotated[float, Field(ge=-180, le=180)]
    """Longitude."""
    y: Annotated[float, Field(ge=-90, le=90)]
    """Latitude."""


class ReportArguments(Section):
    """`report`: open a report at the item's location."""

    category: Annotated[int | str, Field(examples=["Violence"])]
    """Name or id of the category, as the control center lists it."""
    subcategory: int | str | None = None
    """Name or id of the category below it."""
    description: str = ""
    """What happened."""
    reporter: Reporter | None = None
    """On whose behalf; absent: the owner of the key."""
    location: Coordinates | None = None
    """Where; absent: where the item was captured."""


class MessageArguments(Section):
    """`message`: add a line to the chat of a report."""

    text: Annotated[str, Field(min_length=1, examples=["{{ item.name }}: {{ receipt.uri }}"])]
    """The line."""
    label: str | None = None
    """Shown before the text: label, colon, text."""
    report_id: ReportId = None
    """The report; absent: that of the incident."""


class ImageArguments(Section):
    """`image`: attach the item to a report."""

    report_id: ReportId = None
    """The report; absent: that of the incident."""


PLANNED = Models(
    config=SayVUConfig,
    actions={"report": ReportArguments, "message": MessageArguments, "image": ImageArguments},
    receipt=frozenset({"report_id", "public_url"}),
)
