"""config/relayd.toml has every option of every section, and says the defaults as they are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relayd import config, destinations, sources
from relayd.broker import BrokerConfig
from relayd.config.reading import SINGLE
from relayd.config.sections import DeviceConfig
from relayd.config.words import plain, validate
from relayd.destinations.watcher_models import CameraConfig, Coordinates
from relayd.links import LinkConfig
from relayd.rule_config import IncidentConfig, RuleConfig

PLACE = Path(__file__).parents[2] / "config" / "relayd.toml"
LINES = PLACE.read_text(encoding="utf-8").splitlines()
OPTION = re.compile(r"# (?:\[|[a-z_]+ = )")


def uncommented() -> str:
    """The file with every option written: prose (`##`) and the schema line left out."""
    return "\n".join(line.removeprefix("# ") if line.startswith("# ") else "" for line in LINES)


WHOLE = tomllib.loads(uncommented())


def sections() -> Iterator[tuple[str, dict[str, Any], type[BaseModel]]]:
    for name, model in SINGLE.items():
        yield name, WHOLE[name], model
    for kind, one in (("broker", BrokerConfig), ("link", LinkConfig)):
        for name, table in WHOLE[kind].items():
            yield f"{kind}.{name}", table, one
    for name, table in WHOLE["source"].items():
        yield f"source.{name}", table, sources.config_model(table["type"])
    for name, table in WHOLE["destination"].items():
        yield f"destination.{name}", table, destinations.models(table["type"]).config
    yield "destination.watcher.camera", WHOLE["destination"]["watcher"]["camera"][0], CameraConfig
    yield (
        "destination.watcher.camera.coordinates",
        WHOLE["destination"]["watcher"]["camera"][0]["coordinates"],
        Coordinates,
    )
    yield "rule", WHOLE["rule"][0], RuleConfig
    yield "rule.incident", WHOLE["rule"][0]["incident"], IncidentConfig
    for key in ("location", "location_topic"):
        annotation = DeviceConfig.model_fields[key].annotation
        yield f"device.{key}", WHOLE["device"][key], annotation.__args__[0]  # type: ignore[union-attr]


SECTIONS = list(sections())
TOP = [
    (name, table, model) for name, table, model in SECTIONS if not re.search(r"incident$|coordinates$|location", name)
]


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def mark_of(section: str, key: str) -> str:
    """What stands behind an option: `required`, `optional` or nothing."""
    header = rf"# \[+{re.escape(section)}\]+"
    start = next(number for number, line in enumerate(LINES) if re.fullmatch(header, line) or line == f"# [{section}]")
    for line in LINES[start + 1 :]:
        if line.startswith("# ["):
            break
        match = re.fullmatch(rf"# {key} = .*?(?:   # (required|optional))?", line)
        if match:
            return match[1] or ""
    raise AssertionError(f"{section}.{key} is not in its section")


def test_every_line_is_prose_an_option_or_empty() -> None:
    assert [
        line for line in LINES if line and not line.startswith(("##", "#:schema ")) and not OPTION.match(line)
    ] == []


def test_every_kind_of_section_is_there() -> None:
    assert {table["type"] for table in WHOLE["source"].values()} == set(sources.known_types())
    assert {table["type"] for table in WHOLE["destination"].values()} == set(destinations.known_types())
    assert set(WHOLE) == {*SINGLE, "broker", "link", "source", "destination", "rule"}


@pytest.mark.parametrize(("name", "table", "model"), SECTIONS, ids=[name for name, _, _ in SECTIONS])
def test_each_option_of_the_model_is_there_and_no_other(
    name: str, table: dict[str, Any], model: type[BaseModel]
) -> None:
    assert set(table) == set(fields_of(model))


@pytest.mark.parametrize(("name", "table", "model"), TOP, ids=[name for name, _, _ in TOP])
def test_each_option_is_there_once_with_its_default_or_marked_as_an_example(
    name: str, table: dict[str, Any], model: type[BaseModel]
) -> None:
    for key, field in fields_of(model).items():
        if key == "camera":
            continue
        mark = mark_of(name, key)
        if field.is_required():
            assert mark == "required", key
        elif field.default in (None, ()):
            assert mark == "optional", key
        else:
            assert mark == "", key
            without = {other: value for other, value in table.items() if other != key}
            attribute = next(own for own, one in model.model_fields.items() if (one.alias or own) == key)
            as_written, by_default = (validate(model, plain(one), ())[0] for one in (table, without))
            assert as_written is not None
            assert getattr(as_written, attribute) == getattr(by_default, attribute), key


def test_the_file_as_shipped_loads_and_is_all_defaults() -> None:
    assert config.load([PLACE]).config == config.Config()


def test_the_file_with_every_option_written_loads_and_yields_the_defaults(tmp_path: Path) -> None:
    place = tmp_path / "relayd.toml"
    place.write_text(uncommented(), encoding="utf-8")
    whole = config.load([place]).config
    assert whole.spool == config.Config().spool
    assert set(whole.source) == set(WHOLE["source"])
    assert set(whole.destination) == set(WHOLE["destination"])


def test_the_arguments_of_every_action_are_listed() -> None:
    prose = " ".join(" ".join(line.lstrip("# ") for line in LINES if line.startswith("##")).split())
    for kind in destinations.known_types():
        for action, model in destinations.models(kind).actions.items():
            names = [key + ("*" if field.is_required() else "") for key, field in fields_of(model).items()]
            assert f"{kind} {action}: {', '.join(names) or 'none'}" in prose
