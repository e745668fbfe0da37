from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinsmith.api.openai.tool_calls import TextWithCalls, writes_calls

LOOK = '<tool_call>\n{"name": "look", "arguments": {"at": "cät"}}\n</tool_call>'
WAIT = '<tool_call>{"name": "wait"}</tool_call>'


def read(*pieces: str) -> tuple[str, list[tuple[str, object]]]:
    answer, text, calls = TextWithCalls(), "", []
    for fresh, found in [*map(answer.add, pieces), answer.finish()]:
        text, calls = text + fresh, calls + found
    assert answer.num_calls == len(calls)
    assert len({call.call_id for call in calls}) == len(calls)
    return text, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        (LOOK, "", [("look", {"at": "cät"})]),
        (f"Let me see.\n{LOOK}\n{WAIT}\n", "Let me see.", [("look", {"at": "cät"}), ("wait", {})]),
        (f"{WAIT}\nDone.", "\nDone.", [("wait", {})]),
        (LOOK.removesuffix("</tool_call>"), "", [("look", {"at": "cät"})]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", {})]),
        ("No call, 1 < 2. ", "No call, 1 < 2. ", []),
        ("<tool_call>{broken}</tool_call> x", "<tool_call>{broken}</tool_call> x", []),
        (f"<tool_call>[]</tool_call>{WAIT}", "<tool_call>[]</tool_call>", [("wait", {})]),
        ('<tool_call>{"name": "f", "argum', '<tool_call>{"name": "f", "argum', []),
        ("ends in <tool_", "ends in <tool_", []),
    ],
)
def test_calls_are_told_from_text_however_the_answer_comes_in_pieces(
    answer: str, text: str, calls: list[tuple[str, object]]
):
    assert read(answer) == (text, calls)
    assert read(*answer) == (text, calls)
    for cut in range(len(answer)):
        assert read(answer[:cut], answer[cut:]) == (text, calls)


@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "{}", " ", "<", "x", WAIT])))
def test_what_is_no_call_stays_text_in_any_order(parts: list[str]):
    whole, calls = read("".join(parts))
    assert read(*parts) == (whole, calls)
    if WAIT not in "".join(parts):
        assert (whole, calls) == ("".join(parts), [])


def test_text_is_given_out_before_the_answer_ends():
    answer = TextWithCalls()
    assert answer.add("Let me ")[0] == "Let me"
    assert answer.add("see <to")[0] == " see"
    assert answer.add("day")[0] == " <today"


@pytest.mark.parametrize(
    ("template", "is_known"),
    [
        ('<tool_call>\\n{"name": "x", "arguments": {{ a }}}\\n</tool_call>', True),
        ("<tool_call><function=x><parameter=y>arguments</parameter></tool_call>", False),
        ("[TOOL_CALLS] arguments", False),
    ],
)
def test_only_a_template_of_the_known_form_is_read(template: str, is_known: bool):
    assert writes_calls(template) is is_known
