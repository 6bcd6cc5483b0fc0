"""What an action is given: the arguments of a delivery, templates filled in and checked against the action's model.

Promises: pure; whatever is wrong with them is a Rejected in words, so that it shows on the item and stops nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from relayd import rendering
from relayd.errors import Rejected, WrongRequest
from relayd.files import printable
from relayd.model import Delivery, Device, Fields, Incident, Item
from relayd.template_budget import TemplateError
from relayd.templates import is_template


def arguments_of(
    delivery: Delivery,
    item: Item,
    device: Device,
    actions: Mapping[str, type[BaseModel]],
    incident: Incident | None = None,
) -> Fields:
    """The arguments as the action's model has them, under the names of the configuration. Raises Rejected."""
    model = actions.get(delivery.action)
    if model is None:
        raise Rejected(f"{delivery.destination} has no action {delivery.action!r}")
    context = rendering.context(item, device, incident=incident, receipt=delivery.parent_receipt)
    try:
        filled = rendering.render(with_defaults(model, delivery.arguments), context)
        return model.model_validate(dict(filled)).model_dump(mode="json", by_alias=True)
    except TemplateError as error:
        raise Rejected(f"rule {delivery.rule!r}: {error}") from error
    except ValidationError as error:
        raise Rejected(f"rule {delivery.rule!r}: argument {_first_fault(error)}") from error


def check_arguments(model: type[BaseModel], arguments: Fields) -> None:
    """Of somebody who is there to be told. Raises WrongRequest."""
    try:
        model.model_validate(dict(arguments))
    except ValidationError as error:
        raise WrongRequest(printable(_first_fault(error))[:200]) from None


def with_defaults(model: type[BaseModel], written: Fields) -> Fields:
    """The arguments as written, and the defaults that are templates themselves, which are filled in like them."""
    named = {field.alias or name: field.default for name, field in model.model_fields.items()}
    return {key: text for key, text in named.items() if isinstance(text, str) and is_template(text)} | dict(written)


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
