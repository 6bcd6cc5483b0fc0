#!/usr/bin/env python3
"""tools/manual.py FOLDER: writes what people read of relayd beside the README, out of the program itself.

relayd.8 (from the commands), relayd.toml.5 (from the configuration's schema), shell completions, and the JSON Schemas.
Promises: nothing here is written twice, so nothing can drift; the same program gives the same bytes.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from relayd import __version__
from relayd.cli import main
from relayd.config.schema import config_schema

Schema = dict[str, Any]

COMPLETIONS: dict[str, type[ShellComplete]] = {
    "relayd.bash": BashComplete,
    "_relayd": ZshComplete,
    "relayd.fish": FishComplete,
}
FILES = (
    ("/etc/relayd/relayd.toml, /etc/relayd/conf.d/*.toml", "The configuration, see relayd.toml(5)."),
    ("/var/lib/relayd/", "The spool: what was taken and is still owed. Owned by relayd, readable by nobody else."),
    ("/run/relayd/relayd.sock", "Where the commands reach the running relay; for root and the group relayd."),
    ("/usr/share/doc/relayd/", "The README, example configurations, JSON Schemas, and what the package is made of."),
)
STATUSES = (
    ("0", "Done."),
    ("1", "It was tried and failed."),
    ("2", "Wrong usage or wrong configuration."),
    ("3", "No running relay answers."),
)
SIGNALS = (
    ("SIGTERM, SIGINT", "Stop cleanly; what was under way is due again at the next start."),
    ("SIGHUP", "Read the configuration again; one that cannot be used changes nothing and is said in the status."),
)
INTRODUCTION = """
relayd reads `/etc/relayd/relayd.toml`, then `/etc/relayd/conf.d/*.toml` in the order of their names: tables are merged,
rules are added, anything else is replaced. `relayd check` names every error with its line, `systemctl reload relayd`
puts a changed configuration in force.

Sizes are written `"500MB"` or `"2GiB"`, durations `"250ms"`, `"30s"`, `"10m"` or `"7d"`. Unknown keys are errors. A
secret is never written here: it is `{ credential = "name" }`, `{ file = "/path" }` or `{ env = "NAME" }`.
"""
NAMED = {"broker": "NAME", "link": "INTERFACE", "source": "NAME", "destination": "NAME"}


def write_all(folder: Path) -> None:
    """Every file, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"relayd.8": commands_page(), "relayd.toml.5": configuration_page()}
    texts |= {name: kind(main, {}, "relayd", "_RELAYD_COMPLETE").source() for name, kind in COMPLETIONS.items()}
    texts["config.schema.json"] = json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


# --- the page of the commands


def commands_page() -> str:
    """The command line, as man shows it."""
    top = click.Context(main, info_name="relayd")
    lines = [
        *_head("relayd", "8", "edge relay for camera files and sensor messages"),
        ".SH SYNOPSIS",
        r".B relayd",
        r"[\fB\-\-config\fR \fIFILE\fR] \fICOMMAND\fR [\fIARGUMENT\fR...]",
        ".SH DESCRIPTION",
        *_prose(_without_codes(main.help or "")),
        ".SH OPTIONS",
        *_parameters(main, top),
        ".SH COMMANDS",
    ]
    for path, command, context in each_command():
        lines += [f".SS {_plain(f'relayd {path}')}", f".B {_plain(_usage(command, context))}", ".PP"]
        lines += [*_prose(command.help or ""), *_parameters(command, context)]
    lines += [".SH EXIT STATUS", *_terms(STATUSES), ".SH SIGNALS", *_terms(SIGNALS), ".SH FILES", *_terms(FILES)]
    lines += [".SH SEE ALSO", r".BR relayd.toml (5),", r".BR systemctl (1),", r".BR journalctl (1)"]
    return "\n".join(lines) + "\n"


def each_command() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command that help shows, a group before what is in it: its words, itself, its context."""
    yield from _below(main, click.Context(main, info_name="relayd"), "")


def _below(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        own, words = click.Context(command, info_name=name, parent=context), f"{path} {name}".strip()
        yield words, command, own
        if isinstance(command, click.Group):
            yield from _below(command, own, words)


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join((context.command_path, *command.collect_usage_pieces(context)))


def _parameters(command: click.Command, context: click.Context) -> list[str]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    return _terms(record for record in records if record is not None)


def _without_codes(text: str) -> str:
    """The exit codes have a chapter of their own."""
    return re.sub(r"^Exit codes:.*?(?:\n\n|\Z)", "", inspect.cleandoc(text), flags=re.DOTALL | re.MULTILINE)


# --- the page of the configuration


def configuration_page() -> str:
    """Every section and key of the configuration, as man shows it."""
    schema = config_schema()
    lines = [
        *_head("relayd.toml", "5", "configuration of relayd"),
        ".SH DESCRIPTION",
        *_prose(INTRODUCTION),
    ]
    for header, section in each_section(schema):
        lines += [f".SH {_plain(header)}", *_prose(section.get("description", ""))]
        for key, field in section["properties"].items():
            required = key in section.get("required", ())
            lines += _term(f"{key} = {_shape(field, schema)}", [_described(field, schema, required=required)])
    lines += [".SH FILES", *_terms(FILES), ".SH SEE ALSO", r".BR relayd (8)"]
    return "\n".join(lines) + "\n"


def each_section(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every section as it is written, and its schema; one for each type of a source and a destination."""
    seen: set[str] = set()
    for key, listed in schema["properties"].items():
        each = listed.get("additionalProperties") or listed.get("items") or listed
        for reference in each.get("oneOf", [each]):
            section = _resolved(reference, schema)
            kind = section["properties"].get("type", {}).get("const")
            name = f"{key}.{NAMED[key]}" if key in NAMED else key
            header = f"[[{name}]]" if listed.get("type") == "array" else f"[{name}]"
            yield (f'{header} type = "{kind}"' if kind else header), section
            yield from _inner(name, section, schema, seen)


def _inner(name: str, section: Schema, schema: Schema, seen: set[str]) -> Iterator[tuple[str, Schema]]:
    """The tables inside a section, each once."""
    for key, field in section["properties"].items():
        is_list = field.get("type") == "array"
        for reference in _references(field.get("items", {}) if is_list else field):
            inner = _resolved({"$ref": reference}, schema)
            if reference in seen or reference.endswith("/Secret") or "properties" not in inner:
                continue
            seen.add(reference)
            yield f"{key} in [{name}]", inner
            yield from _inner(f"{name}.{key}", inner, schema, seen)


def _references(field: Schema) -> list[str]:
    return [one["$ref"] for one in (field, *field.get("anyOf", ())) if "$ref" in one]


def _resolved(field: Schema, schema: Schema) -> Schema:
    reference = field.get("$ref")
    found: Schema = schema["$defs"][reference.rpartition("/")[2]] if reference else {}
    return {**found, **{key: value for key, value in field.items() if key != "$ref"}}


def _shape(field: Schema, schema: Schema) -> str:
    """What may be written behind the equals sign, in a few words."""
    field = _resolved(field, schema)
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return "|".join(json.dumps(word) for word in field["enum"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_shape(one, schema) for one in field["anyOf"]))
    if field.get("type") == "array":
        return f"[ {_shape(field.get('items', {}), schema)}, ... ]"
    if field.get("type") == "object":
        return "{ ... }"
    words = {"string": "TEXT", "integer": "NUMBER", "number": "NUMBER", "boolean": "true|false"}
    return words.get(str(field.get("type")), "VALUE")


def _described(field: Schema, schema: Schema, *, required: bool) -> str:
    said = [_resolved(field, schema).get("description", "")]
    if required:
        said.append("Required.")
    elif "default" in field and "const" not in field:
        said.append(f"Default: `{_toml(field['default'])}`.")
    elif field.get("examples"):
        said.append(f"For example `{_toml(field['examples'][0])}`.")
    return " ".join(filter(None, said))


def _toml(value: Any) -> str:
    """As one would write it in the file."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


# --- roff


def _head(name: str, chapter: str, summary: str) -> list[str]:
    return [
        f'.TH {_plain(name)} {chapter} "" "relayd {__version__}" "relayd"',
        ".SH NAME",
        rf"{_plain(name)} \- {_plain(summary)}",
    ]


def _prose(text: str) -> list[str]:
    """Paragraphs; what stands in backticks is bold."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\b\n", "").strip()):
        lines += [".PP", *_wrapped(" ".join(paragraph.split()))]
    return lines


def _wrapped(text: str) -> list[str]:
    pieces = re.split(r"(`[^`]+`)", text)
    marked = "".join(rf"\fB{_plain(piece[1:-1])}\fR" if piece.startswith("`") else _plain(piece) for piece in pieces)
    lines = textwrap.wrap(marked, 110, break_long_words=False, break_on_hyphens=False)
    return [rf"\&{line}" if line.startswith((".", "'")) else line for line in lines]


def _terms(pairs: Any) -> list[str]:
    return [line for term, text in pairs for line in _term(term, [text])]


def _term(term: str, paragraphs: list[str]) -> list[str]:
    lines = [".TP", rf"\fB{_plain(term)}\fR"]
    for paragraph in paragraphs:
        lines += _wrapped(" ".join(paragraph.split())) or [r"\&"]
    return lines


def _plain(text: str) -> str:
    r"""Text in which nothing is read as roff: `-` that can be copied, quotes as they are typed."""
    escapes = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
    return "".join(escapes.get(letter, letter) for letter in text)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
