"""SayVU: its section of the configuration and the arguments of its actions, named as in the API's own pages.

Promises: the paths of the API are not published, so all of them are settings.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.destinations.at_most_once import BudgetConfig
from relayd.destinations.base import DestinationConfig
from relayd.fields import Secret, Section
from relayd.httpconfig import HttpConfig

ReportId = Annotated[int | str | None, Field(examples=["{{ receipt.report_id }}"])]
ReportPath = Annotated[str, Field(pattern=r"^/\S*\{report_id\}\S*$")]


class SayVUConfig(HttpConfig, BudgetConfig, DestinationConfig):
    """A control center that takes SayVU reports."""

    type: Literal["sayvu"]
    """Always `sayvu`."""
    api_key: Secret
    """Where the key is; it begins with `ak_`."""
    mode: Literal["training", "live"]
    """`training` for drills and tests; `live` reaches the people on duty."""
    on_unknown: Literal["retry", "ask"] = "retry"
    """After a lost answer nobody can tell whether the report was made: "retry" sends it again, and the control center
    may see it twice; "ask" parks it until a person has looked, and `relayd retry ID` sends it again. Chat lines and
    images are always sent again, as often as reports."""
    fallback_category: Annotated[int | str | None, Field(examples=["Security"])] = None
    """Category, by name or id, of a report whose own the control center does not list; absent: such a report is dead,
    with the list in its reason."""
    reports_path: Annotated[str, Field(pattern=r"^/\S+$")] = "/reports"
    """Path that opens a report."""
    messages_path: ReportPath = "/reports/{report_id}/chat/messages"
    """Path that takes chat lines of a report."""
    images_path: ReportPath = "/reports/{report_id}/images"
    """Path that takes images of a report."""
    categories_path: Annotated[str, Field(pattern=r"^/\S+$")] = "/categories"
    """Path that lists the categories."""


class Reporter(Section):
    """On whose behalf a report is made."""

    name: str | None = None
    """Name of the reporter."""
    phone: Annotated[str | None, Field(examples=["+4512345678"])] = None
    """Phone in international form; any other is left out, and the receipt says so."""


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
    data: Annotated[str | None, Field(examples=['{"chat": {"messages": [{"text": "front camera"}]}}'])] = None
    """A JSON object sent along, chat lines for example; absent: none."""
