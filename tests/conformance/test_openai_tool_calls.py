"""A model fine-tuned to call a tool, asked through the unmodified openai client."""

from __future__ import annotations

import json

import openai
import pytest
import tinker
from sdk_steps import KEY, LiveServer, datum_of

MESSAGES = [{"role": "user", "content": "Where is it?"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
ARGUMENTS = {"at": "cät", "deep": [1, True]}
CALL = f"<tool_call>\n{json.dumps({'name': 'look', 'arguments': ARGUMENTS})}\n</tool_call>"
SAID = "Let me look."
MOST_STEPS = 300


@pytest.fixture(scope="module")
def client(live_server: LiveServer):
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def caller_path(make_run, tokenizer) -> str:
    """Weights that answer MESSAGES, offered TOOL, by calling it; and without it, too."""
    end = [tokenizer.eos_token_id]
    answer = [*tokenizer.encode(f"{SAID}\n{CALL}"), *end]
    data = []
    for tools in ([TOOL], None):
        prompt = tokenizer.apply_chat_template(
            MESSAGES, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        weights = [0.0] * (len(prompt) - 1) + [1.0] * len(answer)
        data.append(datum_of([*prompt, *answer], weights))
    run = make_run(rank=16)
    step = tinker.AdamParams(learning_rate=1e-2, eps=1e-8)
    for _ in range(MOST_STEPS):
        batch = run.forward_backward(data, "cross_entropy")
        run.optim_step(step).result()
        if batch.result().metrics["loss:sum"] < 0.05:
            return run.save_weights_for_sampler("caller").result().path
    raise AssertionError("the tiny model did not learn to call a tool")


def ask(client, path: str, **changes):
    return client.chat.completions.create(
        model=path,
        **{"messages": MESSAGES, "tools": [TOOL], "temperature": 0, "max_tokens": 200, **changes},
    )


def test_a_call_comes_as_a_call(client, caller_path):
    (choice,) = ask(client, caller_path).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == SAID
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "look")
    assert json.loads(call.function.arguments) == ARGUMENTS


def test_a_stream_tells_the_text_as_it_comes_and_the_call_when_it_is_whole(client, caller_path):
    chunks = list(ask(client, caller_path, stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == SAID
    assert sum(bool(delta.content) for delta in deltas) > 1
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert (call.index, call.function.name) == (0, "look")
    assert call.id
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_call_and_its_result_go_back_through_the_template(client, caller_path, tokenizer):
    message = ask(client, caller_path).choices[0].message
    call = message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "under the table"}
    talk = [*MESSAGES, message.model_dump(exclude_none=True), result]
    answer = ask(client, caller_path, messages=talk, max_tokens=1)
    as_template_has_it = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": SAID,
            "tool_calls": [{"function": {"name": "look", "arguments": ARGUMENTS}}],
        },
        result,
    ]
    wanted = tokenizer.apply_chat_template(
        as_template_has_it, tools=[TOOL], add_generation_prompt=True, return_dict=False
    )
    assert answer.usage.prompt_tokens == len(wanted)
    assert json.dumps(ARGUMENTS, ensure_ascii=False) in tokenizer.decode(wanted)


@pytest.mark.parametrize("changes", [{"tools": openai.NOT_GIVEN}, {"tool_choice": "none"}])
def test_without_tools_on_offer_an_answer_is_text(client, caller_path, changes):
    (choice,) = ask(client, caller_path, **changes).choices
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert choice.message.content == f"{SAID}\n{CALL}"


def test_an_answer_that_was_cut_off_says_so(client, caller_path):
    (choice,) = ask(client, caller_path, max_tokens=40).choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls is None
    assert choice.message.content == f"{SAID}\n{CALL}".encode()[:40].decode()
