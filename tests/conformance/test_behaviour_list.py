"""What programs rely on and servers of this kind get wrong, over HTTP, with the real SDK."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import tinker
import zstandard
from sdk_steps import (
    ADAM,
    KEY,
    MODEL,
    OTHER_MODEL,
    adapter_of,
    assert_equal_adapters,
    batch_of,
    datum_of,
    train,
)

PROMPT = tinker.ModelInput.from_ints([5, 17, 200])
GREEDY = tinker.SamplingParams(max_tokens=8, temperature=0.0, stop=[])


def answer_of(sampler) -> tuple[list[int], list[float]]:
    (sequence,) = sampler.sample(PROMPT, 1, GREEDY).result().sequences
    return sequence.tokens, sequence.logprobs


@pytest.fixture
def raw_run(live_server):
    """A run driven by plain HTTP: a function that submits under a number, and its waiter."""
    with live_server.http() as http:
        session = http.post("/create_session", json={"tags": []}).json()["session_id"]
        body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL}
        created = http.post("/create_model", json={**body, "lora_config": {"rank": 2}}).json()
        http.post("/retrieve_future", json=created)

        def submit(seq_id: int, name: str) -> httpx.Response:
            body = {"model_id": f"{session}:train:0", "seq_id": seq_id, "path": name}
            return http.post("/save_weights", json=body)

        def result(submitted: httpx.Response) -> dict:
            assert submitted.status_code == 200, submitted.text
            return http.post("/retrieve_future", json=submitted.json()).json()

        yield submit, result


def test_gaps_are_normal_and_a_lower_number_is_a_repeat_or_refused_for_good(raw_run):
    submit, result = raw_run
    first = submit(3, "a")
    assert "path" in result(first)
    assert "path" in result(submit(900, "b"))
    assert submit(3, "a").json() == first.json()
    late, other = submit(2, "c"), submit(3, "d")
    # Neither 409 nor 429 nor 5xx, which the SDK would repeat.
    assert (late.status_code, other.status_code) == (400, 422)
    assert "900" in late.json()["detail"]
    assert "path" in result(submit(901, "e"))


def test_several_wait_for_one_future_and_one_who_leaves_takes_nothing_along(live_server, make_run):
    run = make_run()
    run.forward_backward(batch_of(200, length=200), "cross_entropy")
    future = run.forward_backward(batch_of(200, length=200), "cross_entropy")
    request_id = f"{run.model_id}#2"

    def poll(patience_s: float) -> int:
        with live_server.http() as http:
            while True:
                answer = http.post(
                    "/retrieve_future", json={"request_id": request_id}, timeout=patience_s
                )
                if answer.status_code not in (404, 408):  # 404: not submitted yet
                    return answer.status_code

    def leave() -> None:
        with pytest.raises(httpx.TimeoutException):
            poll(0.05)

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(poll, 60.0) for _ in range(4)]
        leaving = pool.submit(leave)
        assert len(future.result().loss_fn_outputs) == 200
        assert [one.result() for one in waiting] == [200] * 4
        leaving.result()


@pytest.mark.parametrize("call", ["forward_backward", "optim_step", "asample"])
def test_a_compressed_bomb_and_garbage_are_refused(live_server, call):
    bomb = zstandard.compress(bytes(2**30))
    assert len(bomb) < 100_000
    with live_server.http() as http:
        headers = {"Content-Encoding": "zstd"}
        started = time.monotonic()
        assert http.post(f"/{call}", content=bomb, headers=headers).status_code == 413
        assert time.monotonic() - started < 5.0
        assert http.post(f"/{call}", content=b"none of it", headers=headers).status_code == 400
        unknown = http.post(f"/{call}", content=b"x", headers={"Content-Encoding": "lzma"})
        assert unknown.status_code in (400, 415)


def test_zero_weights_change_nothing_bit_for_bit(make_run, rest):
    run = make_run()
    train(run, [0])
    before = adapter_of(run, rest, "before")
    unweighted = [datum_of([3, 4, 5, 6], [0.0] * 3), datum_of([7, 8], [0.0])]
    fresh = make_run()
    fresh.forward_backward(unweighted, "cross_entropy").result()
    untouched = adapter_of(fresh, rest, "untouched")
    fresh.optim_step(ADAM).result()
    assert_equal_adapters(adapter_of(fresh, rest, "stepped"), untouched)

    other = make_run()
    train(other, [0])
    assert_equal_adapters(adapter_of(other, rest, "other"), before)
    for one, batches in ((run, [unweighted, batch_of(4, seed=1)]), (other, [batch_of(4, seed=1)])):
        for batch in batches:
            one.forward_backward(batch, "cross_entropy").result()
        one.optim_step(ADAM).result()
    assert_equal_adapters(adapter_of(run, rest, "a"), adapter_of(other, rest, "a"))


def test_twins_stay_equal_while_runs_of_other_ranks_train_beside_them(make_run, rest):
    twins = [make_run(rank=3, seed=11) for _ in range(2)]
    others = [make_run(rank=rank, seed=12) for rank in (1, 8)]
    with ThreadPoolExecutor(4) as pool:
        for done in [
            *(pool.submit(train, run, [0, 1, 2, 3]) for run in twins),
            *(pool.submit(train, run, [4, 5, 6, 7]) for run in others),
        ]:
            done.result()
    first, second = (adapter_of(run, rest, "end") for run in twins)
    assert_equal_adapters(first, second)
    assert {array.shape[0] for name, array in first.items() if "lora_A" in name} == {3}
    ranks = [adapter_of(run, rest, "end") for run in others]
    assert [next(a.shape[0] for n, a in one.items() if "lora_A" in n) for one in ranks] == [1, 8]


def test_two_base_models_train_side_by_side_and_keep_their_checkpoints_apart(two_model_server):
    url = two_model_server.url
    rest = tinker.RestClient(base_url=url, api_key=KEY)
    service = tinker.ServiceClient(base_url=url, api_key=KEY)
    runs = [
        service.create_lora_training_client(model, rank=2, seed=3).result()
        for model in (MODEL, OTHER_MODEL)
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: train(run, [0, 1]), runs))
    first, second = (adapter_of(run, rest, "end") for run in runs)
    assert_equal_adapters(first, second)  # the same files under two names
    path = runs[0].save_state("mine").result().path
    with pytest.raises(tinker.BadRequestError, match=OTHER_MODEL):
        service.create_sampling_client(model_path=path, base_model=OTHER_MODEL).result()
    (one,) = rest.list_checkpoints(runs[1].model_id).result().checkpoints
    assert one.checkpoint_type == "external"
    service.close("success").result()


def test_a_custom_loss_that_raises_leaves_the_run_usable(make_run, service, rest):
    run, untouched = make_run(), make_run()
    train(run, [0])
    train(untouched, [0])
    path = run.save_state("safe").result().path

    def raising(data, logprobs):
        raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        run.forward_backward_custom(batch_of(2), raising).result()

    # SDK 0.38 itself closes the client that the loss raised in; the run goes on from its state.
    again = service.create_training_client_from_state_with_optimizer(path).result()
    for one in (again, untouched):
        train(one, [1])
    assert_equal_adapters(adapter_of(again, rest, "a"), adapter_of(untouched, rest, "a"))


def test_sampler_and_training_checkpoints_of_one_name_do_not_touch(make_run, service, rest):
    run = make_run()
    train(run, [0])
    sampler_path = run.save_weights_for_sampler("same").result().path
    early = answer_of(service.create_sampling_client(model_path=sampler_path).result())
    train(run, [1])
    state_path = run.save_state("same").result().path
    run.save_weights_external("same").result()

    rest.delete_checkpoint_from_tinker_path(state_path).result()

    listed = rest.list_checkpoints(run.model_id).result().checkpoints
    kinds = {one.checkpoint_type for one in listed if one.checkpoint_id.endswith("/same")}
    assert kinds == {"sampler", "external"}
    again = service.create_sampling_client(model_path=sampler_path).result()
    assert answer_of(again) == early


def test_deleting_twice_is_404(run, rest):
    path = run.save_state("once").result().path
    rest.delete_checkpoint_from_tinker_path(path).result()
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result()


def test_adapters_sample_independently_and_leave_training_where_it_was(make_run, service, rest):
    runs = [make_run(seed=seed) for seed in (1, 2)]
    for run, seed in zip(runs, (10, 20), strict=True):
        train(run, [seed, seed + 1])
    samplers = [run.save_weights_and_get_sampling_client().result() for run in runs]
    base = service.create_sampling_client(base_model=MODEL).result()
    before = [adapter_of(run, rest, "before") for run in runs]
    alone = [answer_of(sampler) for sampler in (*samplers, base)]
    assert len({tuple(logprobs) for _, logprobs in alone}) == 3
    futures = [s.sample(PROMPT, 1, GREEDY) for _ in range(5) for s in (*samplers, base)]
    for place, future in enumerate(futures):
        (sequence,) = future.result().sequences
        assert sequence.tokens == alone[place % 3][0]
        np.testing.assert_allclose(sequence.logprobs, alone[place % 3][1], atol=1e-5)
    for run, adapter in zip(runs, before, strict=True):
        assert_equal_adapters(adapter_of(run, rest, "after"), adapter)


def test_an_old_snapshot_does_not_move_the_training_weights(make_run, service, rest):
    run, undisturbed = make_run(), make_run()
    train(run, [0])
    old = run.save_weights_for_sampler("old").result().path
    train(run, [1])
    first = answer_of(service.create_sampling_client(model_path=old).result())
    train(run, [2])
    train(undisturbed, [0, 1, 2])
    assert answer_of(service.create_sampling_client(model_path=old).result()) == first
    assert_equal_adapters(adapter_of(run, rest, "end"), adapter_of(undisturbed, rest, "end"))


def test_samples_come_back_while_a_long_batch_trains(make_run, service):
    run = make_run()
    sampler = service.create_sampling_client(base_model=MODEL).result()
    answer_of(sampler)
    long = [run.forward_backward(batch_of(400, length=500), "cross_entropy") for _ in range(3)]
    took = []
    while not long[-1].future().done():
        started = time.monotonic()
        sampler.sample(PROMPT, 1, tinker.SamplingParams(max_tokens=1)).result()
        took.append(time.monotonic() - started)
    for future in long:
        future.result()
    assert len(took) >= 3
    assert np.median(took) < 2.0


def test_a_cancelled_sample_is_ended_on_the_server(service, live_server):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    params = tinker.SamplingParams(max_tokens=500, stop=[])
    future = sampler.sample(PROMPT, 64, params)
    request_id = f"{sampler._sampling_session_id}#0"
    with live_server.http() as http:

        def poll() -> httpx.Response:
            return http.post(
                "/retrieve_future",
                json={"request_id": request_id},
                headers={"X-Tinker-Request-Type": "Future"},
            )

        deadline = time.monotonic() + 10.0
        while poll_is_unknown(http, request_id) and time.monotonic() < deadline:
            time.sleep(0.01)
        future.future().cancel()
        answer = poll()
    assert answer.json() == {"error": "cancelled by its client", "category": "user"}
    assert answer_of(sampler)


def poll_is_unknown(http: httpx.Client, request_id: str) -> bool:
    try:
        answer = http.post("/retrieve_future", json={"request_id": request_id}, timeout=0.2)
    except httpx.TimeoutException:
        return False
    return answer.status_code in (404, 410)
