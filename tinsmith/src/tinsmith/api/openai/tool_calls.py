"""Calls of tools in a model's answer, in the form that its own chat template writes them.

One form is known, that of Hermes and Qwen:

    <tool_call>{"name": "look", "arguments": {"at": "tin"}}</tool_call>
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

BEGIN, END = "<tool_call>", "</tool_call>"


def writes_calls(template_source: str) -> bool:
    """Whether calls stand in this template in the form that is read here: others put something
    else than JSON between the same marks."""
    marks = (BEGIN, END, "arguments")
    return all(mark in template_source for mark in marks) and "<function=" not in template_source


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str
    """JSON, as the model meant it; its client is to check it."""
    call_id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


class TextWithCalls:
    """One answer, taken in piece by piece: what is text is given out as such, and each call once
    it is whole. What stands between the marks and is no call is text."""

    def __init__(self) -> None:
        self._held = ""
        self.num_calls = 0

    def add(self, text: str) -> tuple[str, list[ToolCall]]:
        """The text and the calls that are certain now and were not before."""
        self._held += text
        sure: list[str] = []
        calls: list[ToolCall] = []
        while True:
            before, mark, inside = self._held.partition(BEGIN)
            if not mark:
                break
            block, end, after = inside.partition(END)
            if not end:
                break
            call = _read(block)
            if call is None:
                sure.append(before + BEGIN + block + END)
            else:
                sure.append(before.rstrip())
                calls.append(call)
            self._held = after
        self.num_calls += len(calls)
        num_sure = len(before.rstrip()) if mark else _num_sure(before)
        sure.append(self._held[:num_sure])
        self._held = self._held[num_sure:]
        return "".join(sure), calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """What was held back; to be called once, after the last piece. A call whose end mark the
        model has left out is one all the same."""
        before, mark, block = self._held.partition(BEGIN)
        call = _read(block) if mark else None
        if call is not None:
            self.num_calls += 1
            return before.rstrip(), [call]
        return ("" if self.num_calls and not self._held.strip() else self._held), []


def _num_sure(text: str) -> int:
    """How many characters cannot belong to a mark that is still to come, or to the space before
    it, which is the template's and not the model's."""
    for length in range(min(len(BEGIN) - 1, len(text)), 0, -1):
        if BEGIN.startswith(text[-length:]):
            return len(text[:-length].rstrip())
    return len(text.rstrip())


def _read(block: str) -> ToolCall | None:
    try:
        call = json.loads(block)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):  # JSON within JSON: some models write it so
        return ToolCall(call["name"], arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(call["name"], json.dumps(arguments, ensure_ascii=False))
