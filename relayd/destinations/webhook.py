"""Webhook: the item as JSON to an address of one's own. So far its configuration only."""

from __future__ import annotations

from typing import Literal

from relayd.destinations import Models
from relayd.destinations.base import DestinationConfig
from relayd.fields import Secret, Section
from relayd.httpconfig import HttpConfig


class WebhookConfig(HttpConfig, DestinationConfig):
    """An address that takes `{"item": {…}, "payload": …, "device": {…}, "incident": …}` by POST."""

    type: Literal["webhook"]
    """Always `webhook`."""
    secret: Secret | None = None
    """Where the key is that signs each body; absent: not signed."""
    token: Secret | None = None
    """Where the token is that is sent as `Authorization: Bearer`; absent: none."""


class PostArguments(Section):
    """`post`: there is nothing to say; the same message has the same Idempotency-Key at every try."""


PLANNED = Models(config=WebhookConfig, actions={"post": PostArguments}, receipt=None)
