"""Samplers that follow their run, through the unmodified SDK."""

import tinker
from sdk_steps import KEY, MODEL, adapter_of, assert_equal_adapters, train

# Long enough that keys and values are kept for the next request: stale ones would show.
PROMPT = tinker.ModelInput.from_ints([1 + number % 250 for number in range(7, 77)])
PARAMS = tinker.SamplingParams(max_tokens=8, temperature=0.0, stop=[])


def answer_of(sampler) -> tuple[list[int], list[float]]:
    (sequence,) = sampler.sample(PROMPT, 1, PARAMS).result().sequences
    return list(sequence.tokens), list(sequence.logprobs)


def test_inflight_samplers_go_over_to_the_newest_weights(make_run, rest):
    run, other, undisturbed = make_run(), make_run(seed=8), make_run()
    others = other.save_weights_and_get_sampling_client(kind="inflight").result()
    others_answer = answer_of(others)
    train(run, [0])
    first = run.save_weights_and_get_sampling_client(kind="inflight").result()
    early = run.save_weights_and_get_sampling_client().result()
    at_first = answer_of(first)
    assert at_first == answer_of(early)
    train(run, [1])
    assert answer_of(first) == at_first  # training publishes nothing, a save does

    second = run.save_weights_and_get_sampling_client(kind="inflight").result()

    late = run.save_weights_and_get_sampling_client().result()
    at_second = answer_of(late)
    assert at_second != at_first
    assert [answer_of(one) for one in (first, second, early)] == [at_second, at_second, at_first]
    assert answer_of(others) == others_answer
    train(run, [2])
    train(undisturbed, [0, 1, 2])
    assert_equal_adapters(adapter_of(run, rest, "end"), adapter_of(undisturbed, rest, "end"))
    assert [
        one.checkpoint_type for one in rest.list_checkpoints(run.model_id).result().checkpoints
    ] == ["external"]


def test_an_inflight_sampler_follows_its_run_also_where_its_handle_went(make_run):
    run = make_run()
    sampler = run.save_weights_and_get_sampling_client(kind="inflight").result()
    handle = sampler.get_sampler_handle()
    copy = tinker.SamplingClient.from_sampler_handle(handle, api_key=KEY)
    assert copy.get_base_model() == MODEL
    before = answer_of(copy)
    train(run, [0, 1])
    run.save_weights_and_get_sampling_client(kind="inflight").result()
    assert answer_of(copy) == answer_of(sampler) != before
