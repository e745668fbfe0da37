"""Taxonomy files: TOML text to categories and back, with errors a person can act on."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mailroom.mail.plain import LINE_BREAK
from mailroom.taxonomy.category import (
    NO_RESPONSE,
    PRIORITIES,
    Category,
    ContentRule,
    Priority,
    TaxonomyError,
)

FILE_KEYS = ("name", "name_in_prompt", "categories")
CATEGORY_KEYS = (
    "name",
    "description",
    "priority",
    "actions",
    "draft",
    "no_response",
    "rules",
)
RULE_KEYS = ("when", "actions", "draft")


@dataclass(frozen=True, slots=True)
class TaxonomyFile:
    """What stands in a taxonomy file."""

    name: str
    categories: tuple[Category, ...]
    name_in_prompt: bool = False


def read_taxonomy(text: str, source: str, default_name: str) -> TaxonomyFile:
    """The name and the categories in a taxonomy file's text.

    Raises:
        TaxonomyError: not TOML, or a value that cannot be; names the place and what is allowed.
    """
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TaxonomyError(f"{source} is not valid TOML: {error}.") from error
    _refuse_unknown(file, FILE_KEYS, source)
    tables = file.get("categories")
    if not isinstance(tables, dict) or not tables:
        raise TaxonomyError(f"{source} has no categories; each is a table [categories.KEY].")
    name = _line(file.get("name", default_name), f"{source}: name")
    categories = tuple(_category(key, table, source) for key, table in tables.items())
    taken: dict[str, str] = {}
    for category in categories:
        for spelling in {category.key, category.name.casefold()}:
            if (other := taken.setdefault(spelling, category.key)) != category.key:
                raise TaxonomyError(
                    f"{source}: the categories {other} and {category.key} share the name "
                    f"{category.name!r}; each needs its own."
                )
    if len(categories) < 2:
        raise TaxonomyError(f"{source} has one category; sorting needs at least two.")
    name_in_prompt = file.get("name_in_prompt", False)
    if not isinstance(name_in_prompt, bool):
        raise TaxonomyError(f"{source}: name_in_prompt is true or false, not {name_in_prompt!r}.")
    return TaxonomyFile(name, categories, name_in_prompt)


def _category(key: str, table: Any, source: str) -> Category:
    place = f"{source}: category {key}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", key):
        raise TaxonomyError(f"{place}: a key is lower-case letters, digits and _, a letter first.")
    if not isinstance(table, dict):
        raise TaxonomyError(f"{place} must be a table [categories.{key}], not {table!r}.")
    _refuse_unknown(table, CATEGORY_KEYS, place)
    name = _line(table.get("name", key[0].upper() + key[1:]), f"{place}: name")
    if not name[0].isupper():
        raise TaxonomyError(f"{place}: the name {name!r} must begin with an upper-case letter.")
    if table.get("priority") not in PRIORITIES:
        raise TaxonomyError(
            f"{place}: priority is {table.get('priority')!r}; allowed are {', '.join(PRIORITIES)}."
        )
    priority: Priority = table["priority"]
    rules = table.get("rules", [])
    if not isinstance(rules, list):
        raise TaxonomyError(f"{place}: rules are tables [[categories.{key}.rules]].")
    no_response = _line(table.get("no_response", f"{NO_RESPONSE}."), f"{place}: no_response")
    if not no_response.startswith(NO_RESPONSE):
        raise TaxonomyError(f"{place}: no_response must begin with {NO_RESPONSE!r}.")
    return Category(
        key=key,
        name=name,
        description=_line(table.get("description", name), f"{place}: description"),
        priority=priority,
        actions=_actions(table.get("actions"), place),
        no_response=no_response,
        draft=_draft(table, place),
        rules=tuple(_rule(rule, f"{place}, rule {n}") for n, rule in enumerate(rules, start=1)),
    )


def _rule(table: Any, place: str) -> ContentRule:
    if not isinstance(table, dict):
        raise TaxonomyError(f"{place} must be a table, not {table!r}.")
    _refuse_unknown(table, RULE_KEYS, place)
    when = tuple(_line(phrase, f"{place}: when") for phrase in _strings(table, "when", place))
    for phrase in when:
        if not all(re.fullmatch(r"[^*]+\*?", word) for word in phrase.split()):
            raise TaxonomyError(f"{place}: {phrase!r} has a * elsewhere than at a word's end.")
    draft = _draft(table, place)
    if "actions" not in table and draft is None:
        raise TaxonomyError(f"{place} changes nothing; give it actions or a draft.")
    actions = _actions(table["actions"], place) if "actions" in table else ()
    return ContentRule(when=when, actions=actions, draft=draft)


def _actions(value: Any, place: str) -> tuple[str, ...]:
    actions = tuple(
        _line(action, f"{place}: actions")
        for action in _strings({"actions": value}, "actions", place)
    )
    for action in actions:
        if ";" in action:
            raise TaxonomyError(
                f"{place}: the action {action!r} holds a ';', which separates actions; "
                "write two actions."
            )
    return actions


def _draft(table: Mapping[str, Any], place: str) -> str | None:
    if "draft" not in table:
        return None
    draft = _line(table["draft"], f"{place}: draft")
    if draft.startswith(NO_RESPONSE):
        raise TaxonomyError(
            f"{place}: a draft cannot begin with {NO_RESPONSE!r}; leave draft out and set "
            "no_response instead."
        )
    return draft


def _strings(table: Mapping[str, Any], key: str, place: str) -> list[Any]:
    value = table.get(key)
    if not isinstance(value, list) or not value:
        raise TaxonomyError(f"{place}: {key} must be a list of at least one text, not {value!r}.")
    return value


def _line(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaxonomyError(f"{place} must be a text that is not empty, not {value!r}.")
    if LINE_BREAK.search(value):
        raise TaxonomyError(f"{place} must stand on one line; {value!r} has a line break.")
    if value != value.strip():
        raise TaxonomyError(f"{place}: {value!r} begins or ends with a space.")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise TaxonomyError(
                f"{place}: unknown key {key!r}; did you mean {near[0]!r}? "
                f"Known are {', '.join(known)}."
            )


def write_taxonomy(file: TaxonomyFile) -> str:
    """Compact TOML that `read_taxonomy` reads back to the same."""
    lines = [f"name = {_quoted(file.name)}"]
    if file.name_in_prompt:
        lines.append("name_in_prompt = true")
    for category in file.categories:
        lines.append(f"[categories.{category.key}]")
        for key in ("name", "description", "priority", "actions", "draft", "no_response"):
            if (value := getattr(category, key)) is not None:
                lines.append(f"{key} = {_quoted(value)}")
        for rule in category.rules:
            lines.append(f"[[categories.{category.key}.rules]]")
            lines.append(f"when = {_quoted(rule.when)}")
            if rule.actions:
                lines.append(f"actions = {_quoted(rule.actions)}")
            if rule.draft is not None:
                lines.append(f"draft = {_quoted(rule.draft)}")
    return "\n".join(lines) + "\n"


def _quoted(value: str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_quoted(item) for item in value)}]"
    escaped = "".join(
        f"\\{char}" if char in '"\\' else char if char.isprintable() else f"\\U{ord(char):08x}"
        for char in value
    )
    return f'"{escaped}"'
