"""Sampling through the unmodified SDK."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import tinker
from sdk_steps import MODEL, datum_of, train

PROMPT = tinker.ModelInput.from_ints([84, 104, 101, 32, 99])
EOS = 0


@pytest.fixture(scope="module")
def sampler(service):
    return service.create_sampling_client(base_model=MODEL).result()


def sample(sampler, num_samples: int = 1, **params) -> tinker.SampleResponse:
    settings = {"max_tokens": 12, "temperature": 0.0, **params}
    return sampler.sample(PROMPT, num_samples, tinker.SamplingParams(**settings)).result()


def tokens_of(response: tinker.SampleResponse) -> list[list[int]]:
    return [list(sequence.tokens) for sequence in response.sequences]


def test_greedy_sampling_is_the_same_twice_and_scored(sampler):
    first = sample(sampler, stop=[]).sequences[0]
    assert list(first.tokens) == tokens_of(sample(sampler, stop=[]))[0]
    assert first.stop_reason == "length"
    assert len(first.tokens) == len(first.logprobs) == 12
    assert all(logprob <= 0 for logprob in first.logprobs)


def test_prompt_logprobs_equal_the_forward_pass_of_training(sampler, run):
    tokens = [84, 104, 101, 32, 99, 97, 116]
    scored = sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens)).result()
    output = run.forward([datum_of(tokens)], "cross_entropy").result()
    assert scored[0] is None
    np.testing.assert_allclose(
        scored[1:], output.loss_fn_outputs[0]["logprobs"].to_numpy(), atol=1e-4
    )


def test_sampled_logprobs_equal_those_of_the_same_tokens_as_a_prompt(sampler):
    sequence = sample(sampler, temperature=1.0, seed=3, stop=[]).sequences[0]
    whole = tinker.ModelInput.from_ints([*PROMPT.to_ints(), *sequence.tokens])
    scored = sampler.compute_logprobs(whole).result()
    np.testing.assert_allclose(scored[PROMPT.length :], sequence.logprobs, atol=1e-4)


def test_only_the_last_prompt_tokens_are_scored_when_asked(sampler):
    scored = sampler.compute_logprobs(PROMPT, prompt_logprobs_last_n=2).result()
    whole = sampler.compute_logprobs(PROMPT).result()
    assert scored[:-2] == [None] * 3
    np.testing.assert_allclose(scored[-2:], whole[-2:], atol=1e-4)


def test_the_likeliest_tokens_come_with_prompt_and_answer(sampler):
    response = sampler.sample(
        PROMPT,
        1,
        tinker.SamplingParams(max_tokens=3, temperature=0.0, stop=[]),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=4,
        topk_sample_logprobs=2,
    ).result()
    rows = response.topk_prompt_logprobs
    assert rows is not None
    assert rows[0] is None
    assert [len(row) for row in rows[1:]] == [4] * 4
    sequence = response.sequences[0]
    for token, logprob, row in zip(
        sequence.tokens, sequence.logprobs, sequence.topk_logprobs, strict=True
    ):
        assert len(row) == 2
        assert row[0][0] == token  # greedy takes the likeliest
        assert row[0][1] == pytest.approx(logprob, abs=1e-4)


def test_a_stop_token_ends_the_answer_and_is_part_of_it(sampler):
    free = tokens_of(sample(sampler, stop=[]))[0]
    stop = free[5]
    end = free.index(stop)
    stopped = sample(sampler, stop=[stop]).sequences[0]
    assert list(stopped.tokens) == free[: end + 1]
    assert stopped.stop_reason == "stop"


@pytest.mark.parametrize("as_list", [True, False])
def test_a_stop_string_ends_the_answer_with_the_token_that_completed_it(
    sampler, tokenizer, as_list
):
    params = {"temperature": 1.0, "max_tokens": 40}
    seed, free = next(
        (seed, tokens)
        for seed in range(50)
        if (tokens := tokens_of(sample(sampler, stop=[], seed=seed, **params))[0])
        and tokenizer.decode(tokens[10:12]).isascii()
        and EOS not in tokens
    )
    stop = tokenizer.decode(free[10:12])
    stopped = sample(sampler, stop=[stop] if as_list else stop, seed=seed, **params).sequences[0]
    assert stopped.stop_reason == "stop"
    assert list(stopped.tokens) == free[: len(stopped.tokens)]
    assert len(stopped.tokens) <= 12
    assert tokenizer.decode(stopped.tokens).endswith(stop)


def test_the_end_of_text_stops_unless_stops_are_switched_off(sampler):
    params = {"num_samples": 64, "temperature": 1.0, "seed": 5, "max_tokens": 40}
    ended = [one for one in sample(sampler, **params).sequences if one.stop_reason == "stop"]
    assert ended
    assert all(list(one.tokens).index(EOS) == len(one.tokens) - 1 for one in ended)
    free = sample(sampler, stop=[], **params).sequences
    assert {len(one.tokens) for one in free} == {40}
    assert any(EOS in list(one.tokens) for one in free)


def test_a_seed_decides_the_answer_and_each_of_several_differs(sampler):
    params = {"temperature": 1.0, "stop": []}
    first = tokens_of(sample(sampler, 4, seed=11, **params))
    assert first == tokens_of(sample(sampler, 4, seed=11, **params))
    assert first != tokens_of(sample(sampler, 4, seed=12, **params))
    assert len({tuple(tokens) for tokens in first}) == 4
    unseeded = [tokens_of(sample(sampler, **params))[0] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_top_k_of_one_is_greedy_at_any_temperature(sampler):
    greedy = tokens_of(sample(sampler, stop=[]))
    assert tokens_of(sample(sampler, temperature=5.0, top_k=1, stop=[])) == greedy
    assert tokens_of(sample(sampler, temperature=1.0, top_p=1e-6, stop=[])) == greedy


def test_two_hundred_samples_at_once_all_come_back(sampler):
    futures = [
        sampler.sample(
            tinker.ModelInput.from_ints([1 + index % 200, 7]),
            1,
            tinker.SamplingParams(max_tokens=4, temperature=0.0, stop=[]),
        )
        for index in range(200)
    ]
    answers = [tokens_of(future.result())[0] for future in futures]
    assert [len(tokens) for tokens in answers] == [4] * 200
    assert len({response_id for future in futures for response_id in sequence_ids(future)}) == 200
    again = sampler.sample(
        tinker.ModelInput.from_ints([1 + 57, 7]),
        1,
        tinker.SamplingParams(max_tokens=4, temperature=0.0, stop=[]),
    ).result()
    assert tokens_of(again)[0] == answers[57]


def sequence_ids(future) -> list[str]:
    return [sequence.sequence_id for sequence in future.result().sequences]


def test_saved_weights_answer_by_path_and_unnamed_and_stay_as_they_were(make_run, service):
    run = make_run(seed=21)
    base = tokens_of(sample(service.create_sampling_client(base_model=MODEL).result(), stop=[]))
    train(run, [0, 1, 2])
    path = run.save_weights_for_sampler("now").result().path
    named = service.create_sampling_client(model_path=path).result()
    unnamed = run.save_weights_and_get_sampling_client().result()
    answer = sample(named, stop=[])
    assert tokens_of(answer) == tokens_of(sample(unnamed, stop=[]))
    assert tokens_of(answer) != base
    train(run, [3, 4])
    later = sample(named, stop=[])
    assert tokens_of(later) == tokens_of(answer)
    assert later.sequences[0].logprobs == answer.sequences[0].logprobs


def test_a_pickled_sampler_works_in_another_process(sampler, live_server, tmp_path):
    # SamplingClient pickles its connection, not its key.
    (tmp_path / "sampler.pickle").write_bytes(pickle.dumps(sampler))
    script = (
        "import pickle, sys, tinker\n"
        "sampler = pickle.load(open(sys.argv[1], 'rb'))\n"
        "params = tinker.SamplingParams(max_tokens=12, temperature=0.0, stop=[])\n"
        "prompt = tinker.ModelInput.from_ints([84, 104, 101, 32, 99])\n"
        "print(list(sampler.sample(prompt, 1, params).result().sequences[0].tokens))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "sampler.pickle")],
        env=live_server.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.strip() == str(tokens_of(sample(sampler, stop=[]))[0])


@pytest.mark.parametrize(
    ("prompt", "params", "named"),
    [
        ([], {}, "prompt"),
        ([9999], {}, "9999"),
        ([1] * 600, {}, "512"),
        ([1], {"temperature": -1.0}, "temperature"),
        ([1], {"top_p": 0.0}, "top_p"),
        ([1], {"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_bad_sample_is_refused_at_once(sampler, prompt, params, named):
    with pytest.raises(tinker.BadRequestError, match=named):
        sampler.sample(
            tinker.ModelInput.from_ints(prompt), 1, tinker.SamplingParams(**params)
        ).result()


def test_images_are_refused_by_name(sampler):
    image = tinker.ModelInput(
        chunks=[tinker.types.ImageChunk(data=b"x", format="png", expected_tokens=1)]
    )
    with pytest.raises(tinker.BadRequestError, match="image"):
        sampler.sample(image, 1, tinker.SamplingParams(max_tokens=1)).result()


def test_a_sampler_of_nothing_known_is_refused(service, run):
    with pytest.raises(tinker.BadRequestError, match=MODEL):
        service.create_sampling_client(base_model="org/unknown").result()
    with pytest.raises(tinker.NotFoundError, match="nowhere"):
        service.create_sampling_client(
            model_path=f"tinker://{run.model_id}/sampler_weights/nowhere"
        ).result()
