"""JSON bodies, checked to the letter: nothing unknown in them, no text for a number, no number for a text.

Promises: what is wrong is said as `PLACE: WHY`, in the order of the model; each stand-in answers it in its own words.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


class WrongShape(Exception):
    """The body is not what the contract says; the text says where and why."""


class Strict(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(extra="forbid", strict=True)


def read(model: type[_Model], body: bytes) -> _Model:
    """The body as this model has it. Raises WrongShape for the first fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongShape(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
