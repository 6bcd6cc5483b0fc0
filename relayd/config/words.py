"""What pydantic found, in words a technician acts on: what is wrong, what to write instead.

Promises: every fault of a section is named, each at its own key; a value is only repeated where the choice is a closed
list of words, and never where a secret belongs.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel

from relayd.config.locate import Path
from relayd.fields import Duration, Secret, Size, parse_duration, parse_size
from relayd.templates import did_you_mean

Fault = tuple[Path, str]
M = TypeVar("M", bound=BaseModel)
LARGEST_NUMBER = 2**63 - 1

_SHAPES = {
    "string": 'must be text in quotes, write {key} = "…"',
    "int": "must be a whole number without quotes, write {key} = 2",
    "float": "must be a number without quotes, write {key} = 2.5",
    "bool": "must be true or false without quotes, write {key} = true",
    "list": "must be a list, write {key} = [ … ]",
    "tuple": "must be a list, write {key} = [ … ]",
    "set": "must be a list, write {key} = [ … ]",
    "frozen_set": "must be a list, write {key} = [ … ]",
    "dict": "must be a table, write {key} = {{ … }}",
    "model": "must be a table, write {key} = {{ … }}",
}
_LIMITS = {
    "greater_than": ("must be more than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}
_LENGTHS = {
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} elements",
}


def validate(model: type[M], raw: object, path: Path) -> tuple[M | None, list[Fault]]:
    """The section as `model`, or None and every fault of it. `path` is where the section stands."""
    written = plain(raw)
    try:
        # As strict JSON: "2" is no number and 1 is no true, yet lists and paths are written as JSON has them.
        return model.model_validate_json(json.dumps(_with_default_paths(model, written)), strict=True), []
    except pydantic.ValidationError as error:
        return None, _distinct(words_of(model, written, path, error))


def _with_default_paths(model: type[BaseModel], written: Any) -> Any:
    """Strict JSON takes a path only as text, a default too."""
    if not isinstance(written, dict):
        return written
    defaults = {name: str(one.default) for name, one in model.model_fields.items() if isinstance(one.default, PurePath)}
    return defaults | written


def plain(value: Any) -> Any:
    """The TOML value as JSON has it: times as text; numbers beyond 64 bit too, so that they are refused as numbers."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        return "a number too large"
    return value


def fields_of(model: type[BaseModel]) -> list[str]:
    """The keys of a section as one writes them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def words_of(model: type[BaseModel], raw: Any, base: Path, error: pydantic.ValidationError) -> Iterator[Fault]:
    """Every fault that pydantic found in `raw`, which stands at `base`."""
    for details in error.errors(include_url=False):
        inner = _written_path(raw, details)
        yield (*base, *inner), _words(model, inner, details)


def _written_path(raw: Any, details: Any) -> Path:
    """The error's location without what only the models know: tags of unions, names of validators."""
    location = tuple(details["loc"])
    path: list[str | int] = []
    for position, part in enumerate(location):
        is_element = isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        if is_element or (isinstance(raw, dict) and part in raw):
            raw = raw[part]
        elif not (position == len(location) - 1 and details["type"] == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _words(model: type[BaseModel], path: Path, details: Any) -> str:
    kind, context = details["type"], details.get("ctx", {})
    key = next((part for part in reversed(path) if isinstance(part, str)), "key")
    field = _field(model, path)
    if kind == "missing":
        return f"is missing, write {key} = {example(field)}"
    if kind == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        return f"unknown key{did_you_mean(str(path[-1]), fields_of(owner) if owner else [])}"
    if kind in ("literal_error", "enum"):
        return _choice(details, field, key)
    if kind in _LIMITS:
        phrase, name = _LIMITS[kind]
        return f"{phrase} {_limit(context[name], field)}"
    if kind in _LENGTHS:
        return _LENGTHS[kind].format(**context)
    if kind == "value_error":
        return str(context.get("error", details["msg"]))
    if kind == "string_pattern_mismatch":
        return f"does not have the right form, write for example {key} = {example(field)}"
    if kind == "json_invalid":
        return "is nested too deeply"
    shape = _SHAPES.get(kind.rsplit("_", 1)[0])
    if shape is None:
        return str(details["msg"])
    is_key = bool(path) and isinstance(path[-1], str)
    return (shape if is_key else shape.replace("{key} = ", "")).format(key=key)


def _choice(details: Any, field: Any, key: str) -> str:
    choices = json_choices(field) or re.findall(r"'([^']*)'", str(details["ctx"]["expected"]))
    listed = ", ".join(f'"{choice}"' for choice in choices)
    given = details.get("input")
    if not isinstance(given, str):
        return f"must be one of {listed}"
    near = did_you_mean(given, choices) if len(choices) > 1 else ""
    hint = near if near.startswith(", did") else ""
    return f'"{given[:40]}" is not known here{hint} ({key} is one of {listed})'


def json_choices(field: Any) -> list[str]:
    """The words that a field of a closed list takes; empty for any other field."""
    if field is None:
        return []
    schema = _schema(field)
    options = [schema, *schema.get("anyOf", ())]
    return [str(word) for option in options for word in option.get("enum", [option.get("const")]) if word is not None]


def _limit(value: Any, field: Any) -> str:
    """A limit in the unit in which it is written."""
    kind = None if field is None else unit_of(field)
    if kind == "duration":
        return f'"{duration_text(value)}"'
    return f'"{size_text(value)}"' if kind == "size" else str(value)


def unit_of(field: Any) -> str | None:
    """`duration` or `size` for a field of that type, else None."""
    functions = {getattr(one, "func", None) for one in field.metadata}
    text = str(field.annotation)
    for kind, parse, alias in (("duration", parse_duration, Duration), ("size", parse_size, Size)):
        if parse in functions or parse.__name__ in text or field.annotation == alias:
            return kind
    return None


def duration_text(seconds: float) -> str:
    """Seconds as one writes them: the largest unit that gives a whole number."""
    for unit, amount in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if seconds >= amount and seconds % amount == 0:
            return f"{int(seconds // amount)}{unit}"
    return "0s" if seconds == 0 else f"{seconds * 1000:g}ms"


def size_text(size_bytes: float) -> str:
    """Bytes as one writes them: the largest unit that gives a whole number."""
    units = (
        ("TB", 10**12),
        ("GiB", 2**30),
        ("GB", 10**9),
        ("MiB", 2**20),
        ("MB", 10**6),
        ("KiB", 2**10),
        ("kB", 10**3),
    )
    for unit, amount in units:
        if size_bytes >= amount and size_bytes % amount == 0:
            return f"{int(size_bytes // amount)}{unit}"
    return f"{int(size_bytes)}B"


def example(field: Any) -> str:
    """A value for the field as one would write it: an example of the model, else the shape of its type."""
    if field is None:
        return "…"
    schema = _schema(field)
    examples = field.examples or schema.get("examples")
    if examples:
        return toml_text(examples[0])
    choices = json_choices(field)
    if choices:
        return toml_text(choices[0])
    if field.annotation is Secret or "Secret" in str(field.annotation):
        return '{ credential = "name" }'
    shapes = {"integer": "1", "number": "1.0", "boolean": "true", "array": "[ … ]", "object": "{ … }"}
    return shapes.get(str(schema.get("type")), '"…"')


def toml_text(value: Any) -> str:
    """A value as TOML: on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_text(one)}" for key, one in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_text(one) for one in value) + "]"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool, int, float)) else f'"{value}"'
    return text.replace("\x7f", "\\u007F")  # the one letter that JSON takes as it is and TOML does not


def _schema(field: Any) -> dict[str, Any]:
    whole: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(whole)
    return adapter.json_schema()


def _field(model: type[BaseModel] | None, path: Path) -> Any:
    """The model's field at `path`, or None."""
    names = [position for position, part in enumerate(path) if isinstance(part, str)]
    if not names:
        return None
    owner = _model_at(model, path[: names[-1]])
    if owner is None:
        return None
    key = path[names[-1]]
    return next((field for name, field in owner.model_fields.items() if key in (name, field.alias)), None)


def _model_at(model: type[BaseModel] | None, path: Path) -> type[BaseModel] | None:
    """The section model that describes the table at `path`."""
    for part in path:
        if model is None or not isinstance(part, str):
            continue
        field = next((one for name, one in model.model_fields.items() if part in (name, one.alias)), None)
        model = None if field is None else _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section model inside `X | None`, `tuple[X, ...]`, `dict[str, X]`, `Annotated[X, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = getattr(annotation, "__args__", ())
    return next((found for one in arguments if (found := _model_in(one)) is not None), None)


def _distinct(faults: Iterator[Fault]) -> list[Fault]:
    """One fault a place: what the members of a union say about the same value is joined."""
    found: dict[Path, list[str]] = {}
    for path, text in faults:
        texts = found.setdefault(path, [])
        if text not in texts:
            texts.append(text)
    return [(path, ", or ".join(texts)) for path, texts in found.items()]
