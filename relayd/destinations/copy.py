"""A folder as a destination: a USB disk, a network drive. So far its configuration only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from relayd.destinations import Models
from relayd.destinations.base import DestinationConfig
from relayd.fields import Section, Size, written


class CopyConfig(DestinationConfig):
    """A folder that media is copied to."""

    type: Literal["folder"]
    """Always `folder`."""
    path: Annotated[Path, Field(examples=["/media/usb/relayd"])]
    """The folder; it must be there already, so that a missing disk is noticed."""
    min_free: Size = written("100MB", ge=0)
    """Nothing is copied while less than this is free on it."""

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError('must be an absolute path, write for example "/media/usb/relayd"')
        return value


class CopyArguments(Section):
    """`copy`: copy the item."""

    path: Annotated[str, Field(min_length=1)] = "{{ item.name }}"
    """Where below the folder; sub-folders are made."""


PLANNED = Models(config=CopyConfig, actions={"copy": CopyArguments}, receipt=frozenset({"path"}))
