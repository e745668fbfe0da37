"""The unmodified openai client against a live server."""

from __future__ import annotations

import json
import sqlite3
import time

import httpx
import numpy as np
import openai
import pytest
import tinker
from sdk_steps import KEY, MODEL, LiveServer, train

PROMPT = "The cat"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, cät"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
FREE = {"temperature": 1.0, "max_tokens": 24}


@pytest.fixture(scope="module")
def client(live_server: LiveServer):
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ask_sdk(service, tokenizer):
    """What the SDK's sampler answers, as text without the end-of-text token."""

    def ask(tokens: list[int], *, n: int = 1, path: str | None = None, **params):
        sampler = service.create_sampling_client(
            base_model=None if path else MODEL, model_path=path
        ).result()
        prompt = tinker.ModelInput.from_ints(tokens)
        response = sampler.sample(prompt, n, tinker.SamplingParams(**params)).result()
        return [
            (tokenizer.decode(one.tokens, skip_special_tokens=True), one)
            for one in response.sequences
        ]

    return ask


def streamed(chunks) -> tuple[dict[int, str], dict[int, str], list]:
    """Text and finish reason by choice, and the chunks."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    seen = list(chunks)
    for chunk in seen:
        for choice in chunk.choices:
            part = choice.text if hasattr(choice, "text") else choice.delta.content
            texts[choice.index] = texts.get(choice.index, "") + (part or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, seen


def test_models_are_the_base_models_and_the_callers_saved_samplers(client, make_run):
    path = make_run().save_weights_for_sampler("listed").result().path
    names = [model.id for model in client.models.list()]
    assert names[0] == MODEL
    assert path in names
    assert client.models.retrieve(MODEL).id == MODEL
    assert client.models.retrieve(path).model_dump()["root"] == MODEL


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_completion_is_what_the_sdk_samples_with_the_same_seed(
    client, ask_sdk, tokenizer, is_streamed
):
    tokens = tokenizer.encode(PROMPT)
    wanted = ask_sdk(tokens, n=3, seed=11, **FREE)
    for prompt in (PROMPT, tokens):
        answer = client.completions.create(
            model=MODEL, prompt=prompt, n=3, seed=11, stream=is_streamed, **FREE
        )
        if is_streamed:
            texts, reasons, _ = streamed(answer)
            got = [(texts[i], reasons[i]) for i in range(3)]
        else:
            got = [(choice.text, choice.finish_reason) for choice in answer.choices]
            used = sum(len(sequence.tokens) for _, sequence in wanted)
            assert answer.usage.completion_tokens == used
            assert answer.usage.prompt_tokens == len(tokens)
        assert got == [(text, sequence.stop_reason) for text, sequence in wanted]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_chat_goes_through_the_models_own_template(client, ask_sdk, tokenizer, is_streamed):
    tokens = tokenizer.apply_chat_template(
        MESSAGES, tools=[TOOL], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    [(wanted, sequence)] = ask_sdk(tokens, seed=5, **FREE)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        tools=[TOOL],
        seed=5,
        temperature=1.0,
        max_completion_tokens=24,
        stream=is_streamed,
        **({"stream_options": {"include_usage": True}} if is_streamed else {}),
    )
    if is_streamed:
        texts, reasons, chunks = streamed(answer)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert (texts[0], reasons[0]) == (wanted, sequence.stop_reason)
        usage = chunks[-1].usage
        assert all(chunk.usage is None for chunk in chunks[:-1])
    else:
        choice = answer.choices[0]
        assert choice.message.content == wanted
        assert choice.finish_reason == sequence.stop_reason
        usage = answer.usage
    assert usage.prompt_tokens == len(tokens)
    assert usage.completion_tokens == len(sequence.tokens)


def test_tokens_arrive_while_later_ones_are_still_being_decoded(client, live_server):
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 400, "stream": True, "logprobs": 0}
    # Seeds differ in when they end; one of these runs long.
    longest = 0
    for seed in range(6):
        reads = 0
        with httpx.stream(
            "POST",
            f"{live_server.url}/v1/completions",
            json={**body, "seed": seed},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60.0,
        ) as response:
            for part in response.iter_raw():
                reads += b'"finish_reason": null' in part
        longest = max(longest, reads)
    assert longest > 5


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(client, ask_sdk, tokenizer):
    tokens = tokenizer.encode(PROMPT)
    seed, whole = next(
        (seed, text)
        for seed in range(100)
        if (text := ask_sdk(tokens, seed=seed, temperature=1.0, max_tokens=40)[0][0])
        and text[6:9].isascii()
        and len(text) > 20
    )
    stop = whole[6:9]
    params = {"model": MODEL, "prompt": PROMPT, "seed": seed, "max_tokens": 40}
    for given in (stop, ["never seen", stop]):
        choice = client.completions.create(stop=given, **params).choices[0]
        assert choice.text == whole[: whole.index(stop)]
        assert choice.finish_reason == "stop"
        texts, reasons, _ = streamed(client.completions.create(stop=given, stream=True, **params))
        assert (texts[0], reasons[0]) == (choice.text, "stop")


def test_logprobs_are_those_of_the_sdk_in_the_form_of_each_call(client, ask_sdk, tokenizer):
    [(_, sequence)] = ask_sdk(tokenizer.encode(PROMPT), seed=3, **FREE)
    eos = tokenizer.eos_token_id
    shown = [i for i, token in enumerate(sequence.tokens) if token != eos]
    wanted = [sequence.logprobs[i] for i in shown]

    params = {"model": MODEL, "prompt": PROMPT, "seed": 3, "logprobs": 2, **FREE}
    choice = client.completions.create(**params).choices[0]
    np.testing.assert_allclose(choice.logprobs.token_logprobs, wanted, atol=1e-5)
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    chunks = client.completions.create(stream=True, **params)
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [p for part in parts for p in part.token_logprobs] == choice.logprobs.token_logprobs
    assert [o for part in parts for o in part.text_offset] == choice.logprobs.text_offset

    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, logprobs=True, top_logprobs=3, temperature=0, max_tokens=8
    )
    content = answer.choices[0].logprobs.content
    assert content
    for one in content:
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].bytes == one.bytes  # greedy takes the likeliest
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob, abs=1e-5)
    text = bytes(byte for one in content for byte in one.bytes).decode(errors="replace")
    assert text == answer.choices[0].message.content


def test_an_echo_scores_the_prompt_as_the_sdk_does(client, service, tokenizer):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    tokens = tokenizer.encode(PROMPT)
    scored = sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens)).result()
    answer = client.completions.create(
        model=MODEL, prompt=[PROMPT, tokens], echo=True, logprobs=1, max_tokens=0
    )
    for choice in answer.choices:
        assert choice.text == PROMPT
        assert choice.logprobs.token_logprobs[0] is None
        np.testing.assert_allclose(choice.logprobs.token_logprobs[1:], scored[1:], atol=1e-5)
    more = client.completions.create(
        model=MODEL, prompt=PROMPT, echo=True, max_tokens=5, temperature=0
    )
    plain = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5, temperature=0)
    assert more.choices[0].text == PROMPT + plain.choices[0].text


def test_a_fine_tuned_sampler_answers_by_its_path(client, make_run, ask_sdk, tokenizer):
    run = make_run(seed=33)
    train(run, [0, 1, 2])
    path = run.save_weights_for_sampler("for-chat").result().path
    params = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    tuned = client.completions.create(model=path, **params).choices[0].text
    [(wanted, _)] = ask_sdk(tokenizer.encode(PROMPT), path=path, max_tokens=12, temperature=0.0)
    assert tuned == wanted
    assert tuned != client.completions.create(model=MODEL, **params).choices[0].text


def test_every_prompt_of_several_has_its_choices_in_order(client):
    prompts = ["One", "Two"]
    params = {"model": MODEL, "n": 2, "seed": 1, **FREE}
    together = client.completions.create(prompt=prompts, **params)
    alone = [client.completions.create(prompt=one, **params) for one in prompts]
    wanted = [choice.text for answer in alone for choice in answer.choices]
    assert [choice.text for choice in together.choices] == wanted
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    texts, _, _ = streamed(client.completions.create(prompt=prompts, stream=True, **params))
    assert [texts[i] for i in range(4)] == wanted


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"extra_body": {"beam_width": 4}}, "beam_width"),
        ({"best_of": 3}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"prompt": [1, 9999]}, "9999"),
        ({"prompt": ""}, "prompt is empty"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": 1000}, "logprobs"),
        ({"stream": True, "prompt": "x" * 600}, "512"),
    ],
)
def test_what_would_change_the_answer_and_is_not_served_is_refused(client, fields, named):
    with pytest.raises(openai.BadRequestError, match=named) as caught:
        client.completions.create(**{"model": MODEL, "prompt": PROMPT, **fields})
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "critic"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 2}, "logprobs"),
    ],
)
def test_a_bad_chat_is_refused(client, fields, named):
    with pytest.raises(openai.BadRequestError, match=named):
        client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **fields})


def test_fields_without_effect_are_taken(client):
    answer = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=2, user="me", presence_penalty=0, logit_bias={}
    )
    assert answer.choices[0].index == 0


@pytest.mark.parametrize(
    "name",
    ["gpt-4", "tinker://nobody:train:0/sampler_weights/x", "tinker://not an address", "tinker://"],
)
def test_a_model_that_is_not_there_is_404(client, name):
    with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
        client.completions.create(model=name, prompt=PROMPT)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve(name)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("completions", r'{"model": "MODEL", "prompt": "\ud800"}'),
        ("completions", '{"model": "MODEL", "prompt": {"text": "x"}}'),
        ("completions", '{"model": "MODEL"}'),
        ("completions", "[]"),
        ("completions", "{"),
        (
            "chat/completions",
            r'{"model": "MODEL", "messages": [{"role": "user", "content": "\ud800"}]}',
        ),
        ("chat/completions", '{"model": "MODEL", "messages": [{"role": "user", "content": 3}]}'),
        ("chat/completions", '{"model": "MODEL", "messages": [null]}'),
        ("chat/completions", '{"model": "MODEL", "messages": "hello"}'),
        ("chat/completions", '{"messages": [{"role": "user", "content": "x"}]}'),
    ],
)
def test_what_no_client_would_send_is_400_in_the_form_of_the_api(live_server, call, body):
    answer = httpx.post(
        f"{live_server.url}/v1/{call}",
        content=body.replace("MODEL", MODEL),
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_call_that_is_not_there_says_what_is(live_server):
    answer = httpx.post(f"{live_server.url}/v1/embeddings", json={})
    assert answer.status_code == 404
    assert "chat/completions" in answer.json()["error"]["message"]


def test_without_a_key_there_is_nothing(live_server):
    answer = httpx.get(f"{live_server.url}/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_the_sample_of_a_client_that_leaves_is_called_off(client, live_server, is_streamed):
    ledger = sqlite3.connect(f"file:{live_server.home}/ledger.db?mode=ro", uri=True)
    newest = "SELECT settled_at, is_failed FROM ops WHERE kind = 'sample' ORDER BY row DESC LIMIT 1"
    params = {"model": MODEL, "prompt": "x", "max_tokens": 500, "n": 256}
    if is_streamed:
        with client.completions.create(stream=True, **params) as stream:
            next(iter(stream))
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).completions.create(**params)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        settled_at, is_failed = ledger.execute(newest).fetchone()
        if settled_at is not None:
            break
        time.sleep(0.05)
    assert is_failed
    ledger.close()
    assert client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2).choices


def test_a_failure_in_the_middle_of_a_stream_reaches_the_client(client, live_server):
    ledger = sqlite3.connect(f"file:{live_server.home}/ledger.db?mode=ro", uri=True)
    newest = "SELECT scope || '#' || seq_id FROM ops WHERE kind = 'sample' ORDER BY row DESC"
    with client.completions.create(
        model=MODEL, prompt="y", max_tokens=500, n=256, stream=True
    ) as stream:
        next(iter(stream))
        (request_id,) = ledger.execute(newest).fetchone()
        with live_server.http() as http:
            http.post("/cancel_future", json={"request_id": request_id})
        with pytest.raises(openai.APIError, match="cancelled"):
            list(stream)
    ledger.close()


def test_the_body_is_sent_as_events_that_end_with_done(live_server):
    answer = httpx.post(
        f"{live_server.url}/v1/completions",
        json={"model": MODEL, "prompt": PROMPT, "max_tokens": 3, "stream": True},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = [line for line in answer.text.split("\n\n") if line]
    assert done == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["object"] for event in events)
