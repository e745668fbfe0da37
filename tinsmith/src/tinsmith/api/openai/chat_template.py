"""From messages to the text that a model was trained to answer, by the template that it came with.

The templates are Jinja in the dialect of transformers: what they may use is documented there
("chat templates"), and this renders them without it, as the front holds no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinsmith.api.openai.tool_calls import writes_calls
from tinsmith.domain.errors import InvalidInputError

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
FOR_TOOLS, ELSE = "tool_use", "default"
"""The names of templates, where a model has several."""


class _Generation(Extension):
    """{% generation %} marks, for training, what the assistant wrote: here it is just its body."""

    tags = {"generation"}  # noqa: RUF012 -- jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML and sorts keys, which models have not seen.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class ChatTemplate:
    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """
        Args:
            sources: template text by name; at least one.
            special_tokens: texts such as that of `bos_token`, which templates may name.

        Raises:
            InvalidInputError: a template that is not Jinja.
        """
        environment = _environment()
        try:
            self._templates = {
                name: environment.from_string(source) for name, source in sources.items()
            }
        except jinja2.TemplateError as error:
            raise InvalidInputError(f"the model's chat template cannot be read: {error}") from error
        self._special_tokens = dict(special_tokens)
        self._sources = dict(sources)

    @property
    def writes_calls(self) -> bool:
        """Whether calls of tools in an answer have a form that is known here."""
        return any(writes_calls(source) for source in self._sources.values())

    @classmethod
    def load(cls, directory: Path) -> ChatTemplate | None:
        """The template in a model's folder, or None if it has none."""
        config = read_json(directory / "tokenizer_config.json")
        sources = _sources(directory, config)
        if not sources:
            return None
        named = {**read_json(directory / "special_tokens_map.json"), **config}
        special_tokens: dict[str, str] = {}
        for name in SPECIAL_TOKENS:
            value = named.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                special_tokens[name] = text
        return cls(sources, special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text, up to where the assistant's next words begin.

        Args:
            settings: further variables that the model's template knows.

        Raises:
            InvalidInputError: the template refuses these messages.
        """
        names = [FOR_TOOLS, ELSE] if tools else [ELSE, FOR_TOOLS]
        name = next((name for name in names if name in self._templates), None)
        template = self._templates[name or next(iter(self._templates))]
        variables = {"add_generation_prompt": True, "documents": None, **(settings or {})}
        variables |= {"messages": list(messages), "tools": list(tools) if tools else None}
        try:
            return template.render(**(self._special_tokens | variables))
        except Exception as error:  # a stranger's program, which may trip over any message
            raise InvalidInputError(
                f"the model's chat template does not take these messages: {error}"
            ) from error


def _sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return {ELSE: file.read_text("utf-8")}
    value = read_json(directory / "chat_template.json").get("chat_template")
    value = value or config.get("chat_template")
    if isinstance(value, str):
        return {ELSE: value}
    if isinstance(value, list):
        return {entry["name"]: entry["template"] for entry in value}
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty if there is no such file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
