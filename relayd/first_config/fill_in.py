"""A section filled in by questions that follow from its model: what is required, and a few more that people know.

Promises: each answer is checked by the model at once, and the section as a whole at the end; a type that another
package brings is asked for like our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relayd.config.words import example, json_choices, plain, validate
from relayd.fields import Secret
from relayd.first_config.console import Console, text
from relayd.first_config.draft import comment_of
from relayd.first_config.vault import Vault
from relayd.templates import is_template

DEFAULTS = {
    ("rapidsos", "url"): "https://api-sandbox.rapidsos.com",
    ("sayvu", "url"): "https://api.res-cue.com",
    ("sayvu", "mode"): "training",
    ("watcher", "login"): "gateway",
}
"""What is mostly right; (type, key)."""
EXAMPLES = {
    ("incidentshare", "url"): "https://YOUR-SITE.incidentshare.com",
    ("cachet", "url"): "https://status.example.org/api",
    ("watcher", "url"): "https://vms.example.org/watcher/client-api/v3",
    ("webhook", "url"): "https://hooks.example.org/relay",
}
MORE: Mapping[str, Sequence[str]] = {"webhook": ("token", "secret"), "folder": ("must_be_mounted",)}
"""Keys of a type that are asked for besides the required ones."""
_OPENS = re.compile(r"set (allow_[a-z_]+) = true")


def fill_in(
    console: Console,
    vault: Vault,
    model: type[BaseModel],
    given: Mapping[str, Any],
    *,
    name: str,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The section as TOML has it; what is `given` is not asked for, what was answered `before` is the default."""
    before = before or {}
    while True:
        form = _Form(console, vault, model, dict(given), before, name)
        form.ask_all()
        faults = validate(model, plain(form.section), ())[1]
        if faults and all(_may_open(console, form.section, said) for _, said in faults):
            faults = validate(model, plain(form.section), ())[1]
        if not faults:
            return form.section
        for path, said in faults:
            console.say(f"! {'.'.join(map(str, path)) or name}: {said}", indent=2)
        console.say("Once more, please.")
        before = form.section


def ask_arguments(
    console: Console,
    model: type[BaseModel],
    more: Sequence[str],
    defaults: Mapping[str, str],
    words: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What an action must be given; its texts may be templates. `words` is what the far side lets one choose from."""
    found: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        if not field.is_required() and key not in more:
            continue
        if words.get(key):
            found[key] = console.choose(key, [(word, "") for word in words[key]])
            continue

        def checked(answer: str, key: str = key, field: FieldInfo = field) -> Any:
            value = _typed(answer, field)
            if not answer:
                if field.is_required():
                    raise ValueError(f"this is needed: {comment_of(field.description)}")
                return None
            if not is_template(answer):
                _raise_first(validate(model, {**found, key: value}, ())[1], key)
            return value

        question = f"{key} (for example {example(field)})" if key not in defaults else key
        value = console.ask(question, checked, default=defaults.get(key, ""), help_text=field.description or "")
        if value is not None:
            found[key] = value
    return found


class _Form:
    """One section on its way; `section` has what was answered so far."""

    def __init__(
        self,
        console: Console,
        vault: Vault,
        model: type[BaseModel],
        section: dict[str, Any],
        before: Mapping[str, Any],
        name: str,
    ) -> None:
        self.section = section
        self._console = console
        self._vault = vault
        self._model = model
        self._before = before
        self._name = name
        self._kind = str(section.get("type", ""))

    def ask_all(self) -> None:
        """Address first, secrets last."""
        more = MORE.get(self._kind, ())
        fields = [
            (key, field)
            for key, field in self._model.model_fields.items()
            if key not in self.section and (field.is_required() or key in more)
        ]
        for key, field in sorted(fields, key=lambda one: (_is_secret(one[1]), one[0] != "url")):
            if _is_secret(field):
                self._secret(key, field)
            elif field.annotation is bool:
                self._switch(key, field)
            elif json_choices(field):
                self._choice(key, field)
            else:
                self._text(key, field)

    def _secret(self, key: str, field: FieldInfo) -> None:
        before = self._before.get(key)
        about = comment_of(field.description)
        if field.is_required() or self._console.confirm(f"{key}: is there one? ({about})", default=before is not None):
            name = f"{self._name}-{key}" if key in MORE.get(self._kind, ()) else self._name
            self.section[key] = self._vault.ask(self._console, key, name, before)

    def _switch(self, key: str, field: FieldInfo) -> None:
        usual = bool(self._before.get(key, field.default))
        answer = self._console.confirm(f"{key}: {comment_of(field.description)}", default=usual)
        if answer is not field.default:
            self.section[key] = answer

    def _choice(self, key: str, field: FieldInfo) -> None:
        self._console.say(comment_of(field.description))
        options = [(word, "") for word in json_choices(field)]
        usual = self._before.get(key) or DEFAULTS.get((self._kind, key), options[0][0])
        self.section[key] = self._console.choose(key, options, default=usual)

    def _text(self, key: str, field: FieldInfo) -> None:
        about = comment_of(field.description)

        def checked(answer: str) -> Any:
            if not answer:
                raise ValueError(f"this is needed: {about}")
            value = _typed(answer, field)
            _raise_first(validate(self._model, {**plain(self.section), key: value}, ())[1], key)
            return value

        usual = str(self._before.get(key) or DEFAULTS.get((self._kind, key), ""))
        hint = EXAMPLES.get((self._kind, key)) or ("" if usual else example(field).strip('"'))
        question = f"{key} (for example {hint})" if hint and hint != "…" else key
        self.section[key] = self._console.ask(question, checked, default=usual, help_text=field.description or "")


def _typed(answer: str, field: FieldInfo) -> Any:
    """As TOML has it: numbers are numbers."""
    if field.annotation in (int, float) or "int" in str(field.annotation):
        return int(answer) if re.fullmatch(r"-?[0-9]{1,15}", answer) else answer
    return text(answer)


def _raise_first(faults: Sequence[tuple[tuple[str | int, ...], str]], key: str) -> None:
    for path, said in faults:
        if path and path[0] == key:
            raise ValueError(said)


def _may_open(console: Console, section: dict[str, Any], said: str) -> bool:
    """What a model refuses for safety's sake, a person may allow."""
    found = _OPENS.search(said)
    if found is None:
        return False
    console.say(f"! {said}", indent=2)
    if not console.confirm(f"Set {found[1]} = true", default=False):
        return False
    section[found[1]] = True
    return True


def _is_secret(field: FieldInfo) -> bool:
    return field.annotation is Secret or field.annotation == (Secret | None)
