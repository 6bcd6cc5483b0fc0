"""The manual pages and completions that the Debian package carries say all that the program can."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from relayd import config, destinations, sources
from relayd.broker import BrokerConfig
from relayd.cli import COMMANDS, main
from relayd.config.reading import SINGLE
from relayd.links import LinkConfig
from relayd.rule_config import IncidentConfig, RuleConfig
from tools import manual

COMMANDS_PAGE = manual.commands_page()
CONFIGURATION_PAGE = manual.configuration_page()
SECTIONS = [
    *((f"[{name}]", model) for name, model in SINGLE.items()),
    ("[broker.NAME]", BrokerConfig),
    ("[link.INTERFACE]", LinkConfig),
    *((f'[source.NAME] type = "{kind}"', sources.config_model(kind)) for kind in sources.known_types()),
    *((f'[destination.NAME] type = "{kind}"', destinations.models(kind).config) for kind in destinations.known_types()),
    ("[[rule]]", RuleConfig),
    ("incident in [rule]", IncidentConfig),
]
ESCAPES = {
    r"\-": "-",
    r"\(dq": '"',
    r"\(aq": "'",
    r"\(ga": "`",
    r"\(ha": "^",
    r"\(ti": "~",
    r"\fB": "",
    r"\fR": "",
    r"\e": "\\",
}


def as_read(page: str) -> str:
    """The page as a reader sees it, as far as escapes go; a heading stays a line that begins with .SH or .SS."""
    for escape, letter in ESCAPES.items():
        page = page.replace(escape, letter)
    return page


def chapter(page: str, heading: str) -> str:
    """What stands below one heading."""
    found = re.search(rf"^\.S[HS] {re.escape(heading)}\n(.*?)(?=^\.S[HS] |\Z)", as_read(page), re.M | re.S)
    assert found, f"there is no {heading}"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_chapter_with_its_options(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None

    text = chapter(COMMANDS_PAGE, f"relayd {name}")

    assert " ".join((command.help or "").split(".")[0].split()) in " ".join(text.split())
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert max(parameter.opts, key=len) in text


def test_a_command_inside_a_group_has_a_chapter_too() -> None:
    assert "set aside" in chapter(COMMANDS_PAGE, "relayd spool repair")


@pytest.mark.parametrize(("heading", "model"), SECTIONS, ids=[heading for heading, _ in SECTIONS])
def test_each_section_of_the_configuration_has_a_chapter_with_every_key(heading: str, model: type) -> None:
    text = chapter(CONFIGURATION_PAGE, heading)

    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        assert re.search(rf"^\.TP\n{re.escape(field.alias or name)} = ", text, re.M), name


def test_the_arguments_of_every_action_are_in_the_chapter_of_a_delivery() -> None:
    text = chapter(CONFIGURATION_PAGE, "deliver in [rule]")

    for kind in destinations.known_types():
        for action, model in destinations.models(kind).actions.items():
            for name, field in model.model_fields.items():
                assert re.search(rf"^{re.escape(field.alias or name)} = ", text, re.M), (kind, action, name)


def test_defaults_are_said_as_one_writes_them() -> None:
    text = " ".join(chapter(CONFIGURATION_PAGE, "[spool]").split())

    assert config.Config().spool.give_up_after == 30 * 86_400
    assert 'a number of tries never ends it. Default: "30d".' in text


def test_no_line_of_text_is_read_as_a_request() -> None:
    known = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".BR"}

    lines = (COMMANDS_PAGE + CONFIGURATION_PAGE).splitlines()

    assert {line.split()[0] for line in lines if line.startswith((".", "'"))} == known


def test_the_bash_completion_knows_the_commands(tmp_path: Path) -> None:
    manual.write_all(tmp_path)
    relayd = tmp_path / "relayd"
    script = f"""
        PATH={Path(__file__).parents[2]}/.venv/bin:$PATH; source {tmp_path}/relayd.bash
        COMP_WORDS=(relayd st); COMP_CWORD=1; _relayd_completion relayd; echo "${{COMPREPLY[@]}}"
    """

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)

    assert not relayd.exists()
    assert done.stdout.split() == ["status"], done.stderr
