"""The configuration as a JSON Schema (draft 2020-12), from which editors complete and check.

Promises: every key with its description, default as one would write it, and closed lists; one branch a type. What the
schema accepts, `load` may still refuse (names that must exist); what `load` accepts, the schema accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from relayd import destinations, sources
from relayd.config.reading import SINGLE
from relayd.rule_config import DeliverConfig, RuleConfig

Schema = dict[str, Any]

_VALIDATION: JsonSchemaMode = "validation"
_LATER = {"type": "string", "pattern": r"\{[{%]"}
_TITLES = {
    "broker": "MQTT brokers, each a [broker.NAME]",
    "link": "Network interfaces by name, each a [link.NAME]",
    "source": "Where items come from, each a [source.NAME]",
    "destination": "Where items go, each a [destination.NAME]",
    "rule": "Which items go where, each a [[rule]]",
}


def config_schema() -> Schema:
    """The schema of relayd.toml and of each drop-in."""
    kinds = _models()
    actions = list(_action_models())
    wanted: set[type[BaseModel]] = {*SINGLE.values(), RuleConfig, *(model for _, model in actions)}
    wanted |= {model for group in kinds.values() for model in group}
    listed = sorted(wanted, key=lambda model: (model.__module__, model.__name__))
    references, whole = models_json_schema([(model, _VALIDATION) for model in listed], ref_template="#/$defs/{model}")
    definitions: Schema = whole["$defs"]
    _open_arguments(definitions, actions, references)
    properties: Schema = {key: references[model, _VALIDATION] for key, model in SINGLE.items()}
    for kind, group in kinds.items():
        branches = [references[model, _VALIDATION] for model in group]
        each = branches[0] if len(branches) == 1 else {"oneOf": branches}
        properties[kind] = {"type": "object", "description": _TITLES[kind], "additionalProperties": each}
    rule = references[RuleConfig, _VALIDATION]
    properties["rule"] = {"type": "array", "description": _TITLES["rule"], "items": rule}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "relayd configuration",
        "description": "relayd.toml and the drop-ins beside it",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }
    simple: Schema = _without_null(document)
    _finish(simple, references, kinds)
    return simple


def _models() -> dict[str, list[type[BaseModel]]]:
    from relayd.broker import BrokerConfig
    from relayd.links import LinkConfig

    return {
        "broker": [BrokerConfig],
        "link": [LinkConfig],
        "source": [sources.config_model(name) for name in sources.known_types()],
        "destination": [destinations.models(name).config for name in destinations.known_types()],
    }


def _action_models() -> Iterator[tuple[str, type[BaseModel]]]:
    for kind in destinations.known_types():
        for action, model in destinations.models(kind).actions.items():
            yield f"{kind} {action}", model


def _open_arguments(
    definitions: Schema, actions: list[tuple[str, type[BaseModel]]], references: Mapping[Any, Any]
) -> None:
    """A delivery takes the arguments of every action: which of them, only the destination's name could say."""
    arguments: dict[str, list[Schema]] = {}
    for label, model in actions:
        fields = definitions[references[model, _VALIDATION]["$ref"].rpartition("/")[2]]["properties"]
        for key, field in fields.items():
            described = {name: value for name, value in field.items() if name not in ("default", "title")}
            described["description"] = f"{label}: {field.get('description', '')}".strip(": ")
            arguments.setdefault(key, []).append(described)
    delivery = definitions[DeliverConfig.__name__]
    words = sorted({action for kind in destinations.known_types() for action in destinations.models(kind).actions})
    delivery["properties"]["action"] = {"enum": words, "description": delivery["properties"]["action"]["description"]}
    for key, options in sorted(arguments.items()):
        delivery["properties"][key] = {
            "description": " · ".join(dict.fromkeys(option.pop("description") for option in options)),
            "anyOf": [*(option for position, option in enumerate(options) if option not in options[:position]), _LATER],
        }
    delivery["additionalProperties"] = False


def _without_null(value: Any) -> Any:
    """TOML has no null: an absent key is absent."""
    if isinstance(value, list):
        return [_without_null(one) for one in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _without_null(one) for key, one in value.items() if not (key == "default" and one is None)}
    if isinstance(schema.get("title"), str) and "$schema" not in schema:
        del schema["title"]  # pydantic's own: the key once more
    options = schema.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del schema["anyOf"]
        schema = {**rest[0], **schema} if len(rest) == 1 else {**schema, "anyOf": rest}
    return schema


def _finish(document: Schema, references: Mapping[Any, Any], kinds: Mapping[str, list[type[BaseModel]]]) -> None:
    """`type` first in its section, a secret in exactly one place, and no definition that nothing refers to."""
    definitions = document["$defs"]
    definitions["Secret"]["oneOf"] = [{"required": [place]} for place in definitions["Secret"]["properties"]]
    for model in (*kinds["source"], *kinds["destination"]):
        section = definitions[references[model, _VALIDATION]["$ref"].rpartition("/")[2]]
        kind = section["properties"].pop("type")
        section["properties"] = {"type": kind, **section["properties"]}
    needed = set(_referred(document["properties"], definitions, set()))
    document["$defs"] = {name: definition for name, definition in definitions.items() if name in needed}


def _referred(value: Any, definitions: Schema, seen: set[str]) -> set[str]:
    if isinstance(value, list):
        for one in value:
            _referred(one, definitions, seen)
    elif isinstance(value, dict):
        name = str(value.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            seen.add(name)
            _referred(definitions[name], definitions, seen)
        _referred(list(value.values()), definitions, seen)
    return seen
