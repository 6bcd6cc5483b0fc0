"""The JSON Schema of the configuration: what editors complete and check with."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from relayd import destinations, sources
from relayd.config.schema import config_schema
from tests.unit.test_relayd_toml import uncommented

SAMPLES = Path(__file__).parent / "config_samples"
GOOD = [SAMPLES / "contract.toml", *sorted((Path(__file__).parents[2] / "config" / "examples").glob("*.toml"))]
SCHEMA = config_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DESTINATION = "[destination.x]\ntype = 'cachet'\nurl = 'https://x.org'\ntoken = { env = 'X' }\n"


def errors(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def definition(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["$defs"][name]
    return found


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("place", GOOD, ids=lambda place: place.stem)
def test_what_loads_is_accepted(place: Path) -> None:
    assert errors(place.read_text(encoding="utf-8")) == []


def test_the_file_with_every_option_is_accepted() -> None:
    assert errors(uncommented()) == []


@pytest.mark.parametrize("place", sorted((SAMPLES / "broken").glob("*.toml")), ids=lambda place: place.stem)
def test_what_is_broken_is_rejected(place: Path) -> None:
    is_only_between_sections = place.stem == "folders"
    assert bool(errors(place.read_text(encoding="utf-8"))) is not is_only_between_sections


@pytest.mark.parametrize(
    "text",
    [
        "sorce = 1",
        "[device]\nnam = 'x'",
        "[spool]\nmax_size = 20",
        "[spool]\nmax_size = '20 potatoes'",
        "[spool]\nkeep_dead = '3 fortnights'",
        "[fleet]\ntopic = 'x'",
        "[source.x]\ntype = 'foldr'\npath = '/x'",
        "[source.x]\npath = '/x'",
        "[source.x]\ntype = 'folder'\npath = '/x'\nsettel = '2s'",
        DESTINATION.replace("{ env = 'X' }", "'hunter2'"),
        DESTINATION.replace("{ env = 'X' }", "{ env = 'X', file = '/x' }"),
        DESTINATION + "concurrency = 99",
        "[[rule]]\nname = 'x'\nfrom = ['y']\ndeliver = [{ to = 'x', descripton = 'y' }]",
        "[[rule]]\nname = 'x'\nfrom = ['y']\ndeliver = [{ action = 'upload' }]",
        "[[rule]]\nname = 'x'\nfrom = ['y']\npriority = 'urgent'",
        "[rule]\nname = 'x'",
    ],
)
def test_a_fault_that_a_section_has_by_itself_is_rejected(text: str) -> None:
    assert errors(text)


def test_every_key_has_a_description() -> None:
    for name, section in SCHEMA["$defs"].items():
        for key, field in section["properties"].items():
            assert field.get("description"), f"{name}.{key}"


def test_defaults_are_shown_as_one_writes_them() -> None:
    spool = definition("SpoolConfig")["properties"]
    assert spool["max_size"]["default"] == "20GB"
    assert spool["keep_dead"]["default"] == "30d"
    assert definition("FleetConfig")["properties"]["commands"]["default"] == ["status"]
    assert definition("BrokerConfig")["properties"]["protocol"]["enum"] == ["auto", "5", "3.1.1"]


def test_each_type_is_one_branch_that_its_type_key_tells() -> None:
    for kind, known in (("source", sources.known_types()), ("destination", destinations.known_types())):
        branches = SCHEMA["properties"][kind]["additionalProperties"]["oneOf"]
        shown = [definition(branch["$ref"].rpartition("/")[2]) for branch in branches]
        assert {section["properties"]["type"]["const"] for section in shown} == set(known)
        assert all("type" in section["required"] for section in shown)


def test_toml_has_no_null_and_neither_has_the_schema() -> None:
    assert "'null'" not in str(SCHEMA)


def test_an_argument_may_be_filled_in_later() -> None:
    rule = "[[rule]]\nname = 'x'\nfrom = ['y']\ndeliver = [{{ to = 'x', component_id = {} }}]"
    assert errors(rule.format("3")) == []
    assert errors(rule.format("'{{ payload.id }}'")) == []
    assert errors(rule.format("'three'"))
